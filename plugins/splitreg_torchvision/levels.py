"""Anchors and region pooling with known strides, which torchvision infers from the maps' sizes.

An inferred stride is wrong if a side of the image is not a multiple of it, and torchvision keeps the
stride of the first call.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign, box_area

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
