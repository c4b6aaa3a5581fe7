"""Convolutions trained in the fixed-point arithmetic in which they run, with straight-through gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from splitreg.coding import IntegerLayer
from splitreg.errors import InvalidTables

#: Weights are whole multiples of ``2**-WEIGHT_BITS``, from -MAX_WEIGHT to MAX_WEIGHT.
WEIGHT_BITS = 8
MAX_WEIGHT = 2047


class FixedConv(nn.Module):
    """A convolution of fixed-point numbers: integers times ``2**-reads`` to integers times ``2**-gives``.

    Args:
        before: input channels.
        after: output channels.
        kernel: 1 or 3, with zero padding.
        reads: fraction bits of the input.
        gives: fraction bits of the output.
        low: smallest output, as an integer.
        high: largest output, as an integer.
        rounds: False: do not round the output; the caller adds noise instead.
        groups: of a grouped convolution.
        rectify: pass no gradient outside the bounds, as a ReLU does; otherwise those that lead back inside.
        mask: (after, before / groups, kernel, kernel) of zeros and ones: the weights that are used; None: all.

    Attributes:
        exact: False: do not round at all, to measure the cost of rounding.

    Source: Jacob et al. 2018, arXiv:1712.05877 (quantisation in the forward pass of training).
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
        groups: int = 1,
        rectify: bool = False,
        mask: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.reads, self.gives, self.low, self.high, self.rounds = reads, gives, low, high, rounds
        self.groups, self.rectify = groups, rectify
        self.weight = nn.Parameter(torch.empty(after, before // groups, kernel, kernel))
        self.mask: Tensor | None
        self.register_buffer("mask", mask, persistent=False)
        self.bias = nn.Parameter(torch.zeros(after))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, h, w) -> (B, after, h, w)."""
        weight: Tensor = self._used()
        bias: Tensor = self.bias
        if self.exact:
            unit = 2.0**WEIGHT_BITS
            weight = bounded(rounded(weight * unit), -MAX_WEIGHT, MAX_WEIGHT) / unit
            bias = rounded(bias * unit * 2.0**self.reads) / (unit * 2.0**self.reads)
        padding = weight.shape[-1] // 2
        scaled = functional.conv2d(x, weight, bias, padding=padding, groups=self.groups) * 2.0**self.gives
        if self.exact and self.rounds:
            scaled = rounded(scaled)
        inside = scaled.clamp(self.low, self.high) if self.rectify else bounded(scaled, self.low, self.high)
        return inside / 2.0**self.gives

    def _used(self) -> Tensor:
        return self.weight if self.mask is None else self.weight * self.mask

    def frozen(self, offset: int = 0) -> IntegerLayer:
        """Return the current weights as an integer layer; outputs and bounds are increased by ``offset``.

        Raises:
            InvalidTables: the weights are not finite, or a bias is too large.
        """
        shift = WEIGHT_BITS + self.reads - self.gives
        weight = _whole(self._used() * 2.0**WEIGHT_BITS).clip(-MAX_WEIGHT, MAX_WEIGHT)
        bias = _whole(self.bias * 2.0 ** (WEIGHT_BITS + self.reads)) + (offset << shift)
        if not np.isfinite(weight).all() or not (np.abs(bias) < 2.0**31).all():
            raise InvalidTables(
                "the networks of the prior have NaN, infinite or very large weights; training has diverged"
            )
        return IntegerLayer(
            weight=weight.astype(np.int16), bias=bias.astype(np.int32), shift=shift, low=self.low + offset,
            high=self.high + offset,
        )  # fmt: skip


def frozen_layers(network: nn.Module) -> Sequence[IntegerLayer]:
    """Return the integer layers of a chain of ``FixedConv``."""
    return [module.frozen() for module in network.modules() if isinstance(module, FixedConv)]


def rounded(x: Tensor) -> Tensor:
    """Round halves up, with straight-through gradients."""
    result: Tensor = _Rounded.apply(x)
    return result


def bounded(x: Tensor, low: float, high: float) -> Tensor:
    """Clip; outside the bounds only gradients that lead back inside pass."""
    result: Tensor = _Bounded.apply(x, low, high)
    return result


class _Rounded(torch.autograd.Function):  # x + (round(x) - x).detach() is not always whole
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
        outward = ((x < low) & (gradient > 0)) | ((x > high) & (gradient < 0))
        return gradient.masked_fill(outward, 0.0), None, None


def _whole(tensor: Tensor) -> np.ndarray[Any, np.dtype[np.float64]]:
    return rounded(tensor.detach()).cpu().double().numpy()
