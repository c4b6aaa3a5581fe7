"""The conformance suites: what every plugin of a kind must do, as tests that anybody can inherit.

In a plugin's own tests::

    from splitreg.testing import CodecSuite

    class TestMyCodec(CodecSuite):
        component = "my-codec"
        options = {"level": 1}

pytest finds one test a check. Without pytest: ``run("codec", "my-codec")``, or ``splitreg check codec:my-codec``.

Beside them ``Link``: a bad link between a client and a server (no torch).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splitreg.testing.backbone import BackboneSuite
    from splitreg.testing.bottleneck import BottleneckSuite
    from splitreg.testing.codec import CodecSuite
    from splitreg.testing.dataset import DatasetSuite
    from splitreg.testing.head import HeadSuite
    from splitreg.testing.link import PRESETS, Link, Profile
    from splitreg.testing.objective import ObjectiveSuite
    from splitreg.testing.runner import Result, run
    from splitreg.testing.suite import Suite

_HOMES = {
    "BackboneSuite": "backbone", "BottleneckSuite": "bottleneck", "CodecSuite": "codec", "DatasetSuite": "dataset",
    "HeadSuite": "head", "Link": "link", "ObjectiveSuite": "objective", "PRESETS": "link", "Profile": "link",
    "Result": "runner", "Suite": "suite", "run": "runner",
}  # fmt: skip

__all__ = [
    "PRESETS",
    "BackboneSuite",
    "BottleneckSuite",
    "CodecSuite",
    "DatasetSuite",
    "HeadSuite",
    "Link",
    "ObjectiveSuite",
    "Profile",
    "Result",
    "Suite",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"splitreg.testing.{_HOMES[name]}"), name)
