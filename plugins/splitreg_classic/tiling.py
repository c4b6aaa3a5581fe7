"""Tiles of one image: the channels of a feature side by side (numpy only).

Source: Alvar & Bajic 2019, arXiv:1902.05179.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def grid(channels: int) -> tuple[int, int]:
    """Return (rows, columns) of tiles: powers of two, columns equal to rows or twice as many.

    >>> grid(256), grid(512), grid(24)
    ((16, 16), (16, 32), (4, 8))
    """
    doublings = (channels - 1).bit_length()
    return 1 << doublings // 2, 1 << (doublings + 1) // 2


def tile(symbols: NDArray[np.int32]) -> NDArray[np.int32]:
    """(C, h, w) -> (rows * h, columns * w); unused tiles are zero."""
    channels, height, width = symbols.shape
    rows, columns = grid(channels)
    full = np.zeros((rows * columns, height, width), symbols.dtype)
    full[:channels] = symbols
    return full.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)


def untile(image: NDArray[np.int32], shape: tuple[int, int, int]) -> NDArray[np.int32]:
    """Undo ``tile``."""
    channels, height, width = shape
    rows, columns = grid(channels)
    tiles = image.reshape(rows, height, columns, width).swapaxes(1, 2).reshape(-1, height, width)
    return np.ascontiguousarray(tiles[:channels])
