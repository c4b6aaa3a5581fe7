"""The plan: every mismatch of a recipe, found and reported together before one weight is allocated.

Parts are built on torch's meta device, where tensors have shapes and no memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from splitreg.assembly.branch import Branch, Pyramid
from splitreg.assembly.labels import LABELLED, default_labels
from splitreg.assembly.shapes import Cost, Shapes, Skeleton
from splitreg.errors import PlanError, RecipeError, SplitregError, near
from splitreg.imaging import Preprocess
from splitreg.interfaces import Backbone, Bottleneck, Codec, Head
from splitreg.recipe import BottleneckPart, HeadPart, Part, Recipe
from splitreg.registry import Registry, discover
from splitreg.specs import FeatureSpec, SymbolSpec, TargetSpec
from splitreg.tasks import RECONSTRUCTION

#: Codecs that are tried in this order where the recipe names none.
PREFERRED_CODECS = ("rans", "compressai", "zstd", "raw")

#: Names of what a stage can train or freeze; ``heads.NAME`` comes with the heads.
GROUPS = ("all", "edge", "server", "prefix", "encoder", "decoder", "prior", "body", "heads")

_IMAGE = FeatureSpec(channels=3, stride=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPlan:
    """A head that fits.

    Args:
        name: its own name.
        make: class, to be called with (features, labels, **options).
        target: name of the dataset's target that trains it.
        task: what it does.
        labels: class names.
        features: stride -> what it reads.
        adapted: missing stride -> stride from which the adapter makes it.
    """

    name: str
    make: type[Head]
    options: Mapping[str, Any]
    target: str
    task: str
    labels: tuple[str, ...]
    available: Mapping[int, FeatureSpec]
    needs: tuple[int, ...]
    adapted: Mapping[int, int]

    def build(self) -> Branch:
        """Allocate the head and its adapter."""
        adapter = Pyramid(self.available, self.needs) if self.adapted else None
        specs = adapter.specs if adapter else {stride: self.available[stride] for stride in self.needs}
        head = self.make(specs, self.labels, **self.options)
        head.needs = self.needs
        return Branch(head, adapter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A recipe whose parts fit together, with everything resolved.

    Args:
        recipe: the resolved recipe: cut, codec, what the bottleneck reads, targets and labels are filled in.
        preprocess: picture to network input.
        stages: the backbone's stages.
        source: what the bottleneck reads.
        target: the feature at the cut.
        latent: channels and stride of the latent.
        symbols: what the symbols are.
        heads: the heads, in the recipe's order.
        skeleton: the model on the meta device.
    """

    recipe: Recipe
    registry: Registry
    preprocess: Preprocess
    stages: Mapping[str, FeatureSpec]
    source: FeatureSpec
    target: FeatureSpec
    latent: FeatureSpec
    symbols: SymbolSpec
    heads: tuple[HeadPlan, ...]
    skeleton: Skeleton
    make_backbone: Callable[[bool], Backbone]
    make_bottleneck: Callable[[], Bottleneck]
    make_codec: Callable[[], Codec]

    @property
    def shapes(self) -> Shapes:
        """Latent and feature sizes at the recipe's input size."""
        return self.skeleton.shapes(self.recipe.input.size)

    def costs(self) -> dict[str, Cost]:
        """Parameters, MACs and memory of each part at the recipe's input size."""
        return self.skeleton.costs(self.recipe.input.size)

    def to_json(self) -> dict[str, Any]:
        """Return the plan and its size table as plain data."""
        shapes, codec = self.shapes, self.recipe.codec
        return {
            "backbone": self.recipe.backbone.name,
            "cut": self.recipe.cut,
            "stages": {name: {"channels": s.channels, "stride": s.stride} for name, s in self.stages.items()},
            "bottleneck": self.recipe.bottleneck.to_mapping(),
            "codec": codec.name if codec else None,
            "input": list(self.recipe.input.size),
            "latent": list(shapes.latent),
            "feature": [self.target.channels, *shapes.feature],
            "heads": {
                head.name: {
                    "plugin": part.plugin, "task": head.task, "target": head.target, "classes": len(head.labels),
                    "reads": list(head.needs), "adapter": {str(k): v for k, v in head.adapted.items()},
                }
                for head, part in zip(self.heads, self.recipe.heads, strict=True)
            },
            "costs": {
                name: {"parameters": cost.parameters, "macs": cost.macs, "peak_bytes": cost.peak_bytes}
                for name, cost in self.costs().items()
            },
        }  # fmt: skip


def plan(recipe: Recipe | None = None, *, registry: Registry | None = None, **keys: Any) -> Plan:
    """Check that a recipe's parts fit together; allocates no weight.

    Args:
        recipe: what is asked; or its keys, as in ``plan(backbone="resnet50", heads=["det", "seg"])``.
        registry: the installed plugins, by default.
        keys: see ``Recipe``.

    Raises:
        PlanError: lists every mismatch.
        RecipeError: the keys are not a recipe.
    """
    if recipe is not None and keys:
        raise RecipeError("give a recipe or its keys, not both")
    return _Planner(recipe or Recipe.from_mapping(keys), registry or discover()).plan()


class _Planner:
    """Collects problems on the way; what depends on a failed part is left out."""

    def __init__(self, recipe: Recipe, registry: Registry) -> None:
        self.recipe = recipe
        self.registry = registry
        self.problems: list[str] = []

    @contextmanager
    def noting(self, what: str) -> Iterator[None]:
        """Turn an error into a problem; plugins may raise anything when they are built."""
        try:
            yield
        except PlanError as error:
            self.problems += error.problems
        except SplitregError as error:
            self.problems.append(str(error))
        except Exception as error:
            self.problems.append(f"{what} cannot be built: {type(error).__name__}: {error}")

    def plan(self) -> Plan:
        recipe = self.recipe
        make_backbone = backbone = body = prefix = bottleneck = codec = None
        cut, source_name = recipe.cut, recipe.bottleneck.source
        with self.noting(f"backbone {recipe.backbone.name}"):
            make_backbone = self._backbone()
            with torch.device("meta"):
                backbone = make_backbone(False)
        if backbone is not None:
            with self.noting(f"backbone {recipe.backbone.name}"):
                cut = self._cut(backbone, recipe.cut)
                prefix, body = backbone.split(cut)
        bottleneck_class = codec_class = None
        with self.noting(f"bottleneck {recipe.bottleneck.name}"):
            bottleneck_class = self._class("bottleneck", recipe.bottleneck, positional=2)
            source_name = source_name or bottleneck_class.source_default
        make_bottleneck: Callable[[], Bottleneck] | None = None
        source = target = _IMAGE
        if backbone is not None and cut in backbone.stages and bottleneck_class is not None:
            target = backbone.stages[cut]
            source = _IMAGE if source_name == "image" else target
            with self.noting(f"bottleneck {recipe.bottleneck.name}"):
                make_bottleneck = _partial(bottleneck_class, source, target, options=recipe.bottleneck.options)
                with torch.device("meta"):
                    bottleneck = make_bottleneck()
        make_codec: Callable[[], Codec] | None = None
        codec_part = recipe.codec
        with self.noting("codec"):
            if codec_part is None and bottleneck is not None:
                codec_part = self._preferred_codec(bottleneck.symbols)
            if codec_part is not None:
                codec_class = self._class("codec", codec_part, positional=0)
                make_codec = _partial(codec_class, options=codec_part.options)
                codec = make_codec()
                if bottleneck is not None:
                    self.problems += carries(codec_part.name, codec, recipe.bottleneck.name, bottleneck.symbols)
        targets = self._targets()
        available = {} if backbone is None or cut not in backbone.stages else _offered(backbone, cut)
        heads = [self._head(part, available, targets) for part in recipe.heads]
        self._stages()
        skeleton = None
        if prefix is not None and body is not None and not self.problems:
            planned = [head for head in heads if head is not None]
            with (
                self.noting(f"the model at {recipe.input.size[1]}x{recipe.input.size[0]} pixels"),
                torch.device("meta"),
            ):
                skeleton = Skeleton(
                    prefix=prefix, bottleneck=bottleneck, body=body, from_image=source_name == "image",
                    branches={head.name: head.build() for head in planned},
                )  # fmt: skip
            if skeleton is not None:
                self._run(skeleton, target)
        if (
            self.problems or skeleton is None or backbone is None or bottleneck is None
            or make_backbone is None or make_bottleneck is None or make_codec is None
        ):  # fmt: skip
            raise PlanError(self.problems)
        found = [head for head in heads if head is not None]
        resolved = replace(
            recipe, cut=cut, codec=codec_part,
            bottleneck=BottleneckPart(
                name=recipe.bottleneck.name, source=source_name, options=recipe.bottleneck.options
            ),
            heads=tuple(
                replace(part, target=head.target, labels=head.labels)
                for part, head in zip(recipe.heads, found, strict=True)
            ),
        )  # fmt: skip
        return Plan(
            recipe=resolved, registry=self.registry, stages=dict(backbone.stages), source=source, target=target,
            latent=bottleneck.latent, symbols=bottleneck.symbols, heads=tuple(found), skeleton=skeleton,
            make_backbone=make_backbone, make_bottleneck=make_bottleneck, make_codec=make_codec,
            preprocess=Preprocess(
                size=recipe.input.size, mode=recipe.input.mode, mean=backbone.mean, std=backbone.std
            ),
        )  # fmt: skip

    def _class(self, kind: str, part: Part, positional: int, given: tuple[str, ...] = ()) -> type[Any]:
        """Load a plugin's class and check the names of its options."""
        spec, member = self.registry.resolve(kind, part.name)
        made = self.registry.load(spec)
        known = list(inspect.signature(made).parameters)[positional + (member is not None) :]
        wrong = [key for key in part.options if key not in known or key in given]
        if wrong:
            raise PlanError(
                [
                    f"{kind} {part.name} has no option {key!r}.{near(key, known)} "
                    + (f"It has: {', '.join(k for k in known if k not in given)}" if known else "It has none")
                    for key in wrong
                ]
            )
        return made

    def _backbone(self) -> Callable[[bool], Backbone]:
        part = self.recipe.backbone
        made = self._class("backbone", part, positional=0, given=("image_size",))
        _, member = self.registry.resolve("backbone", part.name)
        parameters = inspect.signature(made).parameters
        options = dict(part.options)
        if "image_size" in parameters:
            options["image_size"] = self.recipe.input.size
        plain = {key: value for key, value in options.items() if key != "pretrained"}
        first = () if member is None else (member,)

        def make(weights: bool) -> Backbone:
            backbone: Backbone = made(*first, **(options if weights else plain))
            return backbone

        return make

    def _cut(self, backbone: Backbone, cut: str | None) -> str:
        if cut is None:  # where published systems cut: the first stage at stride 4
            return next(
                (name for name, spec in backbone.stages.items() if spec.stride >= 4), next(iter(backbone.stages))
            )
        if cut not in backbone.stages:
            raise PlanError(
                [
                    f"backbone {self.recipe.backbone.name} has no stage {cut!r}.{near(cut, backbone.stages)} "
                    f"It can be cut after: {', '.join(backbone.stages)}"
                ]
            )
        return cut

    def _preferred_codec(self, symbols: SymbolSpec) -> Part:
        for name in PREFERRED_CODECS:
            if name in self.registry["codec"]:
                made = self.registry.load(self.registry.spec("codec", name))
                if not carries(name, made, "", symbols):
                    return Part(name=name)
        raise PlanError([f"no installed codec carries the symbols of bottleneck {self.recipe.bottleneck.name}"])

    def _targets(self) -> dict[str, TargetSpec] | None:
        """Target name -> task and labels, over all datasets; None where the recipe names no dataset."""
        if not self.recipe.data:
            return None
        found: dict[str, TargetSpec] = {}
        for part in self.recipe.data:
            with self.noting(f"dataset {part.name}"):
                made = self._class("dataset", part, positional=2)
                for name, spec in made.describe(part.root, **part.options).items():
                    if name in found and found[name] != spec:
                        self.problems.append(f"two datasets give {name!r} with different labels; train on one of them")
                    found[name] = spec
        found.setdefault(RECONSTRUCTION, TargetSpec(task=RECONSTRUCTION))
        return found

    def _head(
        self, part: HeadPart, available: Mapping[int, FeatureSpec], targets: Mapping[str, TargetSpec] | None
    ) -> HeadPlan | None:
        before = len(self.problems)
        made = None
        with self.noting(f"head {part.name}"):
            made = self._class("head", Part(name=part.plugin, options=part.options), positional=2)
        if made is None:
            return None
        target, labels = self._labels(part, made, targets)
        if not available:
            return None
        needs = tuple(made.select(tuple(sorted(available))))
        try:
            adapter = Pyramid(available, needs)
        except ValueError as error:
            self.problems.append(f"head {part.name} reads strides {list(needs)}: {error}")
            return None
        head = HeadPlan(
            name=part.name, make=made, options=part.options, target=target, task=made.task, labels=labels,
            available=dict(available), needs=needs, adapted=dict(adapter.origin),
        )  # fmt: skip
        if len(self.problems) == before:
            with self.noting(f"head {part.name}"), torch.device("meta"):
                head.build()
        return head

    def _labels(
        self, part: HeadPart, made: type[Head], targets: Mapping[str, TargetSpec] | None
    ) -> tuple[str, tuple[str, ...]]:
        target = part.target or made.task
        if targets is not None:
            same = [name for name, spec in targets.items() if spec.task == made.task]
            if part.target is None and target not in targets and len(same) == 1:
                target = same[0]
            if target not in targets:
                self.problems.append(
                    f"head {part.name} needs a target for {made.task}, and no dataset gives {target!r}. "
                    + (f"Say target = one of {', '.join(same)}" if same else f"Given: {', '.join(targets)}")
                )
                return target, part.labels or ()
            if targets[target].task != made.task:
                self.problems.append(
                    f"head {part.name} does {made.task}, its target {target!r} is for {targets[target].task}"
                )
            elif part.labels is not None and targets[target].labels and len(part.labels) != len(targets[target].labels):
                self.problems.append(
                    f"head {part.name} has {len(part.labels)} labels, its target {target!r} has {len(targets[target].labels)}"
                )
            return target, part.labels or targets[target].labels
        if part.labels is not None:
            return target, part.labels
        if (labels := default_labels(made.task)) is not None:
            return target, labels
        if made.task in LABELLED:
            self.problems.append(f"head {part.name} needs class names: give labels = [...] or a dataset")
        return target, ()

    def _stages(self) -> None:
        names = (*GROUPS, *(f"heads.{head.name}" for head in self.recipe.heads))
        for index, stage in enumerate(self.recipe.stages):
            for name in (*stage.train, *stage.freeze):
                if name not in names:
                    self.problems.append(
                        f"stages[{index}] names a part {name!r}.{near(name, names)} Parts: {', '.join(names)}"
                    )
            for objective in stage.objectives:
                with self.noting(f"objective {objective.name}"):
                    self._class("objective", objective, positional=1)

    def _run(self, skeleton: Skeleton, target: FeatureSpec) -> None:
        """Run the whole skeleton once: what fails here would fail in training."""
        size = self.recipe.input.size
        with self.noting(f"the model at {size[1]}x{size[0]} pixels"), torch.no_grad():
            shapes = skeleton.shapes(size)
            if min(shapes.latent) < 1:
                raise PlanError(
                    [f"the input of {size[1]}x{size[0]} pixels is too small: the latent would be {shapes.latent}"]
                )
            assert skeleton.bottleneck is not None
            restored = skeleton.bottleneck.synthesise(torch.empty((1, *shapes.latent), device="meta"))
            if restored.shape[1] != target.channels or any(
                have < want for have, want in zip(restored.shape[2:], shapes.feature, strict=True)
            ):
                raise PlanError(
                    [
                        f"bottleneck {self.recipe.bottleneck.name} restores {tuple(restored.shape[1:])}, "
                        f"the feature at the cut is {(target.channels, *shapes.feature)}"
                    ]
                )
            features = skeleton.body(torch.empty((1, target.channels, *shapes.feature), device="meta"))
            for branch in skeleton.branches.values():
                branch(features, size)


def carries(codec_name: str, codec: Codec | type[Codec], bottleneck: str, symbols: SymbolSpec) -> list[str]:
    """Say why a codec cannot carry a bottleneck's symbols; an empty list where it can."""
    who = f"codec {codec_name} cannot carry the symbols of bottleneck {bottleneck}: "
    found = []
    if codec.needs_tables and not symbols.tables:
        found.append(who + "it needs frequency tables, and there are none")
    if codec.max_bits and not 0 < symbols.bits <= codec.max_bits:
        what = f"{symbols.bits} bits" if symbols.bits else "any 32-bit integer"
        found.append(who + f"it takes up to {codec.max_bits} bits a symbol, these are {what}")
    if not codec.lossless and symbols.exact:
        found.append(who + "it is lossy, and these must arrive exactly")
    return found


def _offered(backbone: Backbone, cut: str) -> dict[int, FeatureSpec]:
    """Stride -> spec of what the body gives for this cut."""
    names = list(backbone.stages)
    return {backbone.stages[name].stride: backbone.stages[name] for name in names[names.index(cut) :]}


def _partial(made: type[Any], *positional: Any, options: Mapping[str, Any]) -> Callable[[], Any]:
    return lambda: made(*positional, **options)


__all__ = ["GROUPS", "HeadPlan", "Plan", "carries", "plan"]
