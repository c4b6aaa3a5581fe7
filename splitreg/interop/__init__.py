"""Checkpoints of other projects, read without running anything that is in them."""

from splitreg.interop.importing import Fit, Imported, Misfit, import_checkpoint

__all__ = ["Fit", "Imported", "Misfit", "import_checkpoint"]
