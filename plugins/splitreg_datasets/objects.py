"""Objects of an image as targets, for every format that stores boxes or outlines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.specs import TargetSpec
from splitreg.tasks import BoxTarget, MaskTarget, MultiLabelTarget, Target
from splitreg_datasets import rle

#: [x0, y0, x1, y1, ...], in pixels.
Polygon = Sequence[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """An object.

    Args:
        label: class index.
        box: x0, y0, x1, y1 in pixels.
        polygons: outlines in pixels, empty where only the box is known.
        crowd: a group, or an object that does not count.
        mask: (H, W) bool, instead of polygons.
        identity: equal for one object in all frames of a clip; -1: unknown.
    """

    label: int
    box: tuple[float, float, float, float]
    polygons: Sequence[Polygon] = ()
    crowd: bool = False
    mask: NDArray[np.bool_] | None = None
    identity: int = -1

    def has_mask(self) -> bool:
        """Whether its pixels are known."""
        return self.mask is not None or bool(self.polygons)

    def pixels(self, size: tuple[int, int], path: Path) -> NDArray[np.bool_]:
        """Return its (H, W) mask; polygons are drawn as the COCO API draws them.

        Raises:
            DataError: a polygon that is malformed.
        """
        if self.mask is not None:
            return self.mask
        try:
            return rle.from_polygons([list(polygon) for polygon in self.polygons], size)
        except ValueError as cause:
            raise DataError(f"{path}: {cause}") from cause


def outline_box(polygons: Sequence[Polygon]) -> tuple[float, float, float, float]:
    """Return the box around polygons: (x0, y0, x1, y1)."""
    xs = [x for polygon in polygons for x in polygon[0::2]]
    ys = [y for polygon in polygons for y in polygon[1::2]]
    return min(xs), min(ys), max(xs), max(ys)


def mask_box(mask: NDArray[np.bool_]) -> tuple[float, float, float, float] | None:
    """Return the box around the pixels of a mask, None if it has none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


#: Class of the pixels that belong to no object.
BACKGROUND = "background"
#: Value of the option ``semantic`` that makes classes of pixels from outlines.
INSTANCES = "instances"


def object_specs(labels: tuple[str, ...], *, semantic: bool = False) -> dict[str, TargetSpec]:
    """Return the targets of a dataset of objects; ``semantic``: with a class per pixel, see ``semantic_mask``.

    Raises:
        DataError: a class has the name of the background.
    """
    if semantic and BACKGROUND in labels:
        raise DataError(
            f'a class is named {BACKGROUND!r}, as semantic = "{INSTANCES}" names the other pixels; rename it'
        )
    classes = (
        {tasks.SEGMENTATION: TargetSpec(task=tasks.SEGMENTATION, labels=(BACKGROUND, *labels))} if semantic else {}
    )
    return {
        tasks.DETECTION: TargetSpec(task=tasks.DETECTION, labels=labels),
        tasks.MULTILABEL: TargetSpec(task=tasks.MULTILABEL, labels=labels),
        **classes,
    }


def object_targets(
    shapes: Sequence[Shape],
    classes: int,
    size: tuple[int, int],
    path: Path,
    *,
    masks: bool = False,
    identities: bool = False,
) -> dict[str, Target | None]:
    """Return the detection and multi-label targets of an image.

    Boxes are clipped to the image; objects of which nothing is left are no boxes.

    Args:
        shapes: its objects.
        classes: number of classes.
        size: (H, W).
        path: file of the annotations, for messages.
        masks: give masks, unless an object of the image has none.
        identities: give identities.

    Raises:
        DataError: a polygon that is malformed, or a box that ends before it begins.
    """
    height, width = size
    stated = np.array([shape.box for shape in shapes], np.float64).reshape(-1, 4)
    backwards = (stated[:, 2:] < stated[:, :2]).any(1)
    if backwards.any():
        x0, y0, x1, y1 = stated[backwards][0].tolist()
        raise DataError(
            f"{path}: object {int(backwards.argmax()) + 1} has a box from ({x0:g}, {y0:g}) to ({x1:g}, {y1:g}), which "
            "ends before it begins; exchange its corners, or read the boxes in another form"
        )
    corners = np.clip(stated, 0, [width, height, width, height])
    keep = ((corners[:, 2:] - corners[:, :2]) > 0).all(1)
    boxed = [shape for shape, kept in zip(shapes, keep, strict=True) if kept]
    pixels: Any = None
    if masks and all(shape.has_mask() for shape in boxed):
        drawn = np.zeros((len(boxed), height, width), bool)
        for mask, shape in zip(drawn, boxed, strict=True):
            mask[:] = shape.pixels(size, path)
        pixels = tv_tensors.Mask(torch.from_numpy(drawn))
    boxes = BoxTarget(
        boxes=tv_tensors.BoundingBoxes(
            torch.from_numpy(corners[keep].astype(np.float32)), format="XYXY", canvas_size=(height, width)
        ),
        labels=torch.tensor([shape.label for shape in boxed], dtype=torch.int64),
        crowd=torch.tensor([shape.crowd for shape in boxed], dtype=torch.bool),
        masks=pixels,
        identities=torch.tensor([shape.identity for shape in boxed], dtype=torch.int64) if identities else None,
    )
    present = torch.zeros(classes)
    for crowd, value in ((True, float("nan")), (False, 1.0)):  # seen in a crowd only: unknown
        present[[shape.label for shape in shapes if shape.crowd is crowd]] = value
    return {tasks.DETECTION: boxes, tasks.MULTILABEL: MultiLabelTarget(present=present)}


def semantic_mask(objects: BoxTarget, size: tuple[int, int]) -> MaskTarget:
    """Return the class of each pixel: 0 is background, class k of the objects is k + 1.

    Small objects lie on top of large ones. Without masks, the pixels in the boxes are unknown (``IGNORE``).

    Args:
        objects: of an image, with masks.
        size: (H, W).
    """
    mask = np.zeros(size, np.int64)
    if objects.masks is None:
        for x0, y0, x1, y1 in objects.boxes.tolist():
            mask[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = tasks.IGNORE
    else:
        drawn = objects.masks.as_subclass(torch.Tensor).numpy()
        for row in np.argsort(-drawn.sum((1, 2)), kind="stable"):
            mask[drawn[row]] = int(objects.labels[row]) + 1
    return MaskTarget(mask=tv_tensors.Mask(torch.from_numpy(mask)))
