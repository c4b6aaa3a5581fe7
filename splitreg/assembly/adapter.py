"""A head and its adapter, which computes strides that the body does not return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitreg.interfaces import Head
from splitreg.specs import FeatureSpec


def nearest_stride(stride: int, available: Sequence[int]) -> int:
    """Return the available stride closest to a missing one; of two equally close ones the finer."""
    return min(available, key=lambda s: (abs(s.bit_length() - stride.bit_length()), s))


class StrideAdapter(nn.Module):
    """Computes missing strides: bilinear upsampling and a convolution, or strided convolutions.

    Source: simple feature pyramid of Li et al. 2022 (arXiv:2203.16527), with interpolation instead of
    deconvolutions.

    Args:
        available: stride -> channels and stride of what the body returns.
        needs: strides that the head reads.
    """

    def __init__(self, available: Mapping[int, FeatureSpec], needs: Sequence[int]) -> None:
        super().__init__()
        self.needs = tuple(needs)
        self.origin = {stride: nearest_stride(stride, tuple(available)) for stride in needs if stride not in available}
        self.specs = {
            stride: FeatureSpec(channels=available[self.origin.get(stride, stride)].channels, stride=stride)
            for stride in needs
        }
        self.levels = nn.ModuleDict()
        for stride, origin in self.origin.items():
            channels = available[origin].channels
            steps: list[nn.Module] = []
            if stride < origin:
                steps.append(nn.Conv2d(channels, channels, 1))
            else:
                for _ in range((stride // origin).bit_length() - 1):
                    steps += [nn.Conv2d(channels, channels, 3, 2, 1), nn.ReLU()]
            self.levels[str(stride)] = nn.Sequential(*steps)

    def forward(self, features: Mapping[int, Tensor], image_size: tuple[int, int]) -> dict[int, Tensor]:
        """Stride -> (B, C, H/s, W/s) for each stride of ``needs``."""
        adapted = {}
        for stride in self.needs:
            if stride in features:
                adapted[stride] = features[stride]
                continue
            level = self.levels[str(stride)](features[self.origin[stride]])
            size = (-(-image_size[0] // stride), -(-image_size[1] // stride))
            if level.shape[-2:] != size:
                level = functional.interpolate(level, size=size, mode="bilinear", align_corners=False)
            adapted[stride] = level
        return adapted


class Branch(nn.Module):
    """One head with its adapter: the content of ``heads/<name>.safetensors``."""

    def __init__(self, head: Head, adapter: StrideAdapter | None) -> None:
        super().__init__()
        self.head = head
        self.adapter = adapter

    def forward(self, features: Mapping[int, Tensor], image_size: tuple[int, int]) -> Any:
        """Return the head's raw output for features stride -> (B, C, H/s, W/s)."""
        inputs = self.adapter(features, image_size) if self.adapter else {s: features[s] for s in self.head.needs}
        return self.head(inputs, image_size)


def select_images(features: Mapping[int, Tensor], index: Tensor | None) -> dict[int, Tensor]:
    """Return the images of ``index`` (None: all, without a copy)."""
    return {s: f if index is None else torch.index_select(f, 0, index) for s, f in features.items()}
