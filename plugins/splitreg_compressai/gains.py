"""Learned gains per channel of the latent: one model for a range of rates."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splitreg.coding import POSITIONS, HyperModel, SymbolModel, VariableModel

#: Position of validation, and of encoding without a given rate; its rate weight is the stage's own.
MIDDLE = POSITIONS // 2


class Gains(nn.Module):
    """A gain and an inverse gain per channel, interpolated geometrically between learned ones.

    At rate r from 0 (smallest packets) to 1 (largest) the weight of the rate is ``span**(0.5 - r)`` times
    the stage's. For a distortion that grows with the square of the step, the best step grows with the
    root of that weight. Gains start there, and the difference is learned, so weight decay pulls it to
    zero. Inverse gains can learn to shrink values that coarse steps exaggerate.

    Args:
        channels: C of the latent.
        points: number of learned gains, at evenly spaced rates; 2 or more.
        span: largest weight of the rate over the smallest.

    Source: Cui et al. 2021, arXiv:2003.02012.
    """

    def __init__(self, channels: int, points: int, span: float) -> None:
        super().__init__()
        self.span = span
        self.gain = nn.Parameter(torch.zeros(points, channels))
        self.shrink = nn.Parameter(torch.zeros(points, channels))

    def forward(self, rates: Tensor) -> tuple[Tensor, Tensor]:
        """(B,) rates to gains and inverse gains, (B, C, 1, 1) each."""
        place = rates * (len(self.gain) - 1)
        below = place.detach().floor().clamp(0, len(self.gain) - 2).long()
        part = (place - below)[:, None]
        learned, shrink = (table[below] * (1 - part) + table[below + 1] * part for table in (self.gain, self.shrink))
        logarithm = (rates[:, None] - 0.5) * (0.5 * math.log(self.span)) + learned
        return logarithm.exp()[..., None, None], (shrink - logarithm).exp()[..., None, None]

    def at(self, batch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return gains, inverse gains and rate weights (B,) of a batch: drawn in training, else of ``MIDDLE``.

        Rates are drawn per image and spread evenly over the batch, so each step sees the whole range.
        """
        device = self.gain.device
        if not self.training:
            frozen = (torch.from_numpy(rows)[..., None, None] for rows in self.rows([MIDDLE / (POSITIONS - 1)]))
            gains, inverses = (row.to(device).expand(batch, -1, -1, -1) for row in frozen)
            return gains, inverses, torch.ones(batch, device=device)
        rates = (torch.arange(batch, device=device) + torch.rand((), device=device)) / batch
        return *self(rates), self.span ** (0.5 - rates)

    @torch.no_grad()
    def rows(self, rates: Sequence[float] | None = None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return frozen gains and inverse gains (N, C) at some rates, or at the learned points."""
        exact = copy.deepcopy(self).cpu().double()  # independent of the training's device
        at = torch.linspace(0, 1, len(self.gain)) if rates is None else torch.tensor(rates, dtype=torch.float64)
        gains, inverses = (rows[..., 0, 0].float().numpy() for rows in exact(at.double()))
        return gains, inverses

    def freeze(self, models: Sequence[SymbolModel | HyperModel], shift: Tensor | None = None) -> VariableModel:
        """Return the frozen gains of all positions over ``models``, in the order of rising rates.

        Raises:
            InvalidTables: the gains are not finite, or too large.
        """
        gains, inverses = self.rows([position / (POSITIONS - 1) for position in range(POSITIONS)])
        chosen = np.rint(np.arange(POSITIONS) * (len(models) - 1) / (POSITIONS - 1)).astype(np.uint8)
        none = np.zeros(self.gain.shape[1], np.float32)
        return VariableModel(
            models=tuple(models), chosen=chosen, gains=gains, inverses=inverses, default=MIDDLE,
            shift=none if shift is None else shift.detach().cpu().float().numpy(),
        )  # fmt: skip
