"""The context network of a bottleneck: corrects the tables' probabilities by the symbols that were coded before."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from splitreg.coding import ContextModel, SymbolModel
from splitreg.coding.context import (
    DECISIONS,
    FRACTION,
    MAX_ACTIVATION,
    MAX_INPUT,
    MAX_LEVEL,
    MAX_LOGIT,
    NEIGHBOURS,
    STEPS,
    table_logits,
)  # fmt: skip
from splitreg.networks.fixedpoint import FixedConv

#: Corrections and logits are in units of 2**-LOGIT nats.
LOGIT = 8


class ContextNetwork(nn.Module):
    """Four layers in fixed point, trained on symbols that are known and run by ``ContextModel``.

    Args:
        channels: C of the latent.
        width: units of the layers around a position.
        units: units of each channel.

    Source: Minnen et al. 2018, arXiv:1809.02736.
    """

    def __init__(self, channels: int, width: int, units: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.around = _layer(len(NEIGHBOURS) * wide + 1, width, reads=0)
        self.hidden = _layer(width, width)
        earlier = torch.ones(channels, channels).tril(-1).repeat_interleave(units, 0).repeat(1, 2)
        mask = torch.cat([torch.ones(channels * units, width), earlier], 1)[..., None, None]
        self.here = _layer(width + wide, channels * units, mask=mask)
        self.logits = FixedConv(
            channels * units, channels * DECISIONS, reads=FRACTION, gives=LOGIT, low=-MAX_LOGIT, high=MAX_LOGIT,
            groups=channels,
        )  # fmt: skip
        nn.init.zeros_(self.logits.weight)  # begins as the tables

    def forward(self, symbols: Tensor, levels: Tensor) -> Tensor:
        """Return corrections in nats.

        Args:
            symbols: (B, C, h, w), whole numbers.
            levels: (B,) of the rates, 0 to ``MAX_LEVEL``.

        Returns:
            (B, C, ``DECISIONS``, h, w).
        """
        batch, channels, height, width = symbols.shape
        clipped = symbols.clamp(-MAX_INPUT, MAX_INPUT)
        planes = torch.cat([clipped.clamp(min=0), (-clipped).clamp(min=0)], 1)
        padded = functional.pad(planes, (2, 2, 2, 2))
        around = [padded[:, :, 2 + y : 2 + y + height, 2 + x : 2 + x + width] for y, x in NEIGHBOURS]
        level = levels[:, None, None, None].expand(batch, 1, height, width)
        hidden = self.hidden(self.around(torch.cat([*around, level], 1)))
        corrections: Tensor = self.logits(self.here(torch.cat([hidden, planes], 1)))
        return corrections.view(batch, channels, DECISIONS, height, width)

    def bits(self, latent: Tensor, tables: Tensor, levels: Tensor, alone: Tensor) -> Tensor:
        """Return the bits of each image.

        The network learns from the bits of the rounded latent; the latent learns from the difference between the bits of the
        two symbols next to it, after noise of up to half a step; beyond all steps it does not.

        Args:
            latent: (B, C, h, w).
            tables: (B, C, 2 + ``STEPS``), see ``decision_logits``.
            levels: (B,), see ``forward``.
            alone: (B, C, h, w), bits of the rounded latent by the prior alone; they are used beyond all steps.
        """
        symbols = latent.detach().round()
        corrections = self(symbols, levels)
        logits = tables[..., None, None].expand(-1, -1, -1, *symbols.shape[2:])
        near = _decision_bits(symbols, logits, corrections)
        with torch.no_grad():
            known = _decision_bits(symbols, logits, torch.zeros_like(corrections))
            tail = (symbols.abs() > STEPS) * (alone - known).clamp(min=0)
        total = (near + tail).sum((1, 2, 3))
        if not latent.requires_grad:
            return total
        with torch.no_grad():
            below = (latent + torch.empty_like(latent).uniform_(-0.5, 0.5)).floor()
            given = corrections.detach()
            slopes = _decision_bits(below + 1, logits, given) - _decision_bits(below, logits, given)
        moved: Tensor = (slopes * (latent - latent.detach())).sum((1, 2, 3))
        return total + moved

    def freeze(self, models: Sequence[SymbolModel]) -> list[SymbolModel]:
        """Return tables with the current network, each at its level of the rate.

        Args:
            models: in the order of rising rates.

        Raises:
            InvalidTables: the weights are not finite.
        """
        layers = {name: getattr(self, name).frozen() for name in ("around", "hidden", "here", "logits")}
        first = ContextModel(**layers)
        return [model.with_context(first.at(level_of(i, len(models)))) for i, model in enumerate(models)]


def _decision_bits(symbols: Tensor, logits: Tensor, corrections: Tensor) -> Tensor:
    """Return (B, C, h, w), the bits of the decisions that symbols are made of."""
    size = symbols.abs()

    def cost(decision: int, column: int, one: Tensor) -> Tensor:
        both = logits[:, :, column] + corrections[:, :, decision]
        return functional.binary_cross_entropy_with_logits(both, one.float(), reduction="none")

    total = cost(0, 0, size > 0) + (size > 0) * cost(1, 1, symbols > 0)
    for step in range(1, STEPS + 1):
        total = total + (size >= step) * cost(2, 1 + step, size > step)
    return total / math.log(2)


def decision_logits(models: Sequence[SymbolModel]) -> Tensor:
    """Return the logits of the decisions that symbols are made of, by G tables alone: (G, C, 2 + ``STEPS``), in nats."""
    rows = [table_logits(model.cdf, model.lengths, model.offsets) for model in models]
    logits: Tensor = torch.from_numpy(np.stack(rows)).float() / 2**LOGIT
    return logits


def level_of(index: int, count: int) -> int:
    """Return the level of one of ``count`` rates."""
    return round(index * MAX_LEVEL / max(count - 1, 1))


def _layer(before: int, after: int, *, reads: int = FRACTION, mask: Tensor | None = None) -> FixedConv:
    return FixedConv(before, after, reads=reads, gives=FRACTION, low=0, high=MAX_ACTIVATION, rectify=True, mask=mask)
