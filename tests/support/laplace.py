"""Tables of discretised Laplacians in compressai's layout."""

import numpy as np

from splitreg.coding import SymbolModel


def laplace_model(scales, reach=20):
    """A model of one row per scale."""
    scales = np.asarray(scales, np.float64)
    halves = np.clip(4 * scales, 1, reach).astype(int)
    cdf = np.zeros((len(scales), 2 * halves.max() + 3), np.int64)
    for row, (scale, half) in enumerate(zip(scales, halves, strict=True)):
        mass = np.exp(-np.abs(np.arange(-half, half + 1)) / scale)
        frequencies = np.maximum(1, np.floor(mass / mass.sum() * 65000))
        cdf[row, 1 : 2 * half + 2] = frequencies.cumsum()
        cdf[row, 2 * half + 2 :] = 2**16
    return SymbolModel.from_cdf(cdf, 2 * halves + 3, -halves)
