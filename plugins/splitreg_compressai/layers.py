"""Building blocks of the learned bottlenecks. Each block keeps the size or divides it, rounding up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class GDN1(nn.Module):
    """Simplified generalised divisive normalisation: x / (beta + gamma |x|), or the product if ``inverse``.

    Beta and gamma are squares of parameters, so they are positive. In ONNX the layer is Abs, Conv, Div.

    Source: Johnston et al. 2019, arXiv:1912.08771; Ballé et al. 2016, arXiv:1511.06281.
    """

    def __init__(self, channels: int, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.ones(channels))
        # A square has no gradient at zero, so all weights start above it.
        self.gamma = nn.Parameter(0.1**0.5 * torch.eye(channels) + 1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        norm = functional.conv2d(x.abs(), self.gamma.square()[:, :, None, None], self.beta.square() + 1e-6)
        return x * norm if self.inverse else x / norm


class Pad(nn.Module):
    """Repeat the last row and column until the size is a multiple of ``multiple`` and at least ``minimum``."""

    def __init__(self, multiple: int = 1, minimum: int = 1) -> None:
        super().__init__()
        self.multiple = multiple
        self.minimum = minimum

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H', W')."""
        if self.multiple > 1 and self.minimum == 1 and torch.onnx.is_in_onnx_export():
            return _PadAnySize.apply(x, self)  # type: ignore[no-any-return]
        # int(): constants in an exported graph. Not -(-a // b): torch's tracer rounds that towards zero.
        height, width = (self._missing(int(side)) for side in x.shape[-2:])
        return functional.pad(x, (0, width, 0, height), mode="replicate") if height or width else x

    def _missing(self, side: int) -> int:
        return (max(side, self.minimum) + self.multiple - 1) // self.multiple * self.multiple - side


class _PadAnySize(torch.autograd.Function):
    """``Pad`` for the ONNX exporter, whose tracer would make the sizes of its example constant."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pad: Pad) -> Tensor:
        """Pad like ``Pad``."""
        height, width = (pad._missing(int(side)) for side in x.shape[-2:])
        return functional.pad(x, (0, width, 0, height), mode="replicate")

    @staticmethod
    def symbolic(g: Any, x: Any, pad: Pad) -> Any:
        """Shape, Neg, Mod (the sign is the divisor's, so never negative), Concat, Pad."""
        multiple, starts = (g.op("Constant", value_t=torch.tensor(v)) for v in ([pad.multiple], [0] * 6))
        missing = g.op("Mod", g.op("Neg", g.op("Shape", x, start_i=2)), multiple)
        ends = g.op("Concat", starts, missing, axis_i=0)
        return g.op("Pad", x, ends, mode_s="edge").setType(x.type().with_sizes([None] * 4))


def gdn_encoder(source: int, channels: int, hidden: int, halvings: int) -> nn.Sequential:
    """Strided 5x5 convolutions with GDN1, then 2x2 to ``channels``: the sides are side / 2**halvings - 1.

    With 3 to 24 channels, 96 hidden and two halvings: the encoder of the Entropic Student and Ladon.

    Source: Matsubara et al. 2022, arXiv:2108.11898; Matsubara et al. 2025, arXiv:2501.01420.
    """
    layers: list[nn.Module] = [Pad(minimum=2**halvings + 1)]
    before = source
    for index in range(max(1, halvings)):
        after = max(1, hidden // 2) if index >= halvings - 1 else hidden
        kernel, stride = (5, 2) if halvings else (3, 1)
        layers += [nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False), GDN1(after)]
        before = after
    return nn.Sequential(*layers, nn.Conv2d(before, channels, 2, bias=False))


def gdn_decoder(channels: int, target: int, hidden: int, doublings: int) -> nn.Sequential:
    """2x2 convolutions with inverse GDN1, paddings 1, 0, 1: restores the row and column the encoder lost.

    ``doublings`` above zero adds a pixel shuffle, below zero strided convolutions.
    """
    narrow = max(1, hidden // 2)
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 2, padding=1, bias=False),
        GDN1(hidden, inverse=True),
        nn.Conv2d(hidden, narrow, 2, bias=False),
        GDN1(narrow, inverse=True),
        nn.Conv2d(narrow, target * 4 ** max(0, doublings), 2, padding=1, bias=False),
        *_resize(target, doublings),
    )


def unit_gain(network: nn.Module) -> nn.Module:
    """Initialise each convolution so that it keeps the variance of its input.

    With torch's default each layer reduces it to a third, and the first latents would round to zero.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network


def light_encoder(source: int, channels: int, hidden: int, halvings: int) -> nn.Sequential:
    """Patches of up to 4x4, pointwise and depthwise convolutions; further halvings by depthwise 5x5.

    With 3 to 24 channels, 64 hidden (96 after the patches) and three halvings: 0.11 GMAC at 416x416.

    Source: Ridnik et al. 2020, arXiv:2003.13630 (space-to-depth stem); Howard et al. 2017,
    arXiv:1704.04861 (separable convolutions).
    """
    patch = min(2, halvings)
    wide = hidden * 3 // 2
    layers: list[nn.Module] = [
        Pad(multiple=2**halvings),
        *_activated(nn.Conv2d(source, hidden, 2**patch, 2**patch, bias=False)),
        *_separable(hidden, hidden, 3, 1),
    ]
    before = hidden
    for stride in [2] * (halvings - patch) or [1]:
        layers += _separable(before, wide, 5, stride)
        before = wide
    depthwise = _activated(nn.Conv2d(before, before, 3, 1, 1, groups=before, bias=False))
    return nn.Sequential(*layers, *depthwise, nn.Conv2d(before, channels, 1))


def residual_decoder(channels: int, target: int, hidden: int, doublings: int, blocks: int) -> nn.Sequential:
    """1x1 to ``hidden``, residual blocks of two 3x3, 3x3 to the target, then as ``gdn_decoder``."""
    return nn.Sequential(
        nn.Conv2d(channels, hidden, 1),
        *(_ResidualBlock(hidden) for _ in range(blocks)),
        nn.Conv2d(hidden, target * 4 ** max(0, doublings), 3, padding=1),
        *_resize(target, doublings),
    )


class _ResidualBlock(nn.Module):
    """x + conv(act(conv(x))). Source: He et al. 2016, arXiv:1603.05027."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        change: Tensor = self.inner(x)
        return x + change


def _activated(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.Hardswish()]


def _separable(before: int, after: int, kernel: int, stride: int) -> list[nn.Module]:
    depthwise = nn.Conv2d(before, before, kernel, stride, kernel // 2, groups=before, bias=False)
    return [*_activated(depthwise), *_activated(nn.Conv2d(before, after, 1, bias=False))]


def _resize(target: int, doublings: int) -> list[nn.Module]:
    if doublings > 0:
        return [nn.PixelShuffle(2**doublings)]
    steps: list[nn.Module] = []
    for _ in range(-doublings):
        steps += [nn.ReLU(), nn.Conv2d(target, target, 3, 2, 1)]
    return steps
