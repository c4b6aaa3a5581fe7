"""A light feature pyramid: features of any strides to one map at a fixed stride."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from splitreg.specs import FeatureSpec

#: Strides that dense heads read: finer ones cost more than they bring.
STRIDES = (4, 8, 16, 32)


def dense_strides(available: Sequence[int]) -> tuple[int, ...]:
    """Return the available strides of ``STRIDES``, or all where none of them is available."""
    return tuple(s for s in STRIDES if s in available) or tuple(sorted(available))


def enlarge(x: Tensor, factor: int, size: tuple[int, int]) -> Tensor:
    """Enlarge (B, C, h, w) by a whole factor and crop to ``size``.

    A feature of stride s covers ceil(H / s) * s pixels: resizing it to (H, W) would shift pixels.
    """
    if factor > 1:
        x = F.interpolate(x, scale_factor=float(factor), mode="bilinear", align_corners=False)
    return x[..., : size[0], : size[1]]


@dataclass(frozen=True, slots=True)
class StridedMap:
    """What a dense head returns for a batch, before it is enlarged.

    Args:
        values: (B, C, h, w).
        stride: pixels per cell.
        size: (H, W) of the image.
    """

    values: Tensor
    stride: int
    size: tuple[int, int]

    def full(self) -> Tensor:
        """Return (B, C, H, W)."""
        return enlarge(self.values, self.stride, self.size)

    def image(self, index: int) -> Tensor:
        """Return (C, H, W) of one image, without a gradient."""
        return enlarge(self.values[index : index + 1].detach(), self.stride, self.size)[0]


def reduced(size: tuple[int, int], stride: int) -> tuple[int, int]:
    """Return (ceil(H / s), ceil(W / s))."""
    return -(-size[0] // stride), -(-size[1] // stride)


def separable(channels: int, out: int) -> nn.Sequential:
    """Return a depthwise 3x3 and a pointwise convolution, normalised, with ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, out, 1, bias=False),
        norm(out),
        nn.ReLU(inplace=True),
    )


def norm(channels: int) -> nn.GroupNorm:
    """Return group normalisation: batches are small, and often only some images have the target."""
    return nn.GroupNorm(math.gcd(8, channels), channels)


class Pyramid(nn.Module):
    """Top-down sum of all strides, each reduced to ``width`` channels.

    ::

        stride 32 -> 1x1 ----------------------------+
        stride 16 -> 1x1 -> + enlarged -> separable -+
        stride  8 -> 1x1 -> + enlarged -> separable -+-> (B, width, H/stride, W/stride)

    Args:
        features: stride -> spec, at least one.
        width: channels of the layers and of the result.
        stride: of the result; if no feature is that fine, the finest one is enlarged.

    Source: Lin et al. 2017, arXiv:1612.03144, with separable convolutions.
    """

    def __init__(self, features: Mapping[int, FeatureSpec], width: int, stride: int = 4) -> None:
        super().__init__()
        self.stride = stride
        self.strides = tuple(sorted(features, reverse=True))  # deepest first
        self.squeeze = nn.ModuleDict(
            {
                str(s): nn.Sequential(nn.Conv2d(features[s].channels, width, 1, bias=False), norm(width))
                for s in self.strides
            }
        )
        self.smooth = nn.ModuleDict({str(s): separable(width, width) for s in self.strides})

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> Tensor:
        """Return (B, width, ceil(H/stride), ceil(W/stride))."""
        deepest = self.strides[0]
        x = self.smooth[str(deepest)](self.squeeze[str(deepest)](features[deepest]))
        for coarse, fine in zip(self.strides, self.strides[1:], strict=False):
            lateral = self.squeeze[str(fine)](features[fine])
            x = enlarge(x, coarse // fine, (lateral.shape[-2], lateral.shape[-1])) + lateral
            x = self.smooth[str(fine)](x)
        finest, size = self.strides[-1], reduced(image_size, self.stride)
        if finest < self.stride:
            return F.adaptive_avg_pool2d(x, size)
        return enlarge(x, finest // self.stride, size)
