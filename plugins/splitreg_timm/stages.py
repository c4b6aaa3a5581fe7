"""The stages of a traced model: feature maps after which it can be cut."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from splitreg.specs import FeatureSpec
from splitreg_timm.graphs import separator, upstream, weights
from splitreg_timm.token_layout import TokenLayout, find_layout


@dataclass(frozen=True, slots=True, kw_only=True)
class CutStage:
    """One stage.

    Args:
        spec: channels and stride of its feature.
        value: the value that is sent if the model is cut here.
        layout: layout of the value.
        tap: the feature map that timm returns; None if the feature is the packed value.
    """

    spec: FeatureSpec
    value: fx.Node
    layout: TokenLayout
    tap: fx.Node | None

    @property
    def output(self) -> fx.Node:
        """The node of the feature."""
        return self.value if self.tap is None else self.tap


def find(
    model: nn.Module, taps: Sequence[fx.Node], info: Sequence[Mapping[str, Any]], image_size: tuple[int, int]
) -> tuple[dict[str, CutStage], dict[str, str]]:
    """Find the stages of a model.

    Args:
        model: the traced model.
        taps: its feature maps.
        info: timm's description of each feature map.
        image_size: (H, W) of the image; strides are relative to it.

    Returns:
        The stages by name, in order; and for each other feature map, why it is not a stage.
    """
    stages: dict[str, CutStage] = {}
    refused: dict[str, str] = {}
    for tap, facts in reversed(list(zip(taps, info, strict=True))):
        name = str(facts["module"])
        channels, *grid = tap.meta["val"].shape[1:]
        stride = power_of_two(facts["reduction"])
        missing = [-(-side // stride) - places for places, side in zip(grid, image_size, strict=True)]
        valid = all(power_of_two(side / places) == stride for places, side in zip(grid, image_size, strict=True))
        if min(missing) < 0 or (max(missing) > 0 and not valid):
            refused[name] = f"its {grid[0]}x{grid[1]} map does not fit a stride that is a power of two"
            continue
        later = [stage.output for stage in stages.values()]
        value = separator(model, tap, [tap, *later])
        layout = None if value is None else find_layout(value.meta["val"], channels, (grid[0], grid[1]))
        if layout is not None and max(missing) > 0:
            layout = replace(layout, missing=(missing[0], missing[1])) if value is tap else None
        if value is None or layout is None or name in stages or _before(model, value, tap, later):
            refused[name] = "more than one tensor, or weights of both sides, would have to cross"
            continue
        spec = FeatureSpec(channels=channels + layout.carriers, stride=stride)
        as_crossed = layout.carriers > 0 or max(missing) > 0
        stages = {name: CutStage(spec=spec, value=value, layout=layout, tap=None if as_crossed else tap), **stages}
    return _embedding(model, stages), refused


def _before(model: nn.Module, value: fx.Node, tap: fx.Node, later: Sequence[fx.Node]) -> bool:
    """Whether layers between the value and the map are also needed by later stages."""
    between = (upstream([tap], value) or set()) & (upstream(later, value) or set())
    return bool(weights(model, between - {value}))


def _embedding(model: nn.Module, stages: dict[str, CutStage]) -> dict[str, CutStage]:
    """Add the embedding of a plain transformer as the first stage: it has no class token yet."""
    if not stages or (first := next(iter(stages.values()))).layout.kind != "tokens":
        return stages
    before = upstream([first.value]) or set()
    modules = [node for node in first.value.graph.nodes if node in before and node.op == "call_module"]
    outputs = [stage.output for stage in stages.values()]
    value = separator(model, first.value, outputs, modules)
    if value is None or value is first.value or str(value.target) in stages:
        return stages
    shape = value.meta["val"].shape
    channels = shape[1] if len(shape) == 4 and tuple(shape[2:]) == first.layout.grid else shape[-1]
    layout = find_layout(value.meta["val"], channels, first.layout.grid)
    if layout is None or layout.extra:
        return stages
    spec = FeatureSpec(channels=channels, stride=first.spec.stride)
    return {str(value.target): CutStage(spec=spec, value=value, layout=layout, tap=None), **stages}


def power_of_two(stride: float) -> int:
    """Return the nearest power of two by ratio, for example 16 for 14."""
    return 1 << max(0, round(math.log2(stride)))
