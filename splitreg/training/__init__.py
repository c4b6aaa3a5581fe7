"""Training: stages, objectives, the rate term, checkpoints that survive anything, and heads that come late."""

import splitreg.python311  # noqa: F401
from splitreg.training.data import Datasets, open_datasets, open_split
from splitreg.training.hooks import Callback, Hooks, TrainState
from splitreg.training.late import LateResult, train_late_head
from splitreg.training.options import TrainOptions
from splitreg.training.run import TrainResult, train

__all__ = [
    "Callback", "Datasets", "Hooks", "LateResult", "TrainOptions", "TrainResult", "TrainState", "open_datasets",
    "open_split", "train", "train_late_head",
]  # fmt: skip
