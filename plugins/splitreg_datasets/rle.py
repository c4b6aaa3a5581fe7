"""COCO's ``segmentation`` field: polygons or run lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.files import is_finite
from splitreg.masks import decode_mask


def decode(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the (H, W) mask of a COCO ``segmentation``.

    Args:
        segmentation: a list of polygons, or ``{"size": [H, W], "counts": list or string}``.
        size: (H, W) of the image.

    Raises:
        ValueError: it is neither, malformed, or of another size.
    """
    if isinstance(segmentation, dict):
        if segmentation.get("size") != list(size):
            raise ValueError(f"run lengths of size {segmentation.get('size')}, the image has {list(size)}")
        return decode_mask(segmentation)
    if isinstance(segmentation, list) and segmentation:
        return from_polygons(segmentation, size)
    raise ValueError("neither polygons nor run lengths")


def from_polygons(polygons: Sequence[Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the union of polygons ``[x0, y0, x1, y1, ...]``, drawn like the COCO API.

    Raises:
        ValueError: a polygon is malformed, or far outside the image.
    """
    from faster_coco_eval.core import mask

    height, width = size
    drawn = []
    for polygon in polygons:
        if not isinstance(polygon, list) or len(polygon) % 2:
            raise ValueError("a polygon must be a list of x and y")
        for axis, side in ((0, width), (1, height)):
            # Drawing takes time proportional to the length of the edges, so a corner may not be far outside.
            if not all(is_finite(c) and -side - 8 <= c <= 2 * side + 8 for c in polygon[axis::2]):
                raise ValueError("a polygon's corners must be numbers inside or near the image")
        if len(polygon) >= 6:  # points and lines cover no pixel (COCO has a few)
            drawn.append([float(c) for c in polygon])
    if not drawn:
        return np.zeros(size, bool)
    runs = mask.merge(mask.frPyObjects(drawn, height, width))
    return np.ascontiguousarray(mask.decode(runs)).astype(bool)
