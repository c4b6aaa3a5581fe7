"""A PNG writer with zlib and numpy, so that devices need no imaging library to save masks."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_COLOUR_TYPES = {2: 0, 3: 2}  # dimensions of the array -> greyscale, RGB


def write_png(pixels: NDArray[Any]) -> bytes:
    """Return an array as a PNG file.

    Args:
        pixels: (H, W) uint8 or uint16 for greyscale, or (H, W, 3) uint8 for RGB.

    Source: PNG, third edition (https://www.w3.org/TR/png-3/).
    """
    height, width = pixels.shape[:2]
    depth = 8 * pixels.dtype.itemsize
    rows = np.ascontiguousarray(pixels, pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(height, -1)
    lines = np.pad(rows, ((0, 0), (1, 0)))  # filter type 0 before every row
    header = struct.pack(">IIBBBBB", width, height, depth, _COLOUR_TYPES[pixels.ndim], 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(lines.tobytes(), 6)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
