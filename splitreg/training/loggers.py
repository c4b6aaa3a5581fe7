"""Loggers of training: TensorBoard, Weights & Biases, MLflow, and those of other packages, behind one interface.

``log.jsonl`` in the folder of the run always has every number; a logger shows them elsewhere, too.
"""

from __future__ import annotations

import contextlib
import importlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from splitreg.errors import MissingExtra, RecipeError, suggest
from splitreg.registry import extensions
from splitreg.training.hooks import find

#: W&B's project where the environment variable WANDB_PROJECT names none.
PROJECT = "splitreg"


class TrainingLogger(Protocol):
    """Receives the numbers and images of a run, in its first process. Names have parts with slashes."""

    def start(self, folder: Path, recipe: Mapping[str, Any], step: int) -> None:
        """Before the first number.

        Args:
            folder: folder of the run; a logger may keep a file of its own there, to find its run when it is resumed.
            recipe: the resolved recipe as plain tables.
            step: the step after which a run is resumed; 0: it starts. Later numbers are to be replaced.
        """

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Numbers after a step, e.g. ``epoch/val/det/mAP50`` or ``step/train/loss``."""

    def image(self, name: str, path: Path, step: int) -> None:
        """An image of predictions, a JPEG file in the folder of the run."""

    def close(self) -> None:
        """The run has ended, been interrupted, or failed."""


class TensorBoard:
    """Event files in ``tensorboard/`` of the run."""

    def start(self, folder: Path, recipe: Mapping[str, Any], step: int) -> None:
        """Open the files; numbers after ``step`` are dropped."""
        writer = _package("torch.utils.tensorboard", "tensorboard").SummaryWriter
        self._writer = writer(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, name: str, path: Path, step: int) -> None:
        """Write an image."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as image:
            self._writer.add_image(name, np.asarray(image), step, dataformats="HWC")

    def close(self) -> None:
        """Close the files."""
        with contextlib.suppress(OSError):  # a full disk was reported before
            self._writer.close()


class WeightsAndBiases:
    """A run of W&B. Its own environment variables set project, server and mode, e.g. ``WANDB_MODE=offline``."""

    def start(self, folder: Path, recipe: Mapping[str, Any], step: int) -> None:
        """Open the run, or the one of before if the training is resumed."""
        import os

        self._wandb = _package("wandb")
        number = _identity(folder / "wandb-run.txt", step, lambda: uuid.uuid4().hex[:12])
        self._run = self._wandb.init(
            id=number, resume="allow", name=folder.name, dir=str(folder), config=dict(recipe),
            project=os.environ.get("WANDB_PROJECT", PROJECT),
        )  # fmt: skip

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers."""
        self._run.log(dict(values), step=step)

    def image(self, name: str, path: Path, step: int) -> None:
        """Send an image."""
        self._run.log({name: self._wandb.Image(str(path))}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MLflow:
    """A run of MLflow, at ``MLFLOW_TRACKING_URI`` and in ``MLFLOW_EXPERIMENT_NAME``."""

    def start(self, folder: Path, recipe: Mapping[str, Any], step: int) -> None:
        """Open the run, or the one of before if the training is resumed."""
        self._mlflow = _package("mlflow")
        place = folder / "mlflow-run.txt"
        if step and place.is_file():
            self._mlflow.start_run(run_id=place.read_text().strip())
            return
        run = self._mlflow.start_run(run_name=folder.name)
        place.write_text(run.info.run_id + "\n")
        self._mlflow.log_params({name: str(value)[:500] for name, value in _flat(recipe)})

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Send numbers."""
        self._mlflow.log_metrics(dict(values), step=step)

    def image(self, name: str, path: Path, step: int) -> None:
        """Send the file as an artifact."""
        self._mlflow.log_artifact(str(path), name)

    def close(self) -> None:
        """End the run."""
        self._mlflow.end_run()


LOGGERS: Mapping[str, Callable[[], TrainingLogger]] = {
    "tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow,
}  # fmt: skip


def open_loggers(loggers: Sequence[str | TrainingLogger]) -> list[TrainingLogger]:
    """Return loggers.

    Args:
        loggers: objects; names of ``LOGGERS`` or of entry points ``splitreg.logger``; import paths ``"module:name"``. A
            name stands for a class or function without arguments.

    Raises:
        RecipeError: no such logger.
        BrokenComponent: an import path or an entry point fails.
    """
    return [_open(logger) if isinstance(logger, str) else logger for logger in loggers]


def _open(name: str) -> TrainingLogger:
    if name in LOGGERS:
        return LOGGERS[name]()
    names = [*LOGGERS, *extensions("logger")]
    if ":" not in name and name not in names:
        raise RecipeError(f"no logger named {name!r}.{suggest(name, names)} Available: {', '.join(names)}")
    factory: Any = find(name, "logger")
    logger: TrainingLogger = factory()
    return logger


def _package(module: str, package: str = "") -> Any:
    """Import an optional package.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as cause:
        package = package or module
        raise MissingExtra(f"the logger {package} needs the package {package}: pip install {package}") from cause


def _identity(place: Path, step: int, create: Callable[[], str]) -> str:
    """Return the name of a run that a file keeps; a new one if the training starts."""
    if step and place.is_file():
        return place.read_text().strip()
    number = create()
    place.write_text(number + "\n")
    return number


def _flat(value: Any, path: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the values of nested tables with dotted names."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for index, item in enumerate(value):
            yield from _flat(item, f"{path}.{index}")
    else:
        yield path, value
