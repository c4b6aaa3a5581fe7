"""Checks of a recipe's training before anything is built: every problem is reported at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from splitreg.assembly import SplitModel
from splitreg.assembly.planned import Plan
from splitreg.assembly.planning import plan
from splitreg.checkpoints import is_remote
from splitreg.data.augmentations import with_preset
from splitreg.data.mixing import check_tasks
from splitreg.errors import PlanError, RecipeError, SplitregError
from splitreg.recipe import Recipe, Stage
from splitreg.registry import Registry, discover
from splitreg.training.best import check_best
from splitreg.training.data import augmentation, hold_out_validation, open_split
from splitreg.training.optimizers import optimizer
from splitreg.training.parts import check_stage
from splitreg.training.schedules import schedule


def check_recipe(recipe: Recipe, registry: Registry | None = None) -> Plan:
    """Plan a model and check everything that its training needs; allocates no weight.

    Args:
        recipe: the recipe. Datasets with a folder are opened; no image is read.
        registry: the installed plugins, by default.

    Returns:
        The plan.

    Raises:
        PlanError: lists every mismatch of the model, every unknown key of augmentation, optimiser, schedule and
            sweep, and every missing file and split.
    """
    registry = registry or discover()
    problems: list[str] = []
    planned = None
    try:
        planned = plan(recipe, registry=registry)
    except PlanError as error:
        problems += error.problems
    problems += training_problems(recipe)
    problems += [*_missing_weights(recipe), *_sweep_problems(recipe, registry)]
    if planned is not None:
        tasks = {head.name: head.task for head in planned.heads}
        problems += _problems(lambda: check_tasks(tasks, with_preset(recipe.augment)))
        names = planned.backbone.meta.stages
        heads = {name: branch.head for name, branch in planned.skeleton.branches.items()}
        for number, stage in enumerate(recipe.stages):
            problems += _problems(partial(check_stage, stage.freeze_to, names, f"stages[{number}]: "))
            problems += _problems(partial(check_best, stage.best, heads), f"stages[{number}]: ")
        problems += _data_problems(recipe, registry)
    if problems or planned is None:
        raise PlanError(list(dict.fromkeys(problems)))
    return planned


def training_problems(recipe: Recipe) -> list[str]:
    """Return what is wrong with the augmentation and the stages of a recipe, one sentence each."""
    checks: list[tuple[str, Any]] = [("", lambda: augmentation(recipe.augment))]
    for number, stage in enumerate(recipe.stages):
        checks += [(f"stages[{number}]: ", check) for check in _stage_checks(stage)]
    return [problem for prefix, check in checks for problem in _problems(check, prefix)]


def start_advice(recipe: Recipe, registry: Registry) -> Iterator[str]:
    """Yield what a user should know before a training: what is thrown away, and what measures nothing.

    Args:
        recipe: resolved.
        registry: the installed plugins.
    """
    weights = recipe.backbone.options.get("pretrained")
    if weights and recipe.bottleneck.source == "image":
        yield (
            f"bottleneck {recipe.bottleneck.name} reads the image and replaces the pretrained stages up to {recipe.cut}; "
            'from = "feature" keeps them: bottleneck = { name = "fp", from = "feature", encoder = "light" }'
        )
    for part in recipe.data:
        if part.train == part.val:
            yield f"dataset {part.name!r} is validated on its images for training ({part.val!r}): the metrics are too good"
    for stage in recipe.stages:
        if stage.best and 1 < stage.epochs <= stage.rate_warmup:
            yield (
                f"stage {stage.name}: rate_warmup ({stage.rate_warmup:g}) covers all {stage.epochs} epochs, and best counts "
                "only epochs after it: the last weights are kept; lower rate_warmup"
            )


def check_same_model(recipe: Recipe, model: SplitModel, registry: Registry | None = None) -> None:
    """Check that a recipe describes the model that a training continues.

    Args:
        recipe: the recipe; its weights of the backbone are not used.
        model: of a bundle.
        registry: the installed plugins, by default.

    Raises:
        RecipeError: lists every difference: backbone, cut, bottleneck, codec, input, heads and their options.
    """
    registry = registry or discover()
    wanted, there = _described(plan(recipe, registry=registry).recipe, registry), _described(model.recipe, registry)
    for head in recipe.heads:
        if head.labels is None:  # classes are matched by name
            wanted.pop(f"heads.{head.name}.labels", None)
            there.pop(f"heads.{head.name}.labels", None)
    differences = [
        f"{key} is {there.get(key, 'absent')!r} in the bundle and {wanted.get(key, 'absent')!r} in the recipe"
        for key in sorted({*wanted, *there})
        if wanted.get(key) != there.get(key)
    ]
    if differences:
        raise RecipeError(
            f"the recipe describes another model than the bundle: {'; '.join(differences)}. Change the recipe (--set), "
            "or train without --from"
        )


def _described(recipe: Recipe, registry: Registry) -> dict[str, Any]:
    """Return what makes a model, as one table; options that are not set have their defaults."""
    values: dict[str, Any] = {"cut": recipe.cut, "input.size": recipe.input.size, "input.mode": recipe.input.mode}
    parts = [("backbone", recipe.backbone.name, "backbone", recipe.backbone.options)]
    parts += [("bottleneck", recipe.bottleneck.name, "bottleneck", recipe.bottleneck.options)]
    parts += [("codec", recipe.codec.name, "codec", recipe.codec.options)] if recipe.codec else []
    parts += [("head", head.plugin, f"heads.{head.name}", head.options) for head in recipe.heads]
    for kind, name, place, options in parts:
        values[f"{place}.name"] = name
        defaults = registry.component(kind, name).options
        for key, value in {**defaults, **options}.items():
            values[f"{place}.{key}"] = tuple(value) if isinstance(value, list) else value
    values["bottleneck.from"] = recipe.bottleneck.source
    values.update({f"heads.{head.name}.labels": head.labels for head in recipe.heads})
    return {key: value for key, value in values.items() if not key.endswith(".pretrained")}


def _stage_checks(stage: Stage) -> list[Any]:
    chosen = stage.optimizer
    return [
        lambda: optimizer(chosen.name, chosen.options, [torch.zeros(1, requires_grad=True)]),
        lambda: schedule(stage.schedule.name, stage.schedule.options, steps=1, per_epoch=1),
    ]


def _problems(check: Any, prefix: str = "") -> Iterator[str]:
    """Call a check, and yield the message of its error."""
    try:
        check()
    except PlanError as error:
        yield from (prefix + problem for problem in error.problems)
    except SplitregError as error:
        yield f"{prefix}{error}"


def _missing_weights(recipe: Recipe) -> Iterator[str]:
    parts = [("backbone", recipe.backbone.name, recipe.backbone.options)]
    parts += [("head", head.name, head.options) for head in recipe.heads]
    for kind, name, options in parts:
        weights = options.get("pretrained")
        if isinstance(weights, str) and not is_remote(weights) and not Path(weights).is_file():
            yield f"{kind} {name}: there is no file of weights {weights}"


def _sweep_problems(recipe: Recipe, registry: Registry) -> Iterator[str]:
    """Yield the problems of each value of a sweep, with the other keys as in the recipe."""
    alone = _problems_of_point(replace(recipe, sweep={}), registry)
    for key, values in recipe.sweep.items():
        for value in values:
            for problem in _point_problems(recipe, key, value, registry):
                if problem not in alone:
                    yield f"sweep: {key} = {value!r}: {problem}"


def _point_problems(recipe: Recipe, key: str, value: Any, registry: Registry) -> list[str]:
    try:
        ((_, point),) = replace(recipe, sweep={key: [value]}).points()
    except SplitregError as error:
        return [str(error)]
    return _problems_of_point(point, registry)


def _problems_of_point(recipe: Recipe, registry: Registry) -> list[str]:
    return [*_problems(lambda: plan(recipe, registry=registry)), *training_problems(recipe)]


def _data_problems(recipe: Recipe, registry: Registry) -> Iterator[str]:
    """Yield what is missing of the datasets that have a folder."""
    if recipe.data and all(part.root is not None for part in recipe.data):
        for split in ("train", "val"):
            yield from _problems(lambda split=split: open_split(hold_out_validation(recipe, registry), split, registry))
