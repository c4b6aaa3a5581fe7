"""Learned densities become integer tables."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitreg.coding import SymbolModel
from splitreg.coding.context import MAX_LOGIT, STEPS
from splitreg.errors import InvalidTables
from splitreg.networks import bounded
from splitreg_compressai.density import MIN_LIKELIHOOD, FactorizedDensity

#: Values that are rarer than this on one side of the median are left to the escape: a table entry of their own would
#: take 2**-16 from the others, and a heavy tail has hundreds of them.
TAIL = 2.0**-16
#: A row has at most this many symbols on either side of the median.
REACH = 512
#: Rows of a table of scales, and the first of them: row r is a normal distribution of standard deviation
#: exp((r - UNIT) / PER_E), from 0.105 to 61.8. A step of 13 % costs 0.002 bits a symbol.
ROWS, UNIT, PER_E = 52, 18, 8


def density_tables(prior: FactorizedDensity, *, whole: bool = False) -> SymbolModel:
    """Return the integer tables of a learned density: the medians, and rows as wide as the tails.

    Args:
        prior: of C channels, not changed.
        whole: the symbols are whole numbers, so no median is subtracted from them.

    Raises:
        InvalidTables: the prior's parameters are not finite.
    """
    prior = copy.deepcopy(prior).cpu().float().eval()
    with torch.no_grad():
        medians = prior.quantiles[:, 0, 1].clone()
        if whole:
            prior.quantiles[:, 0, 1] = medians = medians.round()
        steps = torch.arange(-REACH, REACH + 1)
        _, likelihoods = prior((medians[:, None] + steps)[None])  # (1, C, 2 * REACH + 1)
        below, above = _tails(likelihoods[0], "the prior has")
        before = (medians - (medians + steps[below])).ceil().int().clamp(min=0)
        after = ((medians - steps[above]) - medians).ceil().int().clamp(min=0)
        lengths = before + after + 1
        centres = torch.arange(int(lengths.max())) + (medians - before)[:, None, None]  # (C, 1, L)
        lower, upper = prior.logits(centres - 0.5), prior.logits(centres + 0.5)
        masses = (torch.sigmoid(upper) - torch.sigmoid(lower))[:, 0]
        escapes = torch.sigmoid(lower[:, 0, :1]) + torch.sigmoid(-upper[:, 0, -1:])
    rows = [
        quantised(torch.cat([row[:length], escape]).double().numpy())
        for row, length, escape in zip(masses, lengths, escapes, strict=True)
    ]
    offsets: NDArray[np.int64] = (-before).long().numpy()
    if whole:
        return _model(rows, offsets + medians.long().numpy())
    return _model(rows, offsets, medians.numpy())


def step_masses(prior: FactorizedDensity, centres: Tensor, halves: Tensor) -> Tensor:
    """Return the masses that a learned density has within ``halves`` of ``centres``.

    Args:
        prior: of C channels.
        centres: (B, C, h, w).
        halves: (B, C, 1, 1), positive.
    """
    edges = torch.stack([centres - halves, centres + halves])
    flat = edges.transpose(1, 2).transpose(0, 1).flatten(1)[:, None]  # (C, 1, 2 B h w)
    logits = prior.logits(flat).view(edges.shape[2], 2, len(centres), *centres.shape[2:])
    lower, upper = logits.transpose(0, 1).transpose(1, 2)
    # A sigmoid is exact near 0 and not near 1: take the side on which both are small.
    sign = -torch.sign(lower + upper).detach()
    masses = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
    return bounded(masses, MIN_LIKELIHOOD, math.inf)


@torch.no_grad()
def step_tables(prior: FactorizedDensity, gains: NDArray[np.float32]) -> SymbolModel:
    """Return the integer tables of (latent - median) * gain, given the density without the gain.

    Args:
        prior: of C channels, not changed.
        gains: (C,).

    Raises:
        InvalidTables: the prior's or the gains' parameters are not finite.
    """
    prior = copy.deepcopy(prior).cpu().float()
    widths = 1 / torch.from_numpy(gains)[:, None]
    centres = prior.quantiles[:, 0, 1, None] + torch.arange(-REACH, REACH + 1) * widths
    masses = step_masses(prior, centres[None, :, None], widths[None, :, None] / 2)[0, :, 0].double()
    below, above = (side.tolist() for side in _tails(masses, "the prior or the gains have"))
    rows = []
    for low, high, row in zip(below, above, masses.numpy(), strict=True):
        inner = row[low : 2 * REACH + 1 - high]
        rows.append(_frequencies(np.append(inner, max(0.0, 1 - inner.sum()))))  # last: the escape
    return _model(rows, np.array([low - REACH for low in below]))


@torch.no_grad()
def density_logits(prior: FactorizedDensity, gains: Tensor) -> Tensor:
    """Return the logits of the decisions by a density alone: (G, C, 2 + ``STEPS``), see ``splitreg.networks.decision_logits``.

    Args:
        prior: of C channels.
        gains: (G, C); a symbol is a step of 1 / gain.
    """
    medians = prior.quantiles[:, 0, 1]
    edges = torch.arange(STEPS + 1, device=gains.device) + 0.5
    reach = edges[:, None] / gains[:, None]  # (G, STEPS + 1, C)
    above, below = (
        torch.sigmoid(-side * prior.logits((medians + side * reach).flatten(0, 1).T[:, None])[:, 0].T).view(reach.shape)
        for side in (1, -1)
    )
    beyond = above + below
    pairs = [(beyond[:, 0], 1 - beyond[:, 0]), (above[:, 0], below[:, 0])]
    pairs += [(beyond[:, k], beyond[:, k - 1] - beyond[:, k]) for k in range(1, STEPS + 1)]
    logits = [(one.clamp_min(1e-9) / zero.clamp_min(1e-9)).log() for one, zero in pairs]
    return torch.stack(logits, 2).clamp(-MAX_LOGIT / 256, MAX_LOGIT / 256)


def scale_tables() -> SymbolModel:
    """Return ``ROWS`` normal distributions of rising scale, as masses of unit intervals."""
    rows, offsets = [], []
    for row in range(ROWS):
        scale = math.exp((row - UNIT) / PER_E)
        reach = next(k for k in range(1, REACH) if _above(k + 0.5, scale) < TAIL)
        edges = [_above(k - 0.5, scale) for k in range(reach + 2)]
        half = [edges[k] - edges[k + 1] for k in range(reach + 1)]  # half[k]: mass of k
        rows.append(_frequencies(np.array([*half[:0:-1], *half, 2 * edges[-1]])))  # last: the escape
        offsets.append(-reach)
    return _model(rows, np.array(offsets))


def quantised(masses: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return frequencies of 2**16 in total, each at least 1, as compressai rounds them.

    Rounded masses are scaled to the total, which leaves the rest to the last one. A frequency of 0
    takes 1 from the smallest that is above 1.
    """
    counts = np.floor(masses * 2**16 + 0.5).astype(np.int64)  # halves away from zero
    frequencies: NDArray[np.int64] = counts * 2**16 // counts.sum()
    frequencies[-1] = 2**16 - frequencies[:-1].sum()
    for index in np.flatnonzero(frequencies == 0):
        donor = np.where(frequencies > 1, frequencies, 2**17).argmin()
        frequencies[donor] -= 1
        frequencies[index] = 1
    return frequencies


def _frequencies(masses: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return frequencies of 2**16 in total; the most frequent symbol gets the rounding error."""
    frequencies: NDArray[np.int64] = np.maximum(1, np.rint(masses * 2**16)).astype(np.int64)
    frequencies[masses.argmax()] += 2**16 - frequencies.sum()
    return frequencies


def _model(
    rows: Sequence[NDArray[np.int64]], offsets: NDArray[np.int64], shift: NDArray[np.float32] | None = None
) -> SymbolModel:
    """Return the tables of one row of frequencies per channel."""
    lengths = np.array([len(row) + 1 for row in rows])
    cdf = np.zeros((len(rows), lengths.max()), np.int64)
    for index, row in enumerate(rows):
        cdf[index, 1 : lengths[index]] = row.cumsum()
    return SymbolModel.from_cdf(cdf, lengths, offsets, shift)


def _tails(masses: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """Return how many symbols of (C, N) masses are rarer than ``TAIL`` together, on either side."""
    if not torch.isfinite(masses).all():
        raise InvalidTables(f"{what} NaN or infinite parameters; training has diverged")
    below, above = ((m.cumsum(1) < TAIL).sum(1).clamp(max=REACH - 1) for m in (masses, masses.flip(1)))
    return below, above


def _above(x: float, scale: float) -> float:
    return 0.5 * math.erfc(x / scale / math.sqrt(2))
