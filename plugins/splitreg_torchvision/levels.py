"""The pyramid, and anchors and region pooling with known strides, which torchvision infers from the maps' sizes.

An inferred stride is wrong if a side of the image is not a multiple of it, and torchvision keeps the
stride of the first call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, box_area
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

_RATIOS = (0.5, 1.0, 2.0)


class Anchors(AnchorGenerator):  # type: ignore[misc]
    """Three anchors per cell, each with the area of ``scale`` x ``scale`` cells.

    Args:
        strides: of the levels.
        scale: side of an anchor in cells.
        inferred: place them by the strides that torchvision infers from the maps' sizes, for its weights.
    """

    per_cell = len(_RATIOS)

    def __init__(self, strides: tuple[int, ...], scale: float, *, inferred: bool = False) -> None:
        with torch.device("cpu"):  # plain tensors, not buffers: on the meta device they would be lost
            super().__init__(tuple((stride * scale,) for stride in strides), (_RATIOS,) * len(strides))
        self.strides, self.inferred = strides, inferred

    def grid_anchors(self, grid_sizes: list[list[int]], strides: list[list[Tensor]]) -> list[Tensor]:
        """Place the anchors on grids of the known strides, or of ``strides``, torchvision's guess."""
        if self.inferred:
            placed: list[Tensor] = super().grid_anchors(grid_sizes, strides)
            return placed
        anchors: list[Tensor] = super().grid_anchors(grid_sizes, [[stride, stride] for stride in self.strides])
        return anchors


class RcnnPyramid(FeaturePyramidNetwork):  # type: ignore[misc]
    """torchvision's feature pyramid, also without its finest inputs: those levels continue the one below.

    Args:
        channels: stride -> channels of the features that are there.
        levels: strides of the levels, the finest first; features may lack the first ones.
        width: channels of the levels.
        norm: layer of batch normalisation, or None.
    """

    def __init__(
        self, channels: Mapping[int, int], levels: tuple[int, ...], width: int, norm: Callable[..., nn.Module] | None
    ) -> None:
        inputs = [channels.get(stride, 1) for stride in levels]
        super().__init__(inputs, width, extra_blocks=LastLevelMaxPool(), norm_layer=norm)
        self.levels = levels
        for index, stride in enumerate(levels):
            if stride not in channels:
                self.inner_blocks[index] = nn.Identity()  # keeps the numbers of the others

    def forward(self, features: Mapping[int, Tensor], image_size: tuple[int, int]) -> OrderedDict[str, Tensor]:
        """Return the levels by stride, and ``pool``."""
        results: list[Tensor] = []
        inner: Tensor | None = None
        for index, stride in reversed(list(enumerate(self.levels))):
            size = tuple(-(-side // stride) for side in image_size)
            below = None if inner is None else functional.interpolate(inner, size=size, mode="nearest")
            if stride in features:
                lateral = self.inner_blocks[index](features[stride])
                inner = lateral if below is None else lateral + below
            else:
                inner = below
            results.insert(0, self.layer_blocks[index](inner))
        names = [str(stride) for stride in self.levels]
        results, names = self.extra_blocks(results, [features[s] for s in self.levels if s in features], names)
        return OrderedDict(zip(names, results, strict=True))


def region_pool(strides: tuple[int, ...], scale: float, size: int = 7) -> MultiScaleRoIAlign:
    """Return a pool of ``size`` x ``size`` for levels of these strides, which are also their names.

    A region is read from the level whose anchors have its size.
    """
    pool = MultiScaleRoIAlign([str(stride) for stride in strides], output_size=size, sampling_ratio=2)
    pool.scales = [1 / stride for stride in strides]
    pool.map_levels = _Levels(strides, scale)
    return pool


class _Levels:
    """(N, 4) boxes of every image -> (sum of N,) index of the level whose anchors are nearest in size."""

    def __init__(self, strides: tuple[int, ...], scale: float) -> None:
        self.sides = [stride * scale for stride in strides]

    def __call__(self, boxes: list[Tensor]) -> Tensor:
        side = torch.cat([box_area(image) for image in boxes]).clamp(min=1e-6).sqrt()
        levels = torch.tensor(self.sides, device=side.device, dtype=side.dtype)
        return (side.log()[:, None] - levels.log()).abs().argmin(dim=1)
