"""Checkpoints of other projects, read without executing code in them."""

from splitreg.interop.importing import Fit, Imported, Misfit, import_checkpoint
from splitreg.interop.weights_file import WeightsFile, import_weights

__all__ = ["Fit", "Imported", "Misfit", "WeightsFile", "import_checkpoint", "import_weights"]
