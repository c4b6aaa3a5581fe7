"""A head with the adapter that it may need: a simple pyramid for the strides that a body does not give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitreg.interfaces import FeatureSpec, Head


def nearest_stride(stride: int, available: Sequence[int]) -> int:
    """Return the offered stride from which a missing one is made: the closest, the finer one of two equally close."""
    return min(available, key=lambda s: (abs(s.bit_length() - stride.bit_length()), s))


class Pyramid(nn.Module):
    """Makes missing strides from present ones: bilinear up and a convolution, or strided convolutions down.

    Source: the simple feature pyramid of Li et al. 2022 (arXiv:2203.16527), with interpolation for its deconvolutions.
    """

    def __init__(self, available: Mapping[int, FeatureSpec], needs: Sequence[int]) -> None:
        super().__init__()
        self.needs = tuple(needs)
        self.origin = {stride: nearest_stride(stride, tuple(available)) for stride in needs if stride not in available}
        self.specs = {
            stride: available[self.origin.get(stride, stride)].__class__(
                channels=available[self.origin.get(stride, stride)].channels, stride=stride
            )
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
        found = {}
        for stride in self.needs:
            if stride in features:
                found[stride] = features[stride]
                continue
            origin = self.origin[stride]
            level = self.levels[str(stride)](features[origin])
            size = (-(-image_size[0] // stride), -(-image_size[1] // stride))
            if level.shape[-2:] != size:
                level = functional.interpolate(level, size=size, mode="bilinear", align_corners=False)
            found[stride] = level
        return found


class Branch(nn.Module):
    """One head behind the shared body, with its adapter: all that ``heads/<name>.safetensors`` holds."""

    def __init__(self, head: Head, adapter: Pyramid | None) -> None:
        super().__init__()
        self.head = head
        self.adapter = adapter

    def forward(self, features: Mapping[int, Tensor], image_size: tuple[int, int]) -> Any:
        """Return the head's raw output for features stride -> (B, C, H/s, W/s)."""
        wanted = self.adapter(features, image_size) if self.adapter else {s: features[s] for s in self.head.needs}
        return self.head(wanted, image_size)


def select_images(features: Mapping[int, Tensor], index: Tensor | None) -> dict[int, Tensor]:
    """Keep the images of ``index`` (None: all of them, without a copy)."""
    return {s: f if index is None else torch.index_select(f, 0, index) for s, f in features.items()}
