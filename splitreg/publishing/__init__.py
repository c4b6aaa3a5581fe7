"""What is published: a folder of safetensors and JSON; written whole or not at all, checked on every read."""

from splitreg.publishing.bundle import load, load_edge, load_server, save
from splitreg.publishing.imports import Fit, Imported, Misfit, import_checkpoint
from splitreg.publishing.int8 import Int8Edge, quantise_edge
from splitreg.publishing.release import publish, recode
from splitreg.publishing.replay import Check, verify

__all__ = [
    "Check", "Fit", "Imported", "Int8Edge", "Misfit", "import_checkpoint", "load", "load_edge", "load_server",
    "publish", "quantise_edge", "recode", "save", "verify",
]  # fmt: skip
