"""Targets that several datasets build in the same way."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torchvision import tv_tensors

from splitreg.specs import TargetSpec
from splitreg.tasks import DETECTION, MULTILABEL, BoxTarget, MultiLabelTarget


def box_specs(labels: tuple[str, ...]) -> dict[str, TargetSpec]:
    """Return the targets of a dataset with boxes: the boxes, and which classes an image has."""
    return {task: TargetSpec(task=task, labels=labels) for task in (DETECTION, MULTILABEL)}


def box_target(
    corners: Sequence[Sequence[float]],
    labels: Sequence[int],
    crowd: Sequence[bool],
    size: tuple[int, int],
    masks: np.ndarray[tuple[int, int, int], np.dtype[np.bool_]] | None = None,
) -> BoxTarget:
    """Return the objects of an image.

    Args:
        corners: x0, y0, x1, y1 of each object, in pixels.
        labels: class index of each object.
        crowd: whether each object is a group.
        size: (H, W) of the image.
        masks: (N, H, W) bool, or None.
    """
    boxes = torch.tensor(corners, dtype=torch.float32).reshape(-1, 4)
    return BoxTarget(
        boxes=tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size),
        labels=torch.tensor(labels, dtype=torch.int64),
        crowd=torch.tensor(crowd, dtype=torch.bool),
        masks=None if masks is None else tv_tensors.Mask(torch.from_numpy(masks)),
    )


def multilabel_target(classes: int, objects: Iterable[tuple[int, bool]]) -> MultiLabelTarget:
    """Return which classes an image has.

    Args:
        classes: number of classes.
        objects: class index of each object, and whether it is a crowd. A class that is only in
            crowds is unknown.
    """
    present = torch.zeros(classes)
    for index, crowd in sorted(objects, key=lambda entry: not entry[1]):  # crowds first
        present[index] = float("nan") if crowd else 1.0
    return MultiLabelTarget(present=present)
