"""The device's runtime: images to packets with numpy and an ONNX runtime, and the client of a server; no torch."""

from typing import TYPE_CHECKING

from splitreg.lazy import lazy_exports

if TYPE_CHECKING:
    from splitreg.edge.answer import Answer, DrainReport, Times
    from splitreg.edge.client import Client
    from splitreg.edge.encoder import EdgeEncoder, read_coding
    from splitreg.edge.escalation import EscalatingClient, LocalAnswer, LocalHead
    from splitreg.edge.half import EdgeHalf
    from splitreg.edge.info import describe, describe_machine
    from splitreg.edge.link import LinkEstimate
    from splitreg.edge.options import ClientOptions
    from splitreg.edge.outbox import Outbox
    from splitreg.edge.runtimes import RUNTIMES, Network, load_network, onnx_session, openvino_core
    from splitreg.edge.source_options import SourceOptions
    from splitreg.edge.sources import Frame, FrameSource, TimedImage, frames, open_source, timed_images
    from splitreg.edge.stream import EdgeStream, StreamOptions
    from splitreg.edge.targets import EdgeSource, ExportedTarget, ExportTarget, Runner
    from splitreg.edge.uploading import UploadReport, upload

__all__ = [
    "RUNTIMES", "Answer", "Client", "ClientOptions", "DrainReport", "EdgeEncoder", "EdgeHalf", "EdgeSource",
    "EdgeStream", "EscalatingClient", "ExportTarget", "ExportedTarget", "Frame", "FrameSource", "LinkEstimate",
    "LocalAnswer", "LocalHead", "Network", "Outbox", "Runner", "SourceOptions", "StreamOptions", "TimedImage",
    "Times", "UploadReport", "describe", "describe_machine", "frames", "load_network", "onnx_session",
    "open_source", "openvino_core", "read_coding", "timed_images", "upload",
]  # fmt: skip

# Encoding needs neither HTTP nor a database, and a device that starts for one image pays for each import.
__getattr__, __dir__ = lazy_exports(__name__, {
    "RUNTIMES": "splitreg.edge.runtimes", "Answer": "splitreg.edge.answer", "Client": "splitreg.edge.client",
    "ClientOptions": "splitreg.edge.options", "DrainReport": "splitreg.edge.answer",
    "EdgeEncoder": "splitreg.edge.encoder", "read_coding": "splitreg.edge.encoder",
    "EscalatingClient": "splitreg.edge.escalation", "LocalAnswer": "splitreg.edge.escalation",
    "LocalHead": "splitreg.edge.escalation",
    "EdgeStream": "splitreg.edge.stream", "StreamOptions": "splitreg.edge.stream", "EdgeHalf": "splitreg.edge.half",
    "LinkEstimate": "splitreg.edge.link", "Network": "splitreg.edge.runtimes", "Outbox": "splitreg.edge.outbox",
    "EdgeSource": "splitreg.edge.targets", "ExportTarget": "splitreg.edge.targets",
    "ExportedTarget": "splitreg.edge.targets", "Runner": "splitreg.edge.targets",
    "Times": "splitreg.edge.answer", "UploadReport": "splitreg.edge.uploading", "describe": "splitreg.edge.info",
    "describe_machine": "splitreg.edge.info",
    "Frame": "splitreg.edge.sources", "FrameSource": "splitreg.edge.sources",
    "SourceOptions": "splitreg.edge.source_options", "TimedImage": "splitreg.edge.sources",
    "timed_images": "splitreg.edge.sources", "open_source": "splitreg.edge.sources",
    "frames": "splitreg.edge.sources", "load_network": "splitreg.edge.runtimes",
    "onnx_session": "splitreg.edge.runtimes", "openvino_core": "splitreg.edge.runtimes", "upload": "splitreg.edge.uploading",
})  # fmt: skip
