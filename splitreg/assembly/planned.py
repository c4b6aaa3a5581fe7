"""What a plan is: a recipe whose parts fit together, with everything resolved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from splitreg.assembly.branch import Branch, Pyramid
from splitreg.assembly.shapes import Cost, Shapes, Skeleton
from splitreg.coding import Codec
from splitreg.imaging import Preprocess
from splitreg.interfaces import Backbone, Bottleneck, Head
from splitreg.recipe import Recipe
from splitreg.registry import Registry
from splitreg.specs import FeatureSpec, SymbolSpec


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
