"""Overlaps of boxes x0, y0, x1, y1; numpy only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def box_iou(boxes: Floats, others: Floats) -> Floats:
    """Return the (N, M) intersections over union of (N, 4) and (M, 4) boxes x0, y0, x1, y1."""
    shared = _intersections(boxes, others)
    ratio: Floats = shared / np.maximum(_areas(boxes)[:, None] + _areas(others)[None] - shared, 1e-9)
    return ratio


def box_coverage(boxes: Floats, others: Floats) -> Floats:
    """Return the (N, M) shares of the area of (N, 4) boxes that is inside (M, 4) others."""
    ratio: Floats = _intersections(boxes, others) / np.maximum(_areas(boxes)[:, None], 1e-9)
    return ratio


def _intersections(boxes: Floats, others: Floats) -> Floats:
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    areas: Floats = (high - low).clip(min=0).prod(-1)
    return areas


def _areas(boxes: Floats) -> Floats:
    areas: Floats = (boxes[:, 2:] - boxes[:, :2]).clip(min=0).prod(-1)
    return areas
