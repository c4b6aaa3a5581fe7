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
from splitreg.training.data import Datasets, Feeds, open_datasets
from splitreg.training.interrupts import Interrupts
from splitreg.training.log import OnEvent, RunLog
from splitreg.training.loop import Loop, Options, Position
from splitreg.training.objectives import check
from splitreg.training.progress import Progress
from splitreg.training.teacher import as_teacher, begin, offered, open_teacher

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
    *,
    output: str | Path,
    model: SplitModel | None = None,
    resume: bool = False,
    registry: Registry | None = None,
    datasets: Datasets | None = None,
    teacher: Any = None,
    device: str = "auto",
    workers: int = 0,
    validate_every: int = 1,
    checkpoint_seconds: float = 300.0,
    checkpoint_steps: int = 0,
    log_every: int = 50,
    tensorboard: bool = True,
    progress: bool = True,
    on_event: OnEvent | None = None,
) -> TrainResult:
    """Train a model through all stages of a recipe. Under ``torchrun``, every process calls this alike.

    On the CPU a run that was stopped at any moment and resumed ends with bit for bit the weights of one that was not.

    Args:
        recipe: what is trained, on which data, in which stages.
        output: the run's folder.
        model: weights to start from; built from the recipe by default.
        resume: continue the run in ``output`` from its newest whole checkpoint; without one, begin.
        registry: the installed plugins, by default.
        datasets: in place of the recipe's.
        teacher: in place of the recipe's: a ``SplitModel``, a ``Backbone``, or a function from images, normalised as the
            student's are, to features by stride.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        workers: processes that load batches ahead; they change nothing but the time.
        validate_every: epochs between validations; the last epoch of a stage always has one. 0: none.
        checkpoint_seconds: seconds between checkpoints, beside those at the end of every epoch. 0: none.
        checkpoint_steps: the same in steps.
        log_every: steps between lines in the log.
        tensorboard: write event files too, where tensorboard is installed.
        progress: show progress on stderr.
        on_event: called with every line of the log.

    Raises:
        TrainingError: a run is there already, the recipe has changed since, a loss is not finite, or the disk is full.
        TrainingInterrupted: SIGINT or SIGTERM; a checkpoint is written, ``resume`` continues.
        RecipeError: a stage that cannot be.
        PlanError: an objective does not find what it compares, in the model or in the teacher.
        DataError: a dataset that cannot be read.
    """
    registry = registry or discover()
    if model is None:
        from splitreg.assembly import build

        model = build(recipe, registry=registry)
    # heads' targets and labels are filled in by the plan; a given model may have been built from another recipe's data
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
    feeds = Feeds(
        recipe=resolved, datasets=datasets or open_datasets(resolved, registry), preprocess=model.plan.preprocess,
        workers=workers,
    )  # fmt: skip
    options = Options(
        device=device, validate_every=validate_every, checkpoint_seconds=checkpoint_seconds,
        checkpoint_steps=checkpoint_steps, log_every=log_every, teacher=teacher,
    )  # fmt: skip
    result = run_stages(
        model, resolved, Path(output), feeds=feeds, options=options, registry=registry, resume=resume,
        tensorboard=tensorboard, progress=progress, on_event=on_event,
    )  # fmt: skip
    model.trained = True
    model.freeze_tables()
    return result


def run_stages(
    model: SplitModel,
    recipe: Recipe,
    folder: Path,
    *,
    feeds: Feeds,
    options: Options,
    registry: Registry,
    resume: bool,
    tensorboard: bool,
    progress: bool,
    on_event: OnEvent | None,
    base: str = "",
) -> TrainResult:
    """Run a resolved recipe's stages on anything that has a model's ways; see ``train``.

    ``base`` names what lies under it and is in no checkpoint: a run is resumed on the same alone.
    """
    if not recipe.stages:
        raise RecipeError("the recipe has no stage to train; say for instance stages = [{ epochs = 10 }]")
    teacher, student = options.teacher, offered(model)
    said = None if teacher is None else teacher.offer(student, model.plan.preprocess.size)
    check(recipe.stages, model.heads, registry, student, said)
    checkpoints = Checkpoints(folder / "checkpoints")
    first = devices.rank() == 0
    state, talk = None, Progress(progress and first)
    if checkpoints.paths():
        if not resume:
            raise TrainingError(f"{folder} holds a run already; resume it, or choose another folder")
        state, path, damaged = checkpoints.load()
        for sentence in damaged:
            talk.say(f"{sentence}; going back to {path.name}")
        check_unchanged(state["recipe"], recipe.to_mapping(), path)
        if state.get("teacher", "") != (teacher.identity if teacher else ""):
            raise TrainingError(
                f"the run in {folder} began with another teacher, or none; resume it with that, or start anew elsewhere"
            )
        if state["base"] != base:
            raise TrainingError(
                f"the run in {folder} began with another model; resume it with that, or start anew elsewhere"
            )
    elif first:
        write_atomically(folder / "recipe.json", json.dumps(recipe.to_mapping(), indent=1).encode() + b"\n")
    position = Position() if state is None else Position(**state["position"])
    resumed = position.step
    log = RunLog(
        folder, position=0 if state is None else state["log"], step=resumed, tensorboard=tensorboard,
        on_event=on_event, silent=not first,
    )  # fmt: skip
    home = next((parameter.device for parameter in model.parameters()), None)
    with Interrupts() as interrupts:
        loop = Loop(
            model=model, recipe=recipe, registry=registry, feeds=feeds, options=options, checkpoints=checkpoints,
            log=log, progress=talk, interrupts=interrupts, position=position, base=base,
        )  # fmt: skip
        try:
            loop.run(state)
        finally:
            talk.close()
            log.close()
    if devices.world_size() > 1:
        devices.leave()
    model.to(home).eval()
    return TrainResult(
        model=model,
        output=folder,
        history=loop.history,
        warnings=loop.warnings,
        steps=position.step,
        resumed_from=resumed,
    )


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
