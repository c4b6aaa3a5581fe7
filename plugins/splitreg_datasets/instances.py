"""COCO instances JSON: categories, images, objects. Errors name the file and the record."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import DataError
from splitreg.tasks import BoxTarget, MultiLabelTarget
from splitreg_datasets import rle
from splitreg_datasets.files import read_json
from splitreg_datasets.targets import box_target, multilabel_target


@dataclass(slots=True, kw_only=True)
class ImageRecord:
    """An image of the JSON: file name, (height, width), and its annotations as written."""

    file_name: str
    size: tuple[int, int]
    objects: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """A checked instances JSON.

    Args:
        path: the JSON file.
        classes: category id -> class index; ids may have gaps, indexes have none.
        labels: class names by index.
        records: image id -> image, in the order of the file.
        has_masks: whether any object has a mask.
    """

    path: Path
    classes: Mapping[int, int]
    labels: tuple[str, ...]
    records: Mapping[Any, ImageRecord]
    has_masks: bool

    def boxes(self, record: ImageRecord, *, masks: bool) -> BoxTarget:
        """Return the objects of an image, without those whose box is empty.

        Raises:
            DataError: a mask is malformed.
        """
        pairs = [(o, box) for o in record.objects if (box := _corners(o["bbox"], record.size)) is not None]
        objects = [o for o, _ in pairs]
        with_masks = masks and self.has_masks and all(o.get("segmentation") for o in objects)
        return box_target(
            [box for _, box in pairs],
            [self.classes[o["category_id"]] for o in objects],
            [bool(o.get("iscrowd", 0)) for o in objects],
            record.size,
            self._masks(record, objects) if with_masks else None,
        )

    def present(self, record: ImageRecord) -> MultiLabelTarget:
        """Return the classes of an image; a class that is only in a crowd region is unknown."""
        objects = ((self.classes[o["category_id"]], bool(o.get("iscrowd", 0))) for o in record.objects)
        return multilabel_target(len(self.labels), objects)

    def _masks(self, record: ImageRecord, objects: Sequence[dict[str, Any]]) -> NDArray[np.bool_]:
        masks = np.zeros((len(objects), *record.size), bool)
        for mask, annotation in zip(masks, objects, strict=True):
            try:
                mask[:] = rle.decode(annotation["segmentation"], record.size)
            except ValueError as cause:
                raise DataError(
                    f"{self.path}: annotation {annotation.get('id')} of {record.file_name}: segmentation: {cause}"
                ) from cause
        return masks


def read_categories(path: Path, loaded: Mapping[str, Any] | None = None) -> dict[int, str]:
    """Return category id -> name, sorted by id.

    Raises:
        DataError: the JSON has no categories, or one without id or name.
    """
    listed = (loaded or read_json(path)).get("categories")
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{path} is not a COCO file: it has no list of categories")
    names: dict[int, str] = {}
    for number, category in enumerate(listed):
        if not isinstance(category, dict) or type(category.get("id")) is not int or category["id"] < 0:
            raise DataError(f"{path}: category {number} has no id")
        if not isinstance(category.get("name"), str) or category["id"] in names:
            raise DataError(f"{path}: category id {category['id']} has no name, or occurs twice")
        names[category["id"]] = category["name"]
    return dict(sorted(names.items()))


def read_instances(path: Path) -> Instances:
    """Read and check an instances JSON; masks are checked when they are decoded.

    Raises:
        DataError: the file is not an instances JSON, or a record is inconsistent.
    """
    loaded = read_json(path)
    categories = read_categories(path, loaded)
    records = read_records(path, loaded)
    annotations = loaded.get("annotations")
    if not isinstance(annotations, list):
        raise DataError(f"{path} is not a COCO file: it has no list of annotations")
    for number, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            raise DataError(f"{path}: annotation number {number} is not an object")
        what = f"{path}: annotation {annotation.get('id', f'number {number}')}"
        if annotation.get("image_id") not in records:
            raise DataError(f"{what} belongs to the image {annotation.get('image_id')!r}, which is not listed")
        if annotation.get("category_id") not in categories:
            raise DataError(f"{what} has the category {annotation.get('category_id')!r}, which is not listed")
        box = annotation.get("bbox")
        if not isinstance(box, list) or len(box) != 4 or not all(_finite(value) for value in box):
            raise DataError(f"{what} has the box {box!r}; expected [x, y, width, height]")
        records[annotation["image_id"]].objects.append(annotation)
    return Instances(
        path=path,
        classes={identity: index for index, identity in enumerate(categories)},
        labels=tuple(categories.values()),
        records=records,
        has_masks=any(annotation.get("segmentation") for annotation in annotations),
    )


def read_records(path: Path, loaded: Mapping[str, Any]) -> dict[Any, ImageRecord]:
    """Return the images of a COCO JSON by id, without annotations.

    Raises:
        DataError: an image lacks an id, a size, or a file name inside the folder.
    """
    images = loaded.get("images")
    if not isinstance(images, list):
        raise DataError(f"{path} is not a COCO file: it has no list of images")
    records: dict[Any, ImageRecord] = {}
    for number, image in enumerate(images):
        what = f"{path}: image number {number}"
        if not isinstance(image, dict) or not isinstance(image.get("id"), int | str) or image["id"] in records:
            raise DataError(f"{what} has no id, or one that occurs twice")
        name, height, width = image.get("file_name"), image.get("height"), image.get("width")
        if not isinstance(name, str) or not name or not inside(name):
            raise DataError(f"{what} has the file name {name!r}; expected one inside the folder of images")
        if type(height) is not int or type(width) is not int or height < 1 or width < 1:
            raise DataError(f"{what} ({name}) has no width and height")
        records[image["id"]] = ImageRecord(file_name=name, size=(height, width))
    return records


def inside(name: str) -> bool:
    """Whether a relative path stays inside its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def _corners(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """X, y, width, height to corners clipped to the image; None if the box is empty."""
    height, width = size
    x, y, w, h = map(float, box)
    corners = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    return corners if corners[2] > corners[0] and corners[3] > corners[1] else None


def _finite(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
