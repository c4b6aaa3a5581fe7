"""Masks as COCO run lengths, plain or compressed (numpy only).

Run lengths follow the columns and begin with background. In a compressed string each one is written
as base-32 digits with a continuation bit, least significant digit first; from the third one on it is
the difference to the run length two before.

Source: Lin et al. 2014, arXiv:1405.0312; the encoding is that of the COCO API.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Bits of a compressed run length, at most: 2**40 pixels are more than any image has.
MAX_RUN_BITS = 40


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, list[int]]:
    """Return an (H, W) bool mask as plain run lengths.

    >>> encode_mask(np.array([[False, True], [True, True]]))
    {'size': [2, 2], 'counts': [1, 3]}
    """
    flat = mask.ravel(order="F").astype(np.int8)
    edges = np.flatnonzero(np.diff(flat, prepend=np.int8(0))).tolist()
    bounds = [0, *edges, flat.size]
    return {"size": list(mask.shape), "counts": [b - a for a, b in itertools.pairwise(bounds)]}


def decode_mask(runs: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Return the (H, W) bool mask of run lengths.

    Args:
        runs: ``size`` [H, W] and ``counts``: a list of integers, or a compressed string.

    Raises:
        ValueError: the run lengths are malformed, or do not add up to H x W.

    >>> decode_mask({"size": [2, 2], "counts": [1, 3]}).tolist()
    [[False, True], [True, True]]
    """
    size = runs.get("size")
    if not isinstance(size, list | tuple) or len(size) != 2 or not all(type(s) is int and s >= 0 for s in size):
        raise ValueError(f"the size of a mask is [height, width], got {size!r}")
    height, width = size
    counts: Any = runs.get("counts")
    if isinstance(counts, str | bytes):
        counts = uncompress(counts, limit=height * width)
    if not isinstance(counts, list) or not all(type(count) is int and count >= 0 for count in counts):
        raise ValueError("run lengths must be a list of integers, none below zero")
    if sum(counts) != height * width:
        raise ValueError(f"run lengths add up to {sum(counts)}, the mask has {height * width} pixels")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.ascontiguousarray(flat.reshape((height, width), order="F"))


def uncompress(text: str | bytes, *, limit: int) -> list[int]:
    """Return the run lengths of a compressed string.

    Args:
        text: ASCII.
        limit: number of pixels of the mask.

    Raises:
        ValueError: the string is malformed, or a run length is out of range.
    """
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
            if shift > MAX_RUN_BITS:
                raise ValueError(f"a compressed run length has more than {MAX_RUN_BITS} bits")
            continue
        if digit & 16:
            value -= 1 << shift
        if len(counts) > 2:
            value += counts[-2]
        if not 0 <= value <= limit:
            raise ValueError(f"a run length of {value} in a mask of {limit} pixels")
        counts.append(value)
        value, shift = 0, 0
    if shift:
        raise ValueError("compressed run lengths end in the middle of a number")
    return counts
