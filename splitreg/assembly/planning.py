"""``plan``: check a recipe and report all mismatches together, before a weight is allocated.

There is one function per part, which returns None if the part has a problem. Parts are built on
torch's meta device, where tensors have shapes but no memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from splitreg.assembly.adapter import StrideAdapter
from splitreg.assembly.groups import part_names
from splitreg.assembly.labels import LABELLED, default_labels
from splitreg.assembly.planned import BackbonePlan, BottleneckPlan, CodecPlan, HeadPlan, Plan
from splitreg.assembly.shapes import Skeleton
from splitreg.coding import Codec
from splitreg.data.classes import match_classes
from splitreg.data.selection import describe_dataset
from splitreg.errors import PlanError, RecipeError, SplitregError, suggest
from splitreg.imaging import Preprocess
from splitreg.interfaces import Backbone, Head
from splitreg.recipe import BottleneckPart, DataPart, HeadPart, Part, Recipe, Stage
from splitreg.registry import Registry, discover
from splitreg.specs import FeatureSpec, SymbolSpec, TargetSpec
from splitreg.tasks import RECONSTRUCTION

#: Codecs to try, in this order, if the recipe names none.
PREFERRED_CODECS = ("rans", "compressai", "zstd", "raw")

#: Target of a head that learns from a teacher only, or not at all.
NO_TARGET = "none"
_IMAGE = FeatureSpec(channels=3, stride=1)
_Targets = Mapping[str, TargetSpec]


class _Problems(list[str]):
    """A list of mismatches.

    Args:
        registry: of the plugins, for errors that come out of their code.
    """

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self._registry = registry
        self._causes: list[Exception] = []

    @contextmanager
    def error_context(self, part: str) -> Iterator[None]:
        """Append an error to the list; the constructor of a plugin may raise anything."""
        try:
            yield
        except PlanError as error:
            self += error.problems
        except SplitregError as error:
            self._causes.append(error)
            self.append(f"{error}{self._origin(error)}")
        except Exception as error:
            self._causes.append(error)
            self.append(f"cannot build {part}: {type(error).__name__}: {error}{self._origin(error)}")

    def error(self) -> PlanError:
        """Return the error that lists the mismatches; its cause are the errors that were collected."""
        error = PlanError(self)
        error.__cause__ = ExceptionGroup("errors while planning", self._causes) if self._causes else None
        return error

    def _origin(self, error: Exception) -> str:
        origin = self._registry.origin(error)
        if origin is None or (isinstance(error, SplitregError) and origin.package == "splitreg"):
            return ""
        return f" ({origin})"


def plan(recipe: Recipe | None = None, *, registry: Registry | None = None, **keys: Any) -> Plan:
    """Check that a recipe's parts fit together; allocates no weight.

    Args:
        recipe: the recipe; or None and its keys, as in
            ``plan(backbone="resnet50", heads=["det", "seg"])``.
        registry: the installed plugins, by default.
        keys: keys of ``Recipe``.

    Raises:
        PlanError: lists every mismatch.
        RecipeError: the keys are not a valid recipe.
    """
    if recipe is not None and keys:
        raise RecipeError(f"pass a recipe or its keys, not both; got a recipe and {', '.join(keys)}")
    recipe, registry = recipe or Recipe.from_mapping(keys), registry or discover()
    problems = _Problems(registry)
    backbone = _backbone(recipe, registry, problems)
    bottleneck = _bottleneck(recipe.bottleneck, backbone, registry, problems)
    codec = _codec(recipe, bottleneck, registry, problems)
    targets = _targets(recipe.data, registry, problems)
    heads = [_head(part, backbone, targets, recipe, registry, problems) for part in recipe.heads]
    _check_stages(recipe, registry, problems)
    if problems or backbone is None or bottleneck is None or codec is None:
        raise problems.error()
    heads_that_fit = tuple(head for head in heads if head is not None)
    skeleton = _skeleton(recipe, backbone, bottleneck, heads_that_fit, problems)
    meta = backbone.meta
    return Plan(
        recipe=_resolved(recipe, backbone, bottleneck, codec, heads_that_fit), registry=registry, backbone=backbone,
        bottleneck=bottleneck, codec=codec, heads=heads_that_fit, skeleton=skeleton,
        preprocess=Preprocess(
            size=recipe.input.size, mode=recipe.input.mode, mean=meta.mean, std=meta.std
        ),
    )  # fmt: skip


def _resolved(
    recipe: Recipe, backbone: BackbonePlan, bottleneck: BottleneckPlan, codec: CodecPlan, heads: Sequence[HeadPlan]
) -> Recipe:
    """Return the recipe with cut, codec, source, targets and labels."""
    return replace(
        recipe,
        cut=backbone.cut,
        codec=codec.part,
        bottleneck=replace(recipe.bottleneck, source=bottleneck.reads),
        heads=tuple(
            replace(part, target=head.target, labels=head.labels)
            for part, head in zip(recipe.heads, heads, strict=True)
        ),
    )


def _backbone(recipe: Recipe, registry: Registry, problems: _Problems) -> BackbonePlan | None:
    part = recipe.backbone
    with problems.error_context(f"backbone {part.name}"):
        component = registry.component("backbone", part.name)
        reserved = {"image_size": recipe.input.size} if "image_size" in component.parameters else {}
        component.check_options(part.options)
        plain = {key: value for key, value in part.options.items() if key != "pretrained"}
        with torch.device("meta"):
            meta: Backbone = component.create(options=plain, reserved=reserved)
        cut = _cut(recipe, meta)
        return BackbonePlan(component=component, options=part.options, reserved=reserved, meta=meta, cut=cut)
    return None


def _cut(recipe: Recipe, backbone: Backbone) -> str:
    """Return the stage to cut after; by default the first at stride 4, as in published systems."""
    if recipe.cut is None:
        return next((name for name, spec in backbone.stages.items() if spec.stride >= 4), next(iter(backbone.stages)))
    if recipe.cut not in backbone.stages:
        raise RecipeError(
            f"no stage {recipe.cut!r} in backbone {recipe.backbone.name}.{suggest(recipe.cut, backbone.stages)} "
            f"Available: {', '.join(backbone.stages)}"
        )
    return recipe.cut


def _bottleneck(
    part: BottleneckPart, backbone: BackbonePlan | None, registry: Registry, problems: _Problems
) -> BottleneckPlan | None:
    with problems.error_context(f"bottleneck {part.name}"):
        component = registry.component("bottleneck", part.name)
        component.check_options(part.options)
        if backbone is None:
            return None
        reads = part.source or component.cls.source_default
        source = _IMAGE if reads == "image" else backbone.target
        with torch.device("meta"):
            meta = component.create(source, backbone.target, options=part.options)
        return BottleneckPlan(
            component=component, options=part.options, reads=reads, source=source, target=backbone.target, meta=meta
        )
    return None


def _codec(
    recipe: Recipe, bottleneck: BottleneckPlan | None, registry: Registry, problems: _Problems
) -> CodecPlan | None:
    part = recipe.codec
    with problems.error_context("codec"):
        if part is None and bottleneck is not None:
            part = _preferred_codec(recipe.bottleneck.name, bottleneck.meta.symbol_spec, registry)
        if part is None:
            return None
        codec = CodecPlan(component=registry.component("codec", part.name), part=part)
        instance = codec.create()
        if bottleneck is not None:
            problems += codec_problems(part.name, instance, recipe.bottleneck.name, bottleneck.meta.symbol_spec)
        return codec
    return None


def _preferred_codec(bottleneck: str, symbols: SymbolSpec, registry: Registry) -> Part:
    for name in PREFERRED_CODECS:
        if name in registry["codec"] and not codec_problems(name, registry.component("codec", name).cls, "", symbols):
            return Part(name=name)
    raise RecipeError(
        f"no codec for the symbols of bottleneck {bottleneck} is installed; tried {', '.join(PREFERRED_CODECS)}"
    )


def _targets(parts: Sequence[DataPart], registry: Registry, problems: _Problems) -> _Targets | None:
    """Return target name -> task and labels of all datasets; None if the recipe has no dataset, or one is wrong."""
    if not parts:
        return None
    targets: dict[str, TargetSpec] = {}
    before = len(problems)
    for part in parts:
        with problems.error_context(f"dataset {part.name}"):
            for name, spec in describe_dataset(part, registry).items():
                if name in targets and targets[name] != spec:
                    problems.append(
                        f"two datasets have target {name!r} with different labels; rename one, as in "
                        f'targets = {{ {name} = "other" }}, and set the target of the heads'
                    )
                targets[name] = spec
    targets.setdefault(RECONSTRUCTION, TargetSpec(task=RECONSTRUCTION))
    return targets if len(problems) == before else None


def _head(
    part: HeadPart,
    backbone: BackbonePlan | None,
    targets: _Targets | None,
    recipe: Recipe,
    registry: Registry,
    problems: _Problems,
) -> HeadPlan | None:
    before = len(problems)
    if hasattr(nn.ModuleDict(), part.name):  # the container of the heads
        problems.append(f"{part.name!r} is reserved and cannot be the name of a head; choose another: {{ as = ... }}")
    with problems.error_context(f"head {part.name}"):
        component = registry.component("head", part.plugin)
        component.check_options(part.options)
        head: type[Head] = component.cls
        target = _target(part, head, targets, problems)
        labels = _labels(part, head, target, targets, recipe.unknown_classes)
        if backbone is None:
            return None
        available = backbone.available
        needs = tuple(head.select(tuple(sorted(available))))
        try:
            adapted = StrideAdapter(available, needs).origin
        except ValueError as error:
            raise RecipeError(f"head {part.name} reads strides {list(needs)}: {error}") from error
        planned = HeadPlan(
            name=part.name, component=component, options=part.options, target=target, task=head.task, labels=labels,
            available=available, needs=needs, adapted=dict(adapted),
        )  # fmt: skip
        if len(problems) == before:
            with torch.device("meta"):
                planned.create(weights=False)
        return planned
    return None


def _target(part: HeadPart, head: type[Head], targets: _Targets | None, problems: _Problems) -> str:
    """Return the name of the target that trains a head."""
    target = part.target or head.task
    if targets is None or target == NO_TARGET:
        return target
    same_task = [name for name, spec in targets.items() if spec.task == head.task]
    if part.target is None and target not in targets and len(same_task) == 1:
        return same_task[0]
    if target not in targets:
        hint = f"Set target to one of {', '.join(same_task)}" if same_task else f"Available: {', '.join(targets)}"
        problems.append(f"head {part.name} needs a target for {head.task}; no dataset has {target!r}. {hint}")
    elif targets[target].task != head.task:
        problems.append(f"head {part.name} is for {head.task}, its target {target!r} is for {targets[target].task}")
    return target


def _labels(part: HeadPart, head: type[Head], target: str, targets: _Targets | None, unknown: str) -> tuple[str, ...]:
    """Return a head's class names: from the recipe, the dataset, or the task's default.

    Raises:
        DataError: the recipe's names and the dataset's do not match.
        RecipeError: there are none.
    """
    if targets is not None and target != NO_TARGET:
        labels = targets[target].labels if target in targets else ()
        if part.labels is not None:
            match_classes(part.name, part.labels, target, labels, unknown)
        return part.labels or labels
    if part.labels is not None:
        return part.labels
    default = default_labels(head.task)
    if default is not None:
        return default
    if head.task in LABELLED:
        raise RecipeError(f"head {part.name} needs class names: set labels = [...], or add a dataset")
    return ()


def _check_stages(recipe: Recipe, registry: Registry, problems: _Problems) -> None:
    names = part_names(head.name for head in recipe.heads)
    for index, stage in enumerate(recipe.stages):
        for name in (*stage.train, *stage.freeze):
            if name not in names:
                problems.append(
                    f"stages[{index}]: no part {name!r}.{suggest(name, names)} Available: {', '.join(names)}"
                )
        _check_objectives(stage, registry, problems)


def _check_objectives(stage: Stage, registry: Registry, problems: _Problems) -> None:
    for objective in stage.objectives:
        with problems.error_context(f"objective {objective.name}"):
            registry.component("objective", objective.name).check_options(objective.options)


def _skeleton(
    recipe: Recipe,
    backbone: BackbonePlan,
    bottleneck: BottleneckPlan,
    heads: Sequence[HeadPlan],
    problems: _Problems,
) -> Skeleton:
    """Build the model on the meta device and run it once."""
    height, width = recipe.input.size
    with problems.error_context(f"the model at {height}x{width} pixels"), torch.device("meta"):
        prefix, body = backbone.meta.split(backbone.cut)
        skeleton = Skeleton(
            prefix=prefix, bottleneck=bottleneck.meta, body=body, from_image=bottleneck.reads == "image",
            branches={head.name: head.create(weights=False) for head in heads},
        )  # fmt: skip
        _run(recipe, skeleton, backbone.target)
        return skeleton
    raise problems.error()


def _run(recipe: Recipe, skeleton: Skeleton, target: FeatureSpec) -> None:
    size = recipe.input.size
    with torch.no_grad():
        shapes = skeleton.shapes(size)
        if min(shapes.latent) < 1:
            raise RecipeError(f"input size {size[0]}x{size[1]} is too small: the latent is {shapes.latent}")
        restored = skeleton.bottleneck.synthesise(torch.empty((1, *shapes.latent)))
        feature = (target.channels, *shapes.feature)
        if restored.shape[1] != feature[0] or restored.shape[2] < feature[1] or restored.shape[3] < feature[2]:
            raise RecipeError(
                f"bottleneck {recipe.bottleneck.name} must restore at least the feature at the cut, {feature}; it restores "
                f"{tuple(restored.shape[1:])}"
            )
        features = skeleton.body(torch.empty((1, *feature)))
        for branch in skeleton.branches.values():
            branch(features, size)


def codec_problems(codec_name: str, codec: Codec | type[Codec], bottleneck: str, symbols: SymbolSpec) -> list[str]:
    """Return why a codec cannot code a bottleneck's symbols; an empty list if it can."""
    prefix = f"codec {codec_name} cannot code the symbols of bottleneck {bottleneck}: "
    problems = []
    if codec.needs_tables and not symbols.tables:
        problems.append(prefix + "it needs frequency tables, the bottleneck has none")
    if codec.max_bits and not 0 < symbols.bits <= codec.max_bits:
        bits = f"{symbols.bits} bits" if symbols.bits else "any 32-bit integer"
        problems.append(prefix + f"it is limited to {codec.max_bits} bits per symbol, these are {bits}")
    if not codec.lossless and symbols.exact:
        problems.append(prefix + "it is lossy, these symbols need a lossless codec")
    return problems
