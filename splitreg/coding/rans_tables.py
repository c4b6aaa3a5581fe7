"""Tables that the rANS coder derives from a model, in integers, so that both sides derive the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.frequencies import PRECISION
from splitreg.coding.symbols import SymbolModel

#: Number of contexts, each with an adaptive table, per channel.
CONTEXTS = 6
#: Powers of the model's frequencies that contexts start with, in eighths: sharper for small neighbours.
POWERS = (12, 10, 8, 7, 6, 5)
#: Models with more entries are not adapted: their contexts would take too much memory.
MAX_ADAPTED_ENTRIES = 2**20

_TOTAL = 1 << PRECISION


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tables:
    """Tables of a model for the coder: R rows, S symbols in the longest, the escape included.

    Args:
        symbols: (R,) int32, number of symbols of each row.
        offsets: (R,) int32, value of the first symbol.
        modes: (R,) int32, index of the most frequent symbol.
        inverses: (R,) uint32; a distance d from the mode has the magnitude ``min(255, d * inverse
            >> 8)``, in 16ths of the mean distance.
        frequencies: (R, S) uint32, 0 after a row's end.
        costs: (R, S) uint32, code lengths in 1/256 bits.
        priors: (R, CONTEXTS, S) uint32, initial frequencies of the contexts; None if the model is
            not adapted.
    """

    symbols: NDArray[np.int32]
    offsets: NDArray[np.int32]
    modes: NDArray[np.int32]
    inverses: NDArray[np.uint32]
    frequencies: NDArray[np.uint32]
    costs: NDArray[np.uint32]
    priors: NDArray[np.uint32] | None


def derive_tables(model: SymbolModel) -> Tables:
    """Derive the coder's tables from a model with tables."""
    symbols = model.lengths - 1
    longest = int(symbols.max())
    inside = np.arange(longest) < symbols[:, None]
    steps = np.diff(model.cdf.astype(np.int64), axis=1)[:, :longest]
    frequencies = np.where(inside, steps, 0)
    modes = frequencies.argmax(1)
    distances = np.abs(np.arange(longest) - modes[:, None])
    mean = (frequencies * distances).sum(1)  # in units of 2**-16; at least 1, as a row has 2 symbols
    adapted = frequencies.size <= MAX_ADAPTED_ENTRIES
    return Tables(
        symbols=symbols.astype(np.int32),
        offsets=model.offsets,
        modes=modes.astype(np.int32),
        inverses=np.minimum((16 * 256 * _TOTAL) // mean, _TOTAL - 1).astype(np.uint32),
        frequencies=frequencies.astype(np.uint32),
        costs=np.where(inside, _cost(np.maximum(frequencies, 1)), 0).astype(np.uint32),
        priors=_priors(frequencies, inside, modes) if adapted and model.indexes is None else None,
    )


def _cost(frequencies: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``256 * (16 - log2 f)``, rounded up, in integers: one bit of the logarithm per squaring."""
    whole = np.zeros_like(frequencies)
    for shift in (16, 8, 4, 2, 1):
        larger = (frequencies >> whole) >= (1 << shift)
        whole = whole + np.where(larger, shift, 0)
    x = frequencies << (30 - whole)  # in [2**30, 2**31)
    fraction = np.zeros_like(whole)
    for _ in range(8):
        x = x * x >> 30
        bit = x >> 31
        x >>= bit
        fraction = 2 * fraction + bit
    return np.asarray(256 * (PRECISION - whole) - fraction)


def _priors(frequencies: NDArray[np.int64], inside: NDArray[np.bool_], modes: NDArray[np.int64]) -> NDArray[np.uint32]:
    """Return (R, CONTEXTS, S): the frequencies to the powers of ``POWERS``, normalised."""
    half = _root(frequencies << 32)  # f**(1/2) in units of 2**-16
    quarter = _root(half << 16)
    eighth = _root(quarter << 16)
    parts = {4: half, 2: quarter, 1: eighth}
    priors = np.zeros((len(frequencies), CONTEXTS, frequencies.shape[1]), np.uint32)
    for context, power in enumerate(POWERS):
        product = frequencies << 16 if power >= 8 else None
        for eighths, part in parts.items():
            if power & eighths:
                product = part if product is None else product * (part >> 8) >> 8
        assert product is not None
        priors[:, context] = normalise(np.where(inside, product, 0), inside, modes)
    return priors


def _root(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the integer square root of values below 2**52, where IEEE's square root is exact."""
    return np.asarray(np.sqrt(values.astype(np.float64)), np.int64)


def normalise(weights: NDArray[np.int64], inside: NDArray[np.bool_], modes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (R, S) weights below 2**44 as frequencies of at least 1 that sum to 2**16.

    The remainder of the rounding is added to the mode.
    """
    spare = _TOTAL - inside.sum(1, keepdims=True)
    total = weights.sum(1, keepdims=True)
    shift = 0
    while total.max() >> shift >= 1 << 46:  # weight * spare must fit 63 bits
        shift += 1
    frequencies = np.where(inside, 1 + (weights >> shift) * spare // np.maximum(total >> shift, 1), 0)
    frequencies[np.arange(len(modes)), modes] += _TOTAL - frequencies.sum(1)
    return np.asarray(frequencies)
