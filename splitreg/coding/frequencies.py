"""Integer frequency tables in compressai's layout: rows of cumulative frequencies.

A row rises from 0 to ``2**PRECISION``, in steps of at least 1. Its last symbol is the escape, which
stands for every value outside the row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import InvalidTables

#: Frequencies of a row sum to ``2**PRECISION``.
PRECISION = 16
#: Values of a row's first symbol are within +-``MAX_OFFSET``.
MAX_OFFSET = 2**30


def check_rows(cdf: NDArray[np.int32], lengths: NDArray[np.int32], offsets: NDArray[np.int32], rows: int) -> None:
    """Check frequency tables.

    Args:
        cdf: (R, L) cumulative frequencies.
        lengths: (R,) used entries of each row.
        offsets: (R,) value of the first symbol of each row.
        rows: expected R.

    Raises:
        InvalidTables: states the rule, and the row that breaks it.
    """
    if cdf.ndim != 2 or cdf.shape[0] != rows or lengths.shape != (rows,) or offsets.shape != (rows,):
        raise InvalidTables(
            f"for {rows} channels, cdf, lengths and offsets must be ({rows}, L), ({rows},) and ({rows},); got "
            f"{cdf.shape}, {lengths.shape} and {offsets.shape}"
        )
    if (lengths < 3).any() or (lengths > cdf.shape[1]).any():
        raise InvalidTables(
            f"lengths must be 3 (one symbol and the escape) to {cdf.shape[1]}, got {lengths.min()} to {lengths.max()}"
        )
    if (np.abs(offsets.astype(np.int64)) > MAX_OFFSET).any():
        raise InvalidTables(f"offsets must be within +-2**30, got {offsets.min()} to {offsets.max()}")
    for row in range(rows):
        entries = cdf[row, : lengths[row]]
        if entries[0] != 0 or entries[-1] != 2**PRECISION:
            raise InvalidTables(f"row {row} must start at 0 and end at {2**PRECISION}, got {entries[0]}, {entries[-1]}")
        if (np.diff(entries) < 1).any():
            raise InvalidTables(f"row {row} must rise by at least 1 per symbol")


def rows_from_probabilities(probabilities: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return the cumulative frequencies of distributions; what is left of a row's probability is its escape's.

    Args:
        probabilities: (R, L), of L neighbouring values per row; a row sums to at most 1.

    Returns:
        (R, L + 2), the escape included; every symbol and the escape have a frequency of at least 1.

    Raises:
        InvalidTables: another shape, too many values, negative or infinite probabilities, or a sum
            above 1.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or not 1 <= probabilities.shape[1] <= 2 ** (PRECISION - 1) or not len(probabilities):
        raise InvalidTables(
            f"probabilities must be (R, L) with L from 1 to {2 ** (PRECISION - 1)}, got {probabilities.shape}"
        )
    sums = probabilities.sum(1)
    if not np.isfinite(probabilities).all() or (probabilities < 0).any() or (sums > 1 + 1e-4).any():
        raise InvalidTables("probabilities must be finite, not negative, and sum to at most 1 per row")
    rows, values = probabilities.shape
    whole = np.concatenate([probabilities, np.maximum(0.0, 1 - sums)[:, None]], axis=1)
    spare = 2**PRECISION - values - 1  # one for each symbol and the escape
    frequencies = 1 + np.floor(whole / whole.sum(1, keepdims=True) * spare).astype(np.int64)
    frequencies[np.arange(rows), whole.argmax(1)] += 2**PRECISION - frequencies.sum(1)
    return np.concatenate([np.zeros((rows, 1), np.int64), frequencies.cumsum(1)], axis=1)


def rows_from_counts(counts: NDArray[np.floating[Any]], rows: int, bits: int) -> NDArray[np.int64]:
    """Return the cumulative frequencies of a histogram; every symbol has a frequency of at least 1.

    Args:
        counts: (R, 2**bits), how often each symbol occurred; a row of zeros becomes a flat table.
        rows: expected R.
        bits: bits per symbol, at most 15.

    Returns:
        (R, 2**bits + 2), the escape included.

    Raises:
        InvalidTables: another shape, or negative or infinite counts.
    """
    counts = np.asarray(counts, np.float64)
    levels = 2**bits
    if bits > PRECISION - 1 or counts.shape != (rows, levels):
        raise InvalidTables(f"counts must be ({rows}, {levels}) for {bits} bits (at most 15), got {counts.shape}")
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise InvalidTables("counts must be finite and not negative")
    counts = np.where(counts.sum(1, keepdims=True) > 0, counts, 1.0)
    spare = 2**PRECISION - levels - 1  # one for each symbol and the escape
    frequencies = 1 + np.floor(counts / counts.sum(1, keepdims=True) * spare).astype(np.int64)
    frequencies[np.arange(rows), counts.argmax(1)] += 2**PRECISION - 1 - frequencies.sum(1)
    cdf = np.zeros((rows, levels + 2), np.int64)
    cdf[:, 1:-1] = frequencies.cumsum(1)
    cdf[:, -1] = 2**PRECISION
    return cdf
