"""``train``: a recipe's stages, one after the other, with checkpoints that any crash leaves usable.

::

    result = train(recipe, output="runs/first")
    result = train(recipe, output="runs/first", resume=True)     # after Ctrl-C, kill -9, a power cut: the same weights

A run's folder holds ``recipe.json`` (resolved), ``log.jsonl``, ``tensorboard/`` and ``checkpoints/`` (the last two).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitreg.errors import RecipeError, TrainingError
from splitreg.recipe import Recipe
from splitreg.registry import Registry, discover
from splitreg.training import devices
from splitreg.training.checkpoint import Checkpoints, write_atomically
from splitreg.training.data import DataLoaders, open_datasets
from splitreg.training.interrupts import Interrupts
from splitreg.training.log import RunLog
from splitreg.training.loop import Loop, Position
from splitreg.training.objectives import check
from splitreg.training.options import TrainOptions
from splitreg.training.progress import Progress
from splitreg.training.teacher import Teacher, as_teacher, begin, open_teacher, student_capabilities

if TYPE_CHECKING:
    from splitreg.assembly import SplitModel


@dataclass(kw_only=True)
class TrainResult:
    """What a run gives.

    Args:
        model: trained, its tables frozen, on the device where it was before.
        output: the run's folder.
        history: one entry an epoch: ``stage``, ``epoch``, ``step``, ``train``, ``val``, ``lr``, ``seconds``.
        warnings: what went wrong without an error, in words.
        steps: steps of the whole run.
        resumed_from: step at which this call continued; 0 if it began.
    """

    model: SplitModel
    output: Path
    history: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    steps: int = 0
    resumed_from: int = 0


def train(
    recipe: Recipe,
    output: str | Path,
    *,
    model: SplitModel | None = None,
    teacher: Any = None,
    options: TrainOptions | None = None,
    registry: Registry | None = None,
) -> TrainResult:
    """Train a model through all stages of a recipe. Under ``torchrun``, every process calls this alike.

    On the CPU a run that was stopped at any moment and resumed ends with bit for bit the weights of one that was not.

    Args:
        recipe: what is trained, on which data, in which stages.
        output: the run's folder.
        model: weights to start from; built from the recipe by default.
        teacher: in place of the recipe's: a ``SplitModel``, a ``Backbone``, or a function from images, normalised as the
            student's are, to features by stride.
        options: how to run it.
        registry: the installed plugins, by default.

    Raises:
        TrainingError: a run is there already, the recipe has changed since, a loss is not finite, or the disk is full.
        TrainingInterrupted: SIGINT or SIGTERM; a checkpoint is written, ``resume`` continues.
        RecipeError: a stage that is not valid.
        PlanError: an objective lacks what it compares, in the model or in the teacher.
        DataError: a dataset that cannot be read.
    """
    options, registry = options or TrainOptions(), registry or discover()
    if model is None:
        from splitreg.assembly import build

        model = build(recipe, registry=registry)
    # The plan fills in the heads' targets and labels; a given model may have been built from another recipe's data.
    resolved = dataclasses.replace(
        model.recipe, data=recipe.data, augment=recipe.augment, stages=recipe.stages, seed=recipe.seed,
        teacher=recipe.teacher,
    )  # fmt: skip
    if teacher is not None:
        teacher = as_teacher(teacher)
    elif recipe.teacher is not None:
        teacher = open_teacher(recipe.teacher, model.plan.preprocess.size, registry)
        begin(model, teacher, recipe.teacher.start)
    if teacher is not None:
        teacher.follow(model.plan.preprocess)
    loaders = DataLoaders(
        recipe=resolved, datasets=options.datasets or open_datasets(resolved, registry),
        preprocess=model.plan.preprocess, workers=options.workers,
    )  # fmt: skip
    run = Run(model=model, recipe=resolved, folder=Path(output), loaders=loaders, registry=registry, teacher=teacher)
    result = run.execute(options)
    model.trained = True
    model.freeze_tables()
    return result


@dataclass(frozen=True, kw_only=True)
class Run:
    """A resolved recipe's stages on one model.

    Args:
        model: what learns; a ``SplitModel``, or one late head with the same interface.
        recipe: resolved.
        folder: of the run.
        loaders: batches to train and validate on.
        registry: for the objectives.
        teacher: for objectives that want one.
        base: digest of what lies under the model and is in no checkpoint: a run is resumed only on the same.
    """

    model: SplitModel
    recipe: Recipe
    folder: Path
    loaders: DataLoaders
    registry: Registry
    teacher: Teacher | None = None
    base: str = ""

    def execute(self, options: TrainOptions) -> TrainResult:
        """Run what is left of the stages; see ``train``."""
        self._check()
        first = devices.rank() == 0
        checkpoints, progress = Checkpoints(self.folder / "checkpoints"), Progress(options.progress and first)
        state = self._restore(checkpoints, progress, options.resume)
        if state is None and first:
            recipe = json.dumps(self.recipe.to_mapping(), indent=1).encode() + b"\n"
            write_atomically(self.folder / "recipe.json", recipe)
        position = Position() if state is None else Position(**state["position"])
        resumed = position.step
        log = RunLog(
            self.folder, position=0 if state is None else state["log"], step=resumed, tensorboard=options.tensorboard,
            on_event=options.on_event, silent=not first,
        )  # fmt: skip
        home = next((parameter.device for parameter in self.model.parameters()), None)
        with Interrupts() as interrupts:
            loop = Loop(
                run=self, options=options, checkpoints=checkpoints, log=log, progress=progress,
                interrupts=interrupts, position=position,
            )  # fmt: skip
            try:
                loop.run_stages(state)
            finally:
                progress.close()
                log.close()
        if devices.world_size() > 1:
            devices.leave()
        self.model.to(home).eval()
        return TrainResult(
            model=self.model, output=self.folder, history=loop.history, warnings=loop.warnings, steps=position.step,
            resumed_from=resumed,
        )  # fmt: skip

    def _check(self) -> None:
        """Check the stages and their objectives before the first step."""
        if not self.recipe.stages:
            raise RecipeError("the recipe has no stage to train; add for instance stages = [{ epochs = 10 }]")
        student = student_capabilities(self.model)
        size = self.model.plan.preprocess.size
        teacher = None if self.teacher is None else self.teacher.capabilities(student, size)
        check(self.recipe.stages, self.model.heads, self.registry, student, teacher)

    def _restore(self, checkpoints: Checkpoints, progress: Progress, resume: bool) -> dict[str, Any] | None:
        """Return the newest complete checkpoint's state; None where the run begins."""
        if not checkpoints.paths():
            return None
        if not resume:
            raise TrainingError(f"{self.folder} holds a run already; resume it, or choose another folder")
        state, path, damaged = checkpoints.load()
        for sentence in damaged:
            progress.say(f"{sentence}; going back to {path.name}")
        check_unchanged(state["recipe"], self.recipe.to_mapping(), path)
        for what, before, now in (
            ("teacher", state.get("teacher", ""), self.teacher.identity if self.teacher else ""),
            ("model", state["base"], self.base),
        ):
            if before != now:
                raise TrainingError(
                    f"the run in {self.folder} began with another {what}, or none; resume it with that one, or start a new "
                    "run in another folder"
                )
        restored: dict[str, Any] = state
        return restored


def check_unchanged(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Refuse to resume with another recipe; where data and teacher lie may change, nothing else.

    Raises:
        TrainingError: names every key that differs.
    """
    old, new = _leaves(before), _leaves(json.loads(json.dumps(now)))
    differing = [
        f"{key}: {old.get(key, 'nothing')!r} then, {new.get(key, 'nothing')!r} now"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not _place(key)
    ]
    if differing:
        raise TrainingError(
            f"the recipe has changed since {path.name} was written ({'; '.join(differing)}); "
            "resume with the old one, or start anew in another folder"
        )


def _place(key: str) -> bool:
    return key == "teacher.bundle" or (key.startswith("data.") and key.endswith(".root"))


def _leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    if isinstance(value, Mapping) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and value:
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {path: list(value) if isinstance(value, tuple) else value}
    found: dict[str, Any] = {}
    for key, item in items:
        found.update(_leaves(item, f"{path}.{key}" if path else key))
    return found
