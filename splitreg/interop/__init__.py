"""Checkpoints of other projects, read without executing code in them."""

from splitreg.interop.importing import Fit, Imported, Misfit, import_checkpoint

__all__ = ["Fit", "Imported", "Misfit", "import_checkpoint"]
