"""Options of a training run that are not part of its recipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from splitreg.training.hooks import Hooks

if TYPE_CHECKING:
    from splitreg.training.data import Datasets
    from splitreg.training.loggers import TrainingLogger

OnEvent = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """Options of ``train`` and ``train_late_head``. Only ``datasets`` and ``hooks`` have an influence on the weights.

    Args:
        resume: continue the run in the output folder from its newest checkpoint; without one, start.
        overwrite: replace a run that the output folder holds; not with ``resume``.
        datasets: replaces the datasets of the recipe.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        workers: data loading processes; 0 loads in the training process.
        validate_every: epochs between validations; the last epoch of a stage is always validated. 0: never.
        checkpoint_seconds: seconds between checkpoints within an epoch. 0: only at the end of an epoch.
        checkpoint_steps: steps between checkpoints within an epoch. 0: only at the end of an epoch.
        log_every: steps between lines in the log.
        tensorboard: write TensorBoard event files too, if the package is installed.
        loggers: ``"wandb"``, ``"mlflow"``, others by name or import path, or objects; see ``splitreg.training.loggers``.
        pictures: number of validation images whose predictions are drawn at each validation; 0: none.
        progress: show progress on stderr.
        on_event: called with each line of the log.
        hooks: callbacks, and an own optimiser, schedule or augmentation.
    """

    resume: bool = False
    overwrite: bool = False
    datasets: Datasets | None = None
    device: str = "auto"
    workers: int = 0
    validate_every: int = 1
    checkpoint_seconds: float = 300.0
    checkpoint_steps: int = 0
    log_every: int = 50
    tensorboard: bool = True
    loggers: tuple[str | TrainingLogger, ...] = ()
    pictures: int = 0
    progress: bool = True
    on_event: OnEvent | None = None
    hooks: Hooks = field(default_factory=Hooks)

    @property
    def replaces_run(self) -> bool:
        """Whether a run that the folder holds is replaced."""
        return self.overwrite and not self.resume
