"""The plan: every mismatch of a recipe, found and reported together before one weight is allocated.

Parts are built on torch's meta device, where tensors have shapes and no memory.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from splitreg.assembly.branch import Pyramid
from splitreg.assembly.labels import LABELLED, default_labels
from splitreg.assembly.planned import HeadPlan, Plan
from splitreg.assembly.shapes import Skeleton
from splitreg.coding import Codec
from splitreg.errors import PlanError, RecipeError, SplitregError, near
from splitreg.imaging import Preprocess
from splitreg.interfaces import Backbone, Bottleneck, Head
from splitreg.recipe import HeadPart, Part, Recipe
from splitreg.registry import Registry, discover, unknown_options
from splitreg.specs import FeatureSpec, SymbolSpec, TargetSpec
from splitreg.tasks import RECONSTRUCTION

#: Codecs that are tried in this order where the recipe names none.
PREFERRED_CODECS = ("rans", "compressai", "zstd", "raw")

#: Names of what a stage can train or freeze; ``heads.NAME`` comes with the heads.
GROUPS = ("all", "edge", "server", "prefix", "encoder", "decoder", "prior", "body", "heads")

_IMAGE = FeatureSpec(channels=3, stride=1)


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
        make_backbone, backbone, cut = self._backbone()
        make_bottleneck, bottleneck, source = self._bottleneck(backbone, cut)
        make_codec, codec = self._codec(bottleneck)
        targets = self._targets()
        available = {} if backbone is None or cut is None else _offered(backbone, cut)
        heads = [self._head(part, available, targets) for part in recipe.heads]
        self._stages()
        # Without a problem nothing below is None; saying so lets mypy follow.
        if self.problems or None in (
            make_backbone,
            backbone,
            cut,
            make_bottleneck,
            bottleneck,
            source,
            make_codec,
            codec,
        ):
            raise PlanError(self.problems)
        assert backbone and bottleneck and cut and make_backbone and make_bottleneck and make_codec and source
        found = [head for head in heads if head is not None]
        skeleton = self._skeleton(backbone, cut, bottleneck, source, found)
        resolved = replace(
            recipe, cut=cut, codec=codec, bottleneck=replace(recipe.bottleneck, source=source),
            heads=tuple(
                replace(part, target=head.target, labels=head.labels)
                for part, head in zip(recipe.heads, found, strict=True)
            ),
        )  # fmt: skip
        return Plan(
            recipe=resolved, registry=self.registry, stages=dict(backbone.stages), source=_read(backbone, cut, source),
            target=backbone.stages[cut], latent=bottleneck.latent, symbols=bottleneck.symbols, heads=tuple(found),
            skeleton=skeleton, make_backbone=make_backbone, make_bottleneck=make_bottleneck, make_codec=make_codec,
            preprocess=Preprocess(
                size=recipe.input.size, mode=recipe.input.mode, mean=backbone.mean, std=backbone.std
            ),
        )  # fmt: skip

    def _backbone(self) -> tuple[Callable[[bool], Backbone] | None, Backbone | None, str | None]:
        """How to make the backbone, the backbone on the meta device, and where it is cut; None where that failed."""
        make = backbone = cut = None
        with self.noting(f"backbone {self.recipe.backbone.name}"):
            make = self._backbone_maker()
            with torch.device("meta"):
                backbone = make(False)
            cut = self._cut(backbone)
        return make, backbone, cut

    def _bottleneck(
        self, backbone: Backbone | None, cut: str | None
    ) -> tuple[Callable[[], Bottleneck] | None, Bottleneck | None, str | None]:
        """How to make the bottleneck, the bottleneck on the meta device, and what it reads."""
        part, make, bottleneck, source = self.recipe.bottleneck, None, None, None
        with self.noting(f"bottleneck {part.name}"):
            made = self._class("bottleneck", part, positional=2)
            source = part.source or made.source_default
            if backbone is not None and cut is not None:
                make = _partial(made, _read(backbone, cut, source), backbone.stages[cut], options=part.options)
                with torch.device("meta"):
                    bottleneck = make()
        return make, bottleneck, source

    def _codec(self, bottleneck: Bottleneck | None) -> tuple[Callable[[], Codec] | None, Part | None]:
        """How to make the codec, and which one it is."""
        part, make = self.recipe.codec, None
        with self.noting("codec"):
            if part is None and bottleneck is not None:
                part = self._preferred_codec(bottleneck.symbols)
            if part is not None:
                make = _partial(self._class("codec", part, positional=0), options=part.options)
                codec = make()
                if bottleneck is not None:
                    self.problems += carries(part.name, codec, self.recipe.bottleneck.name, bottleneck.symbols)
        return make, part

    def _skeleton(
        self, backbone: Backbone, cut: str, bottleneck: Bottleneck, source: str, heads: list[HeadPlan]
    ) -> Skeleton:
        """Build all of it on the meta device and run it once: what fails there would fail in training."""
        height, width = self.recipe.input.size
        skeleton = None
        with self.noting(f"the model at {height}x{width} pixels"), torch.device("meta"):
            prefix, body = backbone.split(cut)
            skeleton = Skeleton(
                prefix=prefix, bottleneck=bottleneck, body=body, from_image=source == "image",
                branches={head.name: head.build() for head in heads},
            )  # fmt: skip
            self._run(skeleton, backbone.stages[cut])
        if skeleton is None or self.problems:
            raise PlanError(self.problems)
        return skeleton

    def _class(self, kind: str, part: Part, positional: int, given: tuple[str, ...] = ()) -> type[Any]:
        """Load a plugin's class and check the names of its options."""
        spec, member = self.registry.resolve(kind, part.name)
        made = self.registry.load(spec)
        wrong = unknown_options(
            f"{kind} {part.name}", made, part.options, positional=positional + (member is not None), given=given
        )
        if wrong:
            raise PlanError(wrong)
        return made

    def _backbone_maker(self) -> Callable[[bool], Backbone]:
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

    def _cut(self, backbone: Backbone) -> str:
        cut = self.recipe.cut
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
        if hasattr(nn.ModuleDict(), part.name):  # where a model keeps its heads
            self.problems.append(f"a head cannot be called {part.name!r}; give it another name: {{ as = ... }}")
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
        size = self.recipe.input.size
        with torch.no_grad():
            shapes = skeleton.shapes(size)
            if min(shapes.latent) < 1:
                self.problems.append(
                    f"an input of {size[0]}x{size[1]} pixels is too small: the latent is {shapes.latent}"
                )
                return
            restored = skeleton.bottleneck.synthesise(torch.empty((1, *shapes.latent)))
            wanted = (target.channels, *shapes.feature)
            if restored.shape[1] != wanted[0] or restored.shape[2] < wanted[1] or restored.shape[3] < wanted[2]:
                self.problems.append(
                    f"bottleneck {self.recipe.bottleneck.name} restores {tuple(restored.shape[1:])}, "
                    f"the feature at the cut is {wanted}"
                )
                return
            features = skeleton.body(torch.empty((1, *wanted)))
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


def _read(backbone: Backbone, cut: str, source: str) -> FeatureSpec:
    """What the bottleneck reads: the image, or the feature at the cut."""
    return _IMAGE if source == "image" else backbone.stages[cut]


def _partial(made: type[Any], *positional: Any, options: Mapping[str, Any]) -> Callable[[], Any]:
    return lambda: made(*positional, **options)


__all__ = ["GROUPS", "HeadPlan", "Plan", "carries", "plan"]
