"""``train``: the stages of a recipe, with checkpoints that survive any crash.

::

    result = train(recipe, output="runs/first")
    # after Ctrl-C, kill -9 or a power cut: ends with the same weights
    result = train(recipe, output="runs/first", options=TrainOptions(resume=True))

The folder of a run holds ``recipe.json`` (resolved), ``log.jsonl``, ``tensorboard/`` and ``checkpoints/``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splitreg.assembly import SplitModel, build, calibrate
from splitreg.data.augmentations import with_preset
from splitreg.data.loading import Source
from splitreg.data.mixing import check_tasks
from splitreg.data.pasting import check_outlines
from splitreg.errors import RecipeError, TrainingError
from splitreg.evaluation.packets import spread
from splitreg.files import disk_errors, write_json
from splitreg.progress import Progress
from splitreg.recipe import Recipe
from splitreg.registry import Registry, discover
from splitreg.training import devices
from splitreg.training.best import check_best
from splitreg.training.checkpoint import Checkpoints
from splitreg.training.checks import start_advice, training_problems
from splitreg.training.data import DataLoaders, hold_out_validation, open_datasets
from splitreg.training.locking import locked
from splitreg.training.log import RunLog, SilentLog, loggers_of
from splitreg.training.loop import Loop, Position
from splitreg.training.objectives import check_objectives
from splitreg.training.options import TrainOptions
from splitreg.training.parts import check_stage
from splitreg.training.pictures import PREDICTIONS
from splitreg.training.setup import Run
from splitreg.training.teacher import Teacher, as_teacher, copy_parts, open_teacher, student_capabilities

#: Training images from which a bottleneck is set that needs no training, and those whose gradients are taken.
CALIBRATION_IMAGES, PROBES = 32, 8


@dataclass(kw_only=True)
class RunRecord:
    """What happened in a run.

    Args:
        history: one entry per epoch: ``stage``, ``epoch``, ``step``, ``train``, ``val``, ``lr``, ``seconds``.
        warnings: problems that are no errors, one sentence each.
        steps: steps of the whole run.
        resumed_from: step at which this call continued; 0 if it started the run.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    steps: int = 0
    resumed_from: int = 0


@dataclass(kw_only=True)
class TrainResult(RunRecord):
    """Result of ``train``.

    Args:
        model: the trained model with frozen tables, on the device where it was before.
        output: folder of the run.
    """

    model: SplitModel
    output: Path


def train(
    recipe: Recipe,
    output: str | Path,
    *,
    model: SplitModel | None = None,
    teacher: Any = None,
    options: TrainOptions | None = None,
    registry: Registry | None = None,
) -> TrainResult:
    """Train a model through all stages of a recipe. Under ``torchrun``, every process calls it the same way.

    A bottleneck that can be calibrated, such as ``calibrated``, is first set from images for training.

    On the CPU, a run that was stopped at any time and resumed ends with the same weights, bit for bit, as
    one that was not.

    Args:
        recipe: model, data and stages.
        output: folder of the run.
        model: weights to start from; built from the recipe by default.
        teacher: replaces the teacher of the recipe: a ``SplitModel``, a ``Backbone``, or a function from
            images, normalised as for the student, to features by stride.
        options: how to run it.
        registry: the installed plugins, by default.

    Raises:
        TrainingError: the folder holds a run already, the recipe has changed since, a loss is not finite, or
            a file cannot be written.
        TrainingInterrupted: SIGINT or SIGTERM; a checkpoint is written, ``resume`` continues.
        RecipeError: an invalid stage.
        PlanError: an objective compares something that the model or the teacher lacks.
        DataError: a dataset cannot be read.
    """
    options, registry = options or TrainOptions(), registry or discover()
    built = model is None
    if model is None:
        model = build(recipe, registry=registry)
    # The plan fills in targets and labels of the heads; a caller's model may have been built for other data.
    resolved = dataclasses.replace(
        model.recipe, data=recipe.data, augment=recipe.augment, stages=recipe.stages, seed=recipe.seed,
        teacher=recipe.teacher,
    )  # fmt: skip
    if not options.datasets and resolved.data:
        resolved = hold_out_validation(resolved, registry)
    model.plan = dataclasses.replace(model.plan, recipe=resolved)
    loaders = DataLoaders(
        recipe=resolved, datasets=options.datasets or open_datasets(resolved, registry),
        preprocess=model.plan.preprocess, workers=options.workers, augment=options.hooks.find_augment(),
    )  # fmt: skip
    run = Run(
        model=model, recipe=resolved, folder=Path(output), loaders=loaders, registry=registry,
        teacher=_teacher(teacher, resolved, model, registry), hooks=options.hooks,
        advice=tuple(start_advice(resolved, registry)),
    )  # fmt: skip
    if built and (options.replaces_run or not Checkpoints(run.folder / "checkpoints").paths()):
        _calibrate(model, loaders.datasets.train)
    record = execute(run, options)
    model.trained = True
    model.freeze_tables()
    return TrainResult(model=model, output=run.folder, **vars(record))


def _calibrate(model: SplitModel, source: Source) -> None:
    """Set a bottleneck that needs no training from images, if the model has one; see ``assembly.calibrate``."""
    if hasattr(model.bottleneck, "calibrate") and model.prefix is not None:
        images = [source[index].array() for index in spread(len(source), CALIBRATION_IMAGES)]
        calibrate(model, images, probes=PROBES)


def _teacher(value: Any, recipe: Recipe, model: SplitModel, registry: Registry) -> Teacher | None:
    """Return the teacher of a caller, otherwise the recipe's, adapted to the model's images."""
    if value is not None:
        teacher = as_teacher(value)
    elif recipe.teacher is not None:
        teacher = open_teacher(recipe.teacher, model.plan.preprocess.size, registry)
        copy_parts(teacher, model, recipe.teacher.start)
    else:
        return None
    teacher.follow(model.plan.preprocess)
    return teacher


def execute(run: Run, options: TrainOptions) -> RunRecord:
    """Run the remaining stages; see ``train``."""
    _check(run, validated=options.validate_every > 0)
    first = devices.rank() == 0
    with disk_errors(run.folder, TrainingError, "choose another folder"):
        lock = contextlib.ExitStack()
        if first:
            lock.enter_context(locked(run.folder))
    with lock:
        return _execute(run, options, first)


def _execute(run: Run, options: TrainOptions, first: bool) -> RunRecord:
    checkpoints, progress = Checkpoints(run.folder / "checkpoints"), Progress(options.progress and first)
    for split, classes in (("training", run.train_classes), ("validation", run.val_classes)):
        for head, mapping in classes.items():
            if str(mapping):
                progress.print(f"{split} of head {head!r}: {mapping}")
    if first and options.replaces_run:
        checkpoints.clear()
        shutil.rmtree(run.folder / PREDICTIONS, ignore_errors=True)
    state = None if options.replaces_run else _restore(run, checkpoints, progress, options.resume)
    if first:
        path = run.folder / "recipe.json"
        with disk_errors(path, TrainingError, "free some space, or choose another folder"):
            write_json(path, run.recipe.to_mapping())
    position = Position() if state is None else Position(**state["position"])
    resumed_from = position.step
    log = SilentLog(options.on_event) if not first else RunLog(
        run.folder, recipe=run.recipe.to_mapping(), position=0 if state is None else state["log"], step=resumed_from,
        loggers=loggers_of(options), on_event=options.on_event,
    )  # fmt: skip
    home = next((parameter.device for parameter in run.model.parameters()), None)
    loop = Loop(
        run=run, options=options, checkpoints=checkpoints, log=log, progress=progress, position=position
    )  # fmt: skip
    try:
        loop.run_stages(state)
    finally:
        log.close()
    if devices.world_size() > 1:
        devices.leave()
    run.model.to(home).eval()
    return RunRecord(
        history=loop.history, warnings=loop.warnings, steps=position.step, resumed_from=resumed_from
    )  # fmt: skip


def _check(run: Run, *, validated: bool) -> None:
    """Check the stages and their objectives before the first step."""
    if not run.recipe.stages:
        raise RecipeError("the recipe has no stage to train; add for instance stages = [{ epochs = 10 }]")
    problems = training_problems(run.recipe)
    if problems:
        raise RecipeError("; ".join(problems))
    for number, stage in enumerate(run.recipe.stages):
        check_stage(stage.freeze_to, run.model.plan.backbone.meta.stages, f"stages[{number}]: ")
        check_best(stage.best, {name: run.model.head(name) for name in run.model.heads})
        if stage.best and not validated:
            raise RecipeError(
                f"stages[{number}]: best = {stage.best!r} needs validations; remove it, or validate_every = 0 "
                "(--validate-every 0)"
            )
    if run.loaders.mixed:
        augment = with_preset(run.recipe.augment)
        check_tasks({head.name: head.task for head in run.model.plan.heads}, augment)
        if augment.get("copy_paste"):
            source = run.loaders.datasets.train
            check_outlines(source, spread(len(source), CALIBRATION_IMAGES))
    student = student_capabilities(run.model)
    size = run.model.plan.preprocess.size
    teacher = None if run.teacher is None else run.teacher.capabilities(student, size)
    check_objectives(run.recipe.stages, run.model.heads, run.registry, student, teacher)


def _restore(run: Run, checkpoints: Checkpoints, progress: Progress, resume: bool) -> dict[str, Any] | None:
    """Return the state of the newest intact checkpoint; None if the run starts."""
    if not checkpoints.paths():
        return None
    if not resume:
        raise TrainingError(
            f"{run.folder} holds a run already; continue it with --resume, replace it with --overwrite (in Python: "
            "TrainOptions(resume=True) or overwrite=True), or choose another folder with --run"
        )
    state: dict[str, Any]
    state, path, damaged = checkpoints.load()
    for sentence in damaged:
        progress.print(f"{sentence}; going back to {path.name}")
    check_unchanged(_prolonged(state, run.recipe), run.recipe.to_mapping(), path)
    for name, before, now in (
        ("teacher", state.get("teacher", ""), run.teacher.identity if run.teacher else ""),
        ("model", state["base"], run.base),
        ("optimizer, schedule or augment in its hooks", state.get("hooks", {}), run.hooks.identity()),
    ):
        if before != now:
            raise TrainingError(
                f"the run in {run.folder} was started with another {name}, or none; resume it with that one, or "
                "start a new run in another folder"
            )
    return state


def _prolonged(state: dict[str, Any], recipe: Recipe) -> Mapping[str, Any]:
    """Let a run go on for more epochs in its current stage, in later ones, or in the last one if it is complete.

    Args:
        state: of a checkpoint; the position of a complete run is set back to the end of its last stage.
        recipe: the recipe now.

    Returns:
        The recipe of the checkpoint, with the new numbers of epochs where they may grow.
    """
    before: Mapping[str, Any] = state["recipe"]
    position, stages = state["position"], [dict(stage) for stage in before.get("stages", [])]
    if not stages or len(stages) != len(recipe.stages):
        return before
    complete = position["stage"] == len(stages)
    for number in range(len(stages) - 1 if complete else position["stage"], len(stages)):
        epochs, now = stages[number]["epochs"], recipe.stages[number].epochs
        if now > epochs:
            stages[number]["epochs"] = now
            if complete:  # the state of its optimiser was not stored
                position.update(stage=number, epoch=epochs)
    return {**before, "stages": stages}


def check_unchanged(before: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Refuse to resume with another recipe. Only the places of data and teacher may change; see also ``_prolonged``.

    Raises:
        TrainingError: names every key that differs.
    """
    old, new = _flat(before), _flat(json.loads(json.dumps(now)))
    differing = [
        f"{key}: was {old.get(key, 'absent')!r}, is {new.get(key, 'absent')!r}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key) and not _is_place(key)
    ]
    if differing:
        raise TrainingError(
            f"the recipe has changed since {path.name} was written ({'; '.join(differing)}); "
            "resume with the old recipe, or start in another folder (--run)"
        )


def _is_place(key: str) -> bool:
    return key == "teacher.bundle" or (key.startswith("data.") and key.endswith(".root"))


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return nested tables as one table with dotted keys."""
    if isinstance(value, Mapping) and value:
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list | tuple) and value:
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {path: list(value) if isinstance(value, tuple) else value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat.update(_flat(item, f"{path}.{key}" if path else key))
    return flat
