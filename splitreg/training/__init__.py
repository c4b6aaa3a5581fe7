"""Training: stages, objectives, the rate term, checkpoints that survive anything, and heads that come late."""

from typing import TYPE_CHECKING

import splitreg.python311  # noqa: F401
from splitreg.lazy import lazy_exports

if TYPE_CHECKING:
    from splitreg.training.context import ContextOptions, fit_context
    from splitreg.training.data import Datasets, open_datasets, open_split
    from splitreg.training.hooks import Callback, Hooks, TrainState
    from splitreg.training.late import LateResult, train_late_head
    from splitreg.training.options import TrainOptions
    from splitreg.training.run import TrainResult, train

__all__ = [
    "Callback", "ContextOptions", "Datasets", "Hooks", "LateResult", "TrainOptions", "TrainResult", "TrainState",
    "fit_context", "open_datasets", "open_split", "train", "train_late_head",
]  # fmt: skip

# A recipe is checked without the libraries that train it.
__getattr__, __dir__ = lazy_exports(__name__, {
    "Callback": "splitreg.training.hooks", "Datasets": "splitreg.training.data", "Hooks": "splitreg.training.hooks",
    "ContextOptions": "splitreg.training.context", "fit_context": "splitreg.training.context",
    "LateResult": "splitreg.training.late", "TrainOptions": "splitreg.training.options",
    "TrainResult": "splitreg.training.run", "TrainState": "splitreg.training.hooks",
    "open_datasets": "splitreg.training.data", "open_split": "splitreg.training.data",
    "train": "splitreg.training.run", "train_late_head": "splitreg.training.late",
})  # fmt: skip
