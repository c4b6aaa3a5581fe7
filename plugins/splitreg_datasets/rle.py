"""COCO's masks: polygons, run lengths, compressed run lengths. What is malformed raises ``ValueError``.

Run lengths go down the columns and begin with background. Compressed ones are base-32 digits with a continuation bit,
least significant first, from the third run on as differences to the run two before (as the COCO API defines it).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def decode(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the (H, W) mask of a COCO ``segmentation``.

    Args:
        segmentation: a list of polygons, or ``{"size": [H, W], "counts": list or string}``.
        size: (H, W) of the picture.

    Raises:
        ValueError: not one of these, or not of that size.
    """
    if isinstance(segmentation, dict):
        if segmentation.get("size") != list(size):
            raise ValueError(f"run lengths for size {segmentation.get('size')}, the picture's is {list(size)}")
        counts = segmentation.get("counts")
        if isinstance(counts, str | bytes):
            counts = uncompress(counts, limit=size[0] * size[1])
        return from_counts(counts, size)
    if isinstance(segmentation, list) and segmentation:
        return from_polygons(segmentation, size)
    raise ValueError("neither polygons nor run lengths")


def from_counts(counts: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask of plain run lengths.

    >>> from_counts([1, 2, 1], (2, 2)).astype(int).tolist()
    [[0, 1], [1, 0]]
    """
    if not isinstance(counts, list) or not all(type(c) is int and c >= 0 for c in counts):
        raise ValueError("run lengths must be a list of integers, none below zero")
    if sum(counts) != size[0] * size[1]:
        raise ValueError(f"run lengths add up to {sum(counts)}, the picture has {size[0] * size[1]} pixels")
    inside = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(inside, counts).reshape(size, order="F"))


def uncompress(text: str | bytes, *, limit: int) -> list[int]:
    """Return the run lengths of a compressed string; ``limit`` is the number of pixels."""
    data = text.encode("ascii", "replace") if isinstance(text, str) else bytes(text)
    counts: list[int] = []
    value, shift = 0, 0
    for byte in data:
        digit = byte - 48
        if not 0 <= digit < 64:
            raise ValueError(f"compressed run lengths hold the byte {byte}")
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:
            if shift > 40:
                raise ValueError("a compressed run length has too many digits")
            continue
        if digit & 16:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        if not 0 <= value <= limit:
            raise ValueError(f"a run length of {value} in a picture of {limit} pixels")
        counts.append(value)
        value, shift = 0, 0
    if shift:
        raise ValueError("compressed run lengths end in the middle of a number")
    return counts


def from_polygons(polygons: Sequence[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the mask of the union of polygons ``[x0, y0, x1, y1, ...]``, drawn as the COCO API draws them."""
    from faster_coco_eval.core import mask

    height, width = size
    drawn = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2:
            raise ValueError("a polygon must be a list of x and y")
        for axis, side in ((0, width), (1, height)):
            # the drawing's work grows with the length of the edges: far outside is an error, not a long wait
            if not all(_number(c) and -side - 8 <= c <= 2 * side + 8 for c in polygon[axis::2]):
                raise ValueError("a polygon's corners must be numbers within or near the picture")
        if len(polygon) >= 6:  # points and lines cover nothing (COCO itself has a few)
            drawn.append([float(c) for c in polygon])
    if not drawn:
        return np.zeros(size, bool)
    runs = mask.merge(mask.frPyObjects(drawn, height, width))
    return np.ascontiguousarray(mask.decode(runs)).astype(bool)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
