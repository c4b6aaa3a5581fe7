"""The device's runtime: pictures to packets with numpy and an ONNX runtime, and to a service and back; no torch."""

import importlib
import typing

from splitreg.edge.encoder import EdgeEncoder
from splitreg.edge.half import EdgeHalf
from splitreg.edge.info import describe
from splitreg.edge.runtimes import RUNTIMES, Network, load_network, onnx_session

if typing.TYPE_CHECKING:
    from splitreg.edge.answer import Answer, Drained, Times
    from splitreg.edge.client import Client
    from splitreg.edge.link import LinkEstimate
    from splitreg.edge.outbox import Outbox
    from splitreg.edge.sources import frames

# Encoding alone needs neither HTTP nor a database, and a device that starts for one picture pays for each import.
_HOMES = {
    "Answer": "answer", "Client": "client", "Drained": "answer", "LinkEstimate": "link", "Outbox": "outbox",
    "Times": "answer", "frames": "sources",
}  # fmt: skip

__all__ = [
    "RUNTIMES",
    "Answer",
    "Client",
    "Drained",
    "EdgeEncoder",
    "EdgeHalf",
    "LinkEstimate",
    "Network",
    "Outbox",
    "Times",
    "describe",
    "frames",
    "load_network",
    "onnx_session",
]


def __getattr__(name: str) -> typing.Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"splitreg.edge.{_HOMES[name]}"), name)
    return found
