"""Learned densities become integer tables."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from compressai.entropy_models import EntropyBottleneck
from numpy.typing import NDArray
from torch import Tensor

from splitreg.coding import SymbolModel
from splitreg.errors import InvalidTables

#: Values that are rarer than this on one side of the median are left to the escape: a table entry of their own would
#: take 2**-16 from the others, and a heavy tail has hundreds of them.
TAIL = 2.0**-16
#: A row has at most this many symbols on either side of the median.
REACH = 512
#: Rows of a table of scales, and the first of them: row r is a normal distribution of standard deviation
#: exp((r - UNIT) / PER_E), from 0.105 to 61.8. A step of 13 % costs 0.002 bits a symbol.
ROWS, UNIT, PER_E = 52, 18, 8


def density_tables(prior: EntropyBottleneck, *, whole: bool = False) -> SymbolModel:
    """Return the integer tables of a learned density per channel: its medians, and rows as wide as its tails are.

    Args:
        prior: not changed.
        whole: its symbols are whole numbers, so that no median is subtracted from them.

    Raises:
        InvalidTables: the prior's parameters are not finite.
    """
    prior = copy.deepcopy(prior).cpu().float()  # compressai's table buffers would change the state dict
    with torch.no_grad():
        medians = prior.quantiles[:, 0, 1].clone()
        if whole:
            prior.quantiles[:, 0, 1] = medians = medians.round()
        steps = torch.arange(-REACH, REACH + 1)
        _, mass = prior((medians[:, None] + steps)[None], training=False)  # (1, C, 2 * REACH + 1)
        if not torch.isfinite(mass).all():
            raise InvalidTables("the prior has NaN or infinite parameters; training has diverged")
        below = (mass[0].cumsum(1) < TAIL).sum(1).clamp(max=REACH - 1)
        above = (mass[0].flip(1).cumsum(1) < TAIL).sum(1).clamp(max=REACH - 1)
        prior.quantiles[:, 0, 0] = medians + steps[below]
        prior.quantiles[:, 0, 2] = medians - steps[above]
    prior.update(force=True)
    cdf, lengths, offsets = prior.quantized_cdf.numpy(), prior.cdf_length.numpy(), prior.offset.numpy()
    if whole:
        return SymbolModel.from_cdf(cdf, lengths, offsets + medians.numpy().astype(np.int32))
    return SymbolModel.from_cdf(cdf, lengths, offsets, medians.numpy())


def step_masses(prior: EntropyBottleneck, centres: Tensor, halves: Tensor) -> Tensor:
    """Return the masses that a learned density has within ``halves`` of ``centres``.

    Args:
        prior: of C channels.
        centres: (B, C, h, w).
        halves: (B, C, 1, 1), positive.
    """
    edges = torch.stack([centres - halves, centres + halves])
    flat = edges.transpose(1, 2).transpose(0, 1).flatten(1)[:, None]  # (C, 1, 2 B h w)
    # The public interface of compressai knows steps of one alone.
    logits = prior._logits_cumulative(flat, stop_gradient=False)
    lower, upper = logits.view(edges.shape[2], 2, len(centres), *centres.shape[2:]).transpose(0, 1).transpose(1, 2)
    # Near 1 a sigmoid has no precision left, near 0 it has.
    sign = -torch.sign(lower + upper).detach()
    mass: Tensor = prior.likelihood_lower_bound((torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs())
    return mass


@torch.no_grad()
def step_tables(prior: EntropyBottleneck, gains: NDArray[np.float32]) -> SymbolModel:
    """Return the integer tables of (latent - median) * gain, whose density a prior has without the gain.

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
    if not torch.isfinite(masses).all():
        raise InvalidTables("the prior or the gains have NaN or infinite parameters; training has diverged")
    below = (masses.cumsum(1) < TAIL).sum(1).clamp(max=REACH - 1).tolist()
    above = (masses.flip(1).cumsum(1) < TAIL).sum(1).clamp(max=REACH - 1).tolist()
    rows = []
    for low, high, row in zip(below, above, masses.numpy(), strict=True):
        inner = row[low : 2 * REACH + 1 - high]
        rows.append(np.append(inner, max(0.0, 1 - inner.sum())))  # the last: the escape
    return _tables(rows, [low - REACH for low in below])


def scale_tables() -> SymbolModel:
    """Return ``ROWS`` normal distributions of rising scale, each as the masses of unit intervals around whole numbers."""
    rows, offsets = [], []
    for row in range(ROWS):
        scale = math.exp((row - UNIT) / PER_E)
        reach = next(k for k in range(1, REACH) if _above(k + 0.5, scale) < TAIL)
        edges = [_above(k - 0.5, scale) for k in range(reach + 2)]
        half = [edges[k] - edges[k + 1] for k in range(reach + 1)]  # half[k]: mass of k
        rows.append(np.array([*half[:0:-1], *half, 2 * edges[-1]]))  # the last: the escape
        offsets.append(-reach)
    return _tables(rows, offsets)


def _tables(rows: Sequence[NDArray[np.float64]], offsets: Sequence[int]) -> SymbolModel:
    """Return the integer tables of masses, a row a channel; what rounding leaves goes to the most frequent symbol."""
    lengths = np.array([len(row) + 1 for row in rows])
    cdf = np.zeros((len(rows), lengths.max()), np.int64)
    for index, masses in enumerate(rows):
        frequencies = np.maximum(1, np.rint(masses * 2**16)).astype(np.int64)
        frequencies[masses.argmax()] += 2**16 - frequencies.sum()
        cdf[index, 1 : lengths[index]] = frequencies.cumsum()
    return SymbolModel.from_cdf(cdf, lengths, np.array(offsets))


def _above(x: float, scale: float) -> float:
    return 0.5 * math.erfc(x / scale / math.sqrt(2))
