"""Convolutions that are trained in the fixed-point arithmetic in which they will run, with gradients straight through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from splitreg.coding import IntegerLayer
from splitreg.errors import InvalidTables

#: Weights are multiples of ``2**-WEIGHT_BITS``, within +-``MAX_WEIGHT`` of those.
WEIGHT_BITS = 8
MAX_WEIGHT = 2047


class FixedConv(nn.Module):
    """A convolution over fixed-point numbers: integers times ``2**-reads`` come in, times ``2**-gives`` go out.

    Args:
        before: channels that come in.
        after: channels that go out.
        kernel: 1 or 3, with zeros around.
        reads: fraction bits of the input.
        gives: fraction bits of the output.
        low: smallest output, as an integer.
        high: largest output, as an integer.
        rounds: False: leave rounding the output to the caller (where noise stands for it).

    Attributes:
        exact: False: no rounding at all, as a network in floating point (to measure what rounding costs).

    Source: Jacob et al. 2018, arXiv:1712.05877 (training with quantisation in the forward pass alone).
    """

    exact = True

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int = 1,
        *,
        reads: int,
        gives: int,
        low: int,
        high: int,
        rounds: bool = True,
    ) -> None:
        super().__init__()
        self.reads, self.gives, self.low, self.high, self.rounds = reads, gives, low, high, rounds
        self.weight = nn.Parameter(torch.empty(after, before, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, h, w) to (B, after, h, w)."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if self.exact:
            unit = 2.0**WEIGHT_BITS
            weight = bounded(rounded(weight * unit), -MAX_WEIGHT, MAX_WEIGHT) / unit
            bias = rounded(bias * unit * 2.0**self.reads) / (unit * 2.0**self.reads)
        scaled = functional.conv2d(x, weight, bias, padding=weight.shape[-1] // 2) * 2.0**self.gives
        if self.exact and self.rounds:
            scaled = rounded(scaled)
        return bounded(scaled, self.low, self.high) / 2.0**self.gives

    def frozen(self, offset: int = 0) -> IntegerLayer:
        """Return the present weights as an integer layer, whose outputs and bounds are ``offset`` larger.

        Raises:
            InvalidTables: the weights are not finite, or a bias is huge.
        """
        shift = WEIGHT_BITS + self.reads - self.gives
        weight = _whole(self.weight * 2.0**WEIGHT_BITS).clip(-MAX_WEIGHT, MAX_WEIGHT)
        bias = _whole(self.bias * 2.0 ** (WEIGHT_BITS + self.reads)) + (offset << shift)
        if not np.isfinite(weight).all() or not (np.abs(bias) < 2.0**31).all():
            raise InvalidTables("the hyperprior's networks have NaN, infinite or huge weights; training has diverged")
        return IntegerLayer(
            weight=weight.astype(np.int16), bias=bias.astype(np.int32), shift=shift, low=self.low + offset,
            high=self.high + offset,
        )  # fmt: skip


def frozen_layers(network: nn.Module) -> Sequence[IntegerLayer]:
    """Return the integer layers of a chain of ``FixedConv``."""
    return [module.frozen() for module in network.modules() if isinstance(module, FixedConv)]


def rounded(x: Tensor) -> Tensor:
    """Round halves up; gradients pass as if it were not there."""
    found: Tensor = _Rounded.apply(x)
    return found


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """Clip; beyond the bounds gradients pass where following them leads back."""
    found: Tensor = _Bounded.apply(x, low, high)
    return found


class _Rounded(torch.autograd.Function):  # x + (round(x) - x).detach() is not always a whole number
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return torch.floor(x + 0.5)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, low: float, high: float) -> Tensor:
        context.save_for_backward(x)
        context.bounds = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,), (low, high), (gradient,) = context.saved_tensors, context.bounds, gradients
        # Descent moves against the gradient.
        stuck = ((x < low) & (gradient > 0)) | ((x > high) & (gradient < 0))
        return gradient.masked_fill(stuck, 0.0), None, None


def _whole(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return rounded(tensor.detach()).cpu().double().numpy()
