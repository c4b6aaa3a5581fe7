"""Publishing: exports (ONNX, 8-bit), another codec, a measured copy of a bundle, and verification."""

from splitreg.publishing.int8 import Int8Edge, Int8Options, quantise_edge
from splitreg.publishing.measurement import Measurement
from splitreg.publishing.pushing import push
from splitreg.publishing.release import PublishOptions, export, publish, recode
from splitreg.publishing.targets import edge_source, export_targets
from splitreg.publishing.verification import Check, verify

__all__ = [
    "Check", "Int8Edge", "Int8Options", "Measurement", "PublishOptions", "edge_source", "export",
    "export_targets", "publish", "push", "quantise_edge", "recode", "verify",
]  # fmt: skip
