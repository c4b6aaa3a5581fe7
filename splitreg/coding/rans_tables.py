"""What the rANS coder derives from a model's tables: integers alone, so both sides derive the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.symbols import PRECISION, SymbolModel

#: Tables of a channel that learn while they code: one for each context.
CONTEXTS = 6
#: Contexts begin with the model's frequencies to these powers: sharper where the neighbours are quiet. In eighths.
POWERS = (12, 10, 8, 7, 6, 5)
#: Models with more entries than this are not adapted: their contexts would take too much memory.
MOST_ADAPTED = 2**20

_TOTAL = 1 << PRECISION


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tables:
    """Tables of a model, laid out for the coder; R rows, S symbols in the longest (the escape included).

    Args:
        symbols: (R,) int32, symbols of each row.
        offsets: (R,) int32.
        modes: (R,) int32, index of the most frequent symbol.
        inverses: (R,) uint32; a distance d from the mode has the magnitude ``min(255, d * inverse >> 8)``, in 16ths of
            the mean distance.
        frequencies: (R, S) uint32, 0 behind a row's end.
        costs: (R, S) uint32, lengths in 1/256 bits.
        priors: (R, CONTEXTS, S) uint32, what contexts begin with; None where the model is not adapted.
    """

    symbols: NDArray[np.int32]
    offsets: NDArray[np.int32]
    modes: NDArray[np.int32]
    inverses: NDArray[np.uint32]
    frequencies: NDArray[np.uint32]
    costs: NDArray[np.uint32]
    priors: NDArray[np.uint32] | None


def derive(model: SymbolModel) -> Tables:
    """Derive the coder's tables from a model that has some."""
    symbols = model.lengths - 1
    longest = int(symbols.max())
    inside = np.arange(longest) < symbols[:, None]
    steps = np.diff(model.cdf.astype(np.int64), axis=1)[:, :longest]
    frequencies = np.where(inside, steps, 0)
    modes = frequencies.argmax(1)
    distances = np.abs(np.arange(longest) - modes[:, None])
    mean = (frequencies * distances).sum(1)  # in units of 2**-16; at least 1, because a row has two symbols
    adapted = frequencies.size <= MOST_ADAPTED
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
    """Return ``256 * (16 - log2 f)``, rounded up, in integers: a bit of the logarithm with each squaring."""
    whole = np.zeros_like(frequencies)
    for shift in (16, 8, 4, 2, 1):
        more = (frequencies >> whole) >= (1 << shift)
        whole = whole + np.where(more, shift, 0)
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
    found = np.zeros((len(frequencies), CONTEXTS, frequencies.shape[1]), np.uint32)
    for context, power in enumerate(POWERS):
        product = frequencies << 16 if power >= 8 else None
        for eighths, part in parts.items():
            if power & eighths:
                product = part if product is None else product * (part >> 8) >> 8
        assert product is not None
        found[:, context] = normalise(np.where(inside, product, 0), inside, modes)
    return found


def _root(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the integer square root of values below 2**52, where IEEE's square root is exact."""
    return np.asarray(np.sqrt(values.astype(np.float64)), np.int64)


def normalise(weights: NDArray[np.int64], inside: NDArray[np.bool_], modes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Turn (R, S) weights below 2**44 into frequencies of at least 1 that sum to 2**16; the mode takes what is left over."""
    spare = _TOTAL - inside.sum(1, keepdims=True)
    total = weights.sum(1, keepdims=True)
    shift = 0
    while total.max() >> shift >= 1 << 46:  # weight * spare must fit 63 bits
        shift += 1
    frequencies = np.where(inside, 1 + (weights >> shift) * spare // np.maximum(total >> shift, 1), 0)
    frequencies[np.arange(len(modes)), modes] += _TOTAL - frequencies.sum(1)
    return np.asarray(frequencies)
