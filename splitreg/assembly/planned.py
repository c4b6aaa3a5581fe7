"""``Plan``: a recipe whose parts fit together, with everything resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from splitreg.assembly.adapter import Branch, StrideAdapter
from splitreg.assembly.shapes import Cost, Shapes, Skeleton
from splitreg.coding import Codec, LatentCoding
from splitreg.imaging import Preprocess
from splitreg.interfaces import Backbone, Bottleneck, Head
from splitreg.recipe import Part, Recipe
from splitreg.registry import Component, Registry
from splitreg.specs import FeatureSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class BackbonePlan:
    """A backbone that fits.

    Args:
        component: its class.
        options: options of the recipe.
        reserved: options that the core sets: ``image_size``, if the class has it.
        meta: the backbone on the meta device.
        cut: last stage before the cut.
    """

    component: Component
    options: Mapping[str, Any]
    reserved: Mapping[str, Any]
    meta: Backbone
    cut: str

    @property
    def target(self) -> FeatureSpec:
        """The feature at the cut."""
        return self.meta.stages[self.cut]

    @property
    def available(self) -> dict[int, FeatureSpec]:
        """Stride -> spec of the features that the body returns."""
        names = list(self.meta.stages)
        stages = [self.meta.stages[name] for name in names[names.index(self.cut) :]]
        return {stage.stride: stage for stage in stages}

    def create(self, *, weights: bool) -> Backbone:
        """Build the backbone; ``weights``: load pretrained ones if the recipe asks for them."""
        options = self.options if weights else {k: v for k, v in self.options.items() if k != "pretrained"}
        backbone: Backbone = self.component.create(options=options, reserved=self.reserved)
        return backbone


@dataclass(frozen=True, slots=True, kw_only=True)
class BottleneckPlan:
    """A bottleneck that fits.

    Args:
        component: its class.
        options: options of the recipe.
        reads: its input: ``"image"`` or ``"feature"``.
        source: spec of its input.
        target: spec of the feature at the cut, its output.
        meta: the bottleneck on the meta device.
    """

    component: Component
    options: Mapping[str, Any]
    reads: str
    source: FeatureSpec
    target: FeatureSpec
    meta: Bottleneck

    def create(self) -> Bottleneck:
        """Build the bottleneck."""
        bottleneck: Bottleneck = self.component.create(self.source, self.target, options=self.options)
        return bottleneck


@dataclass(frozen=True, slots=True, kw_only=True)
class CodecPlan:
    """A codec for the bottleneck's symbols: its class, and the recipe's ``part``."""

    component: Component
    part: Part

    def create(self) -> Codec:
        """Create the codec."""
        codec: Codec = self.component.create(options=self.part.options)
        return codec


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPlan:
    """A head that fits.

    Args:
        name: name in the model.
        component: its class.
        options: options of the recipe.
        target: name of the dataset's target that trains it.
        task: its task.
        labels: class names.
        available: stride -> spec of the features that the body returns.
        needs: strides that it reads.
        adapted: missing stride -> stride from which the adapter computes it.
    """

    name: str
    component: Component
    options: Mapping[str, Any]
    target: str
    task: str
    labels: tuple[str, ...]
    available: Mapping[int, FeatureSpec]
    needs: tuple[int, ...]
    adapted: Mapping[int, int]

    def create(self, *, weights: bool = True) -> Branch:
        """Build the head, with an adapter if the body does not return a stride that it reads.

        Args:
            weights: load pretrained weights if the recipe asks for them.
        """
        adapter = StrideAdapter(self.available, self.needs) if self.adapted else None
        specs = adapter.specs if adapter else {stride: self.available[stride] for stride in self.needs}
        options = self.options if weights else {k: v for k, v in self.options.items() if k != "pretrained"}
        head: Head = self.component.create(specs, self.labels, options=options)
        head.needs = self.needs
        return Branch(head, adapter)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A recipe whose parts fit together, with everything resolved.

    Args:
        recipe: the resolved recipe: with cut, codec, input of the bottleneck, targets and labels.
        registry: the registry of the plugins.
        preprocess: image to network input.
        backbone: the backbone and its cut.
        bottleneck: the bottleneck.
        codec: the codec.
        heads: the heads, in the recipe's order.
        skeleton: the model on the meta device.
    """

    recipe: Recipe
    registry: Registry
    preprocess: Preprocess
    backbone: BackbonePlan
    bottleneck: BottleneckPlan
    codec: CodecPlan
    heads: tuple[HeadPlan, ...]
    skeleton: Skeleton

    @property
    def shapes(self) -> Shapes:
        """Sizes of latent and feature at the recipe's input size."""
        return self.skeleton.shapes(self.recipe.input.size)

    def coding(self) -> LatentCoding:
        """Return the coding of a model without frozen tables."""
        return LatentCoding(codec=self.codec.create(), preprocess=self.preprocess)

    def costs(self) -> dict[str, Cost]:
        """Parameters, MACs and memory of each part at the recipe's input size."""
        return self.skeleton.costs(self.recipe.input.size)

    def to_json(self) -> dict[str, Any]:
        """Return the plan and its size table as plain data."""
        shapes, stages = self.shapes, self.backbone.meta.stages
        return {
            "backbone": self.recipe.backbone.name,
            "cut": self.recipe.cut,
            "stages": {name: {"channels": s.channels, "stride": s.stride} for name, s in stages.items()},
            "bottleneck": self.recipe.bottleneck.to_mapping(),
            "codec": self.codec.part.name,
            "input": list(self.recipe.input.size),
            "latent": list(shapes.latent),
            "feature": [self.backbone.target.channels, *shapes.feature],
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
