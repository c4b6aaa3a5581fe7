"""What a training run may be told beside its recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from splitreg.training.data import Datasets

OnEvent = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Everything that ``train`` and ``train_late_head`` share; nothing here changes the weights but ``datasets``.

    Args:
        resume: continue the run in the output folder from its newest complete checkpoint; without one, begin.
        datasets: in place of the recipe's.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        workers: processes that load batches ahead.
        validate_every: epochs between validations; the last epoch of a stage always has one. 0: none.
        checkpoint_seconds: seconds between checkpoints, beside those at the end of every epoch. 0: none.
        checkpoint_steps: the same in steps.
        log_every: steps between lines in the log.
        tensorboard: write event files too, where tensorboard is installed.
        progress: show progress on stderr.
        on_event: called with every line of the log.
    """

    resume: bool = False
    datasets: Datasets | None = None
    device: str = "auto"
    workers: int = 0
    validate_every: int = 1
    checkpoint_seconds: float = 300.0
    checkpoint_steps: int = 0
    log_every: int = 50
    tensorboard: bool = True
    progress: bool = True
    on_event: OnEvent | None = None
