"""One point of a sweep: trained in its own folder, resumed after any interruption.

The folder of a point holds ``point.json`` (its ``PointJob``), ``run/`` (checkpoints, log), ``bundle/`` and, at
the end, ``outcome.json``. ``python -m splitreg.sweep.worker FOLDER`` trains it in a process of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from splitreg.assembly import save
from splitreg.errors import RecipeError, SplitregError, TrainingError, TrainingInterrupted
from splitreg.files import parse_json
from splitreg.recipe import Recipe, Stage
from splitreg.sweep.outcome import COLLAPSED, DONE, FAILED, Outcome, write_table
from splitreg.training import TrainOptions, train
from splitreg.training.collapse import rate_collapse
from splitreg.training.devices import rank
from splitreg.training.locking import locked

#: Consecutive validations without any rate after which a point is stopped.
PATIENCE = 2
#: Seconds that the worker of a dead sweep may need to write its last checkpoint.
MAX_WAIT_S = 60.0

_SETTINGS = ("resume", "device", "workers", "validate_every", "tensorboard", "progress", "pictures", "loggers")


@dataclass(frozen=True, slots=True, kw_only=True)
class PointJob:
    """What a point trains and where its bundle goes.

    Args:
        recipe: recipe of the point, without a sweep.
        bundle: folder of the bundle.
        train: options of the training; ``datasets`` and ``on_event`` are not used, and ``loggers`` must be names.
    """

    recipe: Recipe
    bundle: Path
    train: TrainOptions

    @classmethod
    def read(cls, folder: Path) -> PointJob:
        """Read the job of a point's folder.

        Raises:
            OSError: there is none.
            ValueError, KeyError, TypeError: the file is damaged.
        """
        table = parse_json((folder / "point.json").read_text(encoding="utf-8"))
        return cls(
            recipe=Recipe.from_mapping(table["recipe"]), bundle=folder / table.get("bundle", "bundle"),
            train=TrainOptions(**{**table["settings"], "loggers": tuple(table["settings"].get("loggers", ()))}),
        )  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write it to a point's folder, for a worker.

        Raises:
            RecipeError: a logger is an object.
            TrainingError: the file cannot be written.
        """
        settings = {name: getattr(self.train, name) for name in _SETTINGS}
        for logger in self.train.loggers:
            if not isinstance(logger, str):
                raise RecipeError(
                    f"the points of a sweep run in processes of their own; name the logger {type(logger).__name__} by an "
                    'import path: loggers=("package.module:name",)'
                )
        inside = self.bundle.relative_to(folder) if self.bundle.is_relative_to(folder) else self.bundle
        table = {"recipe": self.recipe.to_mapping(), "settings": settings, "bundle": str(inside)}
        write_table(folder / "point.json", table)


class Collapsed(TrainingError):
    """The rate has stayed at zero, so that more training is wasted."""


class CollapseDetector:
    """Reads the log of a run as it is written, and stops the run if the rate has collapsed.

    Args:
        stages: stages of the recipe, for the weight of the rate.

    Attributes:
        validation: the last validation.
        step: the last step.
    """

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        self._weights = {stage.name: stage.rate_lambda for stage in stages}
        self._collapsed = 0
        self.validation: Mapping[str, Any] = {}
        self.step = 0

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Read one line.

        Raises:
            Collapsed: the rate was zero in ``PATIENCE`` validations in a row.
        """
        self.step = line.get("step", self.step)
        if line["event"] != "epoch" or "val" not in line:
            return
        self.validation = line["val"]
        warning = rate_collapse(line["val"]["bits"], self._weights[line["stage"]])
        self._collapsed = self._collapsed + 1 if warning else 0
        if warning and self._collapsed >= PATIENCE:
            raise Collapsed(warning)


def train_point(folder: Path, job: PointJob | None = None) -> Outcome:
    """Train a point, continuing from its newest checkpoint, and write its bundle and its outcome.

    Errors of the point itself become its outcome; they are not raised.

    Args:
        folder: folder of the point.
        job: what to train; read from the folder by default.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM; the next call continues.
        TrainingError: another process is training it, or the outcome cannot be written.
    """
    job = PointJob.read(folder) if job is None else job
    detector, start = CollapseDetector(job.recipe.stages), time.monotonic()
    first = rank() == 0
    with locked(folder, wait_s=MAX_WAIT_S) if first else contextlib.nullcontext():
        outcome = _train(folder, job, detector)
        outcome = replace(outcome, seconds=round(time.monotonic() - start, 3))
        if first:
            outcome.write(folder)
    return outcome


def _train(folder: Path, job: PointJob, detector: CollapseDetector) -> Outcome:
    try:
        result = train(job.recipe, folder / "run", options=replace(job.train, on_event=detector))
        last = result.history[-1:]
        if rank() == 0:
            save(result.model, job.bundle, metrics={"training": last}, overwrite=True)
    except TrainingInterrupted:
        raise
    except Collapsed as error:
        return Outcome(status=COLLAPSED, message=str(error), validation=detector.validation, steps=detector.step)
    except (SplitregError, OSError, RuntimeError, MemoryError) as error:  # out of memory in torch is a RuntimeError
        name = "" if isinstance(error, SplitregError) else f"{type(error).__name__}: "
        message = " ".join(f"{name}{error}".split())
        return Outcome(status=FAILED, message=message, validation=detector.validation, steps=detector.step)
    validation = detector.validation or (last[0].get("val", {}) if last else {})
    bits = validation.get("bits")
    warning = None if bits is None else rate_collapse(bits, job.recipe.stages[-1].rate_lambda)
    return Outcome(
        status=COLLAPSED if warning else DONE, message=warning or "", validation=validation,
        warnings=tuple(result.warnings), steps=result.steps,
    )  # fmt: skip
