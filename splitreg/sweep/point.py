"""One point of a sweep: trained in its own folder, whatever happened to it before.

A point's folder holds ``point.json`` (its recipe and settings), ``run/`` (checkpoints, logs), ``bundle/`` and, in the end,
``outcome.json``. ``python -m splitreg.sweep.worker FOLDER`` trains it in a process of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from splitreg.assembly import save
from splitreg.errors import SplitregError, TrainingError, TrainingInterrupted
from splitreg.recipe import Recipe, Stage
from splitreg.sweep.locking import alone
from splitreg.training import TrainOptions, train
from splitreg.training.checkpoint import write_atomically
from splitreg.training.collapse import rate_collapse

#: How a point can end.
DONE, COLLAPSED, FAILED = "done", "collapsed", "failed"
#: Validations in a row without any rate after which a point is given up.
PATIENCE = 2
#: Seconds that a worker whose sweep is gone may take to write its last checkpoint.
LINGER = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a point ended.

    Args:
        status: ``"done"``, ``"collapsed"`` (the rate term won; given up) or ``"failed"``.
        message: why, where it is not done.
        validation: what the last validation found: ``bits`` an image, head -> metric -> value.
        warnings: of the training.
        steps: of the training.
        seconds: of the attempt that ended it.
    """

    status: str
    message: str = ""
    validation: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    steps: int = 0
    seconds: float = 0.0

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """Return how the point of a folder ended; None where it has not."""
        try:
            table = json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
            return cls(**{**table, "warnings": tuple(table["warnings"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Write it into the point's folder."""
        write_atomically(folder / "outcome.json", json.dumps(asdict(self), indent=1).encode() + b"\n")


class Collapsed(TrainingError):
    """The rate has stayed at nothing, so that more training is wasted."""


class Watch:
    """Reads a run's log as it is written, and ends the run where the rate has collapsed.

    Args:
        stages: of the recipe, by which the rate's weight is known.
    """

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        self._weights = {stage.name: stage.rate_lambda for stage in stages}
        self._row = 0
        self.validation: Mapping[str, Any] = {}
        self.step = 0

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Look at one line.

        Raises:
            Collapsed: the rate was at nothing so many validations in a row.
        """
        self.step = line.get("step", self.step)
        if line["event"] != "epoch" or "val" not in line:
            return
        self.validation = line["val"]
        warning = rate_collapse(line["val"]["bits"], self._weights[line["stage"]])
        self._row = self._row + 1 if warning else 0
        if warning and self._row >= PATIENCE:
            raise Collapsed(warning)


def prepare(folder: Path, recipe: Recipe, settings: Mapping[str, Any]) -> None:
    """Write what a worker needs to know: the point's recipe, and options of ``train``."""
    table = {"recipe": recipe.to_mapping(), "settings": dict(settings)}
    write_atomically(folder / "point.json", json.dumps(table, indent=1).encode() + b"\n")


def train_point(folder: Path) -> Outcome:
    """Train the point of a prepared folder, from its newest checkpoint on, and write its bundle.

    Whatever goes wrong with the point itself is its outcome, not an error of this function.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM; the next call goes on.
        TrainingError: another process is training it.
    """
    table = json.loads((folder / "point.json").read_text(encoding="utf-8"))
    recipe, begun = Recipe.from_mapping(table["recipe"]), time.monotonic()
    watch, status, message = Watch(recipe.stages), DONE, ""
    warnings: tuple[str, ...] = ()
    with alone(folder, wait_s=LINGER):
        try:
            options = TrainOptions(resume=True, on_event=watch, **table["settings"])
            result = train(recipe, folder / "run", options=options)
            warnings, watch.step = tuple(result.warnings), result.steps
            last = result.history[-1:]
            save(result.model, folder / "bundle", metrics={"training": last}, overwrite=True)
            watch.validation = watch.validation or (last[0].get("val", {}) if last else {})
            bits = watch.validation.get("bits")
            if bits is not None and (warning := rate_collapse(bits, recipe.stages[-1].rate_lambda)):
                status, message = COLLAPSED, warning
        except TrainingInterrupted:
            raise
        except Collapsed as error:
            status, message = COLLAPSED, str(error)
        except (SplitregError, OSError, RuntimeError, MemoryError) as error:  # torch's are RuntimeErrors: out of memory
            status, message = FAILED, " ".join(f"{_kind(error)}{error}".split())
        outcome = Outcome(
            status=status, message=message, validation=watch.validation, warnings=warnings, steps=watch.step,
            seconds=round(time.monotonic() - begun, 3),
        )  # fmt: skip
        outcome.write(folder)
    return outcome


def _kind(error: BaseException) -> str:
    return "" if isinstance(error, SplitregError) else f"{type(error).__name__}: "
