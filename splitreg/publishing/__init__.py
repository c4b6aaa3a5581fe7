"""Publishing: exports (ONNX, 8-bit), another codec, the checked copy, and its verification."""

from splitreg.publishing.int8 import Int8Edge, quantise_edge
from splitreg.publishing.release import PublishOptions, export, publish, recode
from splitreg.publishing.verification import Check, verify

__all__ = ["Check", "Int8Edge", "PublishOptions", "export", "publish", "quantise_edge", "recode", "verify"]
