"""COCO instances JSON: categories, pictures, objects. Every complaint names the file and the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from splitreg.errors import DataError
from splitreg.files import is_finite
from splitreg.tasks import BoxTarget, MultiLabelTarget, PoseTarget
from splitreg_datasets import rle
from splitreg_datasets.files import read_json
from splitreg_datasets.keypoints import Keypoints
from splitreg_datasets.layout import inside, stored_name


@dataclass(slots=True, kw_only=True)
class Record:
    """A picture of the JSON: its file's name, (height, width), and the annotations as they are written."""

    file_name: str
    size: tuple[int, int]
    objects: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """A checked instances JSON.

    Args:
        path: of the JSON.
        classes: category id -> class index; ids may have gaps, indexes have none.
        labels: names by class index.
        records: pictures by their id, in the file's order.
        has_masks: at least one object has a mask.
    """

    path: Path
    classes: Mapping[int, int]
    labels: tuple[str, ...]
    records: Mapping[Any, Record]
    has_masks: bool

    def boxes(self, record: Record, *, masks: bool) -> BoxTarget:
        """Return a picture's objects; those with an empty box are left out.

        Raises:
            DataError: a mask that is malformed.
        """
        height, width = record.size
        kept = _solid(record)
        objects = [o for o, _ in kept]
        with_masks = masks and self.has_masks and all(o.get("segmentation") for o in objects)
        return BoxTarget(
            boxes=tv_tensors.BoundingBoxes(
                torch.tensor([box for _, box in kept], dtype=torch.float32).reshape(-1, 4),
                format="XYXY",
                canvas_size=(height, width),
            ),
            labels=torch.tensor([self.classes[o["category_id"]] for o in objects], dtype=torch.int64),
            crowd=torch.tensor([bool(o.get("iscrowd", 0)) for o in objects], dtype=torch.bool),
            masks=tv_tensors.Mask(self._masks(record, objects)) if with_masks else None,
        )

    def poses(self, record: Record, keypoints: Keypoints) -> PoseTarget:
        """Return a picture's objects with keypoints; those with an empty box are left out.

        Raises:
            DataError: keypoints that are malformed.
        """
        return keypoints.target(_solid(record), record.size)

    def present(self, record: Record) -> MultiLabelTarget:
        """Return which classes a picture shows; one that is only seen in a crowd region is unknown."""
        present = torch.zeros(len(self.labels))
        for wanted, value in ((True, float("nan")), (False, 1.0)):
            seen = [self.classes[o["category_id"]] for o in record.objects if bool(o.get("iscrowd", 0)) is wanted]
            present[seen] = value
        return MultiLabelTarget(present=present)

    def _masks(self, record: Record, objects: Sequence[dict[str, Any]]) -> torch.Tensor:
        masks = np.zeros((len(objects), *record.size), bool)
        for mask, annotation in zip(masks, objects, strict=True):
            try:
                mask[:] = rle.decode(annotation["segmentation"], record.size)
            except ValueError as cause:
                raise DataError(
                    f"{self.path}: annotation {annotation.get('id')} of {record.file_name}: segmentation: {cause}"
                ) from cause
        return torch.from_numpy(masks)


def read_categories(path: Path, loaded: Mapping[str, Any] | None = None) -> dict[int, str]:
    """Return category id -> name, by rising id.

    Raises:
        DataError: the JSON lists none, one without id and name, or two of one name.
    """
    listed = (loaded or read_json(path)).get("categories")
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{path} is not a COCO file: it has no list of categories")
    names: dict[int, str] = {}
    for number, category in enumerate(listed):
        if not isinstance(category, dict) or type(category.get("id")) is not int or category["id"] < 0:
            raise DataError(f"{path}: category {number} has no id")
        name = category.get("name")
        if not isinstance(name, str) or not name or category["id"] in names:
            raise DataError(f"{path}: category id {category['id']} has no name, or is there twice")
        if name in names.values():
            other = next(identity for identity, known in names.items() if known == name)
            raise DataError(
                f"{path}: the categories {other} and {category['id']} are both named {name!r}; rename one, or merge them"
            )
        names[category["id"]] = name
    return dict(sorted(names.items()))


def object_categories(path: Path) -> dict[int, str]:
    """Return the categories of a panoptic JSON that are things.

    Raises:
        DataError: as ``read_categories``.
    """
    loaded = read_json(path)
    names = read_categories(path, loaded)
    things = {category["id"] for category in loaded["categories"] if category.get("isthing")}
    return {identity: name for identity, name in names.items() if identity in things}


def unused_parents(path: Path, files: Sequence[Path]) -> set[int]:
    """Return the category that only groups the others, as Roboflow writes it with id 0, if no object has it.

    Args:
        path: a JSON of the dataset.
        files: all of them; they are read only where the first one has such a category.
    """
    loaded = read_json(path)
    read_categories(path, loaded)
    others = [category for category in loaded["categories"] if category["id"]]
    parent = next((category for category in loaded["categories"] if not category["id"]), None)
    if parent is None or not others or parent.get("supercategory") not in (None, "", "none"):
        return set()
    if any(c.get("supercategory") != parent.get("name") for c in others):
        return set()
    for file in files:
        annotations = read_json(file).get("annotations")
        if isinstance(annotations, list) and any(
            isinstance(a, dict) and a.get("category_id") == 0 for a in annotations
        ):
            return set()
    return {0}


def read_instances(
    path: Path, labels: Sequence[str] | None = None, *, strict: bool = True, panoptic: bool = False
) -> Instances:
    """Read and check an instances JSON (masks are checked when they are decoded).

    Args:
        path: of the JSON.
        labels: names of the classes, where they are not all categories.
        strict: refuse file names that lead out of the folder of images; otherwise only the end of such a path counts.
        panoptic: it is a panoptic JSON; its segments are read elsewhere.

    Raises:
        DataError: not one, or a record that contradicts itself.
    """
    loaded = read_json(path)
    categories = object_categories(path) if panoptic else read_categories(path, loaded)
    if labels is not None and len(labels) < len(categories):
        categories = {identity: name for identity, name in categories.items() if name in labels}
    records = read_records(path, loaded, strict=strict)
    annotations = loaded.get("annotations")
    if not isinstance(annotations, list):
        raise DataError(f"{path} is not a COCO file: it has no list of annotations")
    for number, annotation in enumerate(() if panoptic else annotations):
        if not isinstance(annotation, dict):
            raise DataError(f"{path}: annotation number {number} is not an object")
        what = f"{path}: annotation {annotation.get('id', f'number {number}')}"
        _check_annotation(annotation, what, records, categories)
        records[annotation["image_id"]].objects.append(annotation)
    if panoptic:
        _add_segments(path, annotations, records, categories)
    return Instances(
        path=path,
        classes={identity: index for index, identity in enumerate(categories)},
        labels=tuple(categories.values()),
        records=records,
        has_masks=panoptic or any(annotation.get("segmentation") for annotation in annotations),
    )


def _check_annotation(
    annotation: dict[str, Any], what: str, records: Mapping[Any, Record], categories: Mapping[int, str]
) -> None:
    identity, category, box = annotation.get("image_id"), annotation.get("category_id"), annotation.get("bbox")
    if not isinstance(identity, int | str) or identity not in records:
        raise DataError(f"{what} belongs to the image {identity!r}, which is not listed")
    if type(category) is not int or category not in categories:
        raise DataError(f"{what} has the category {category!r}, which is not listed")
    if not isinstance(box, list) or len(box) != 4 or not all(is_finite(value) for value in box):
        raise DataError(f"{what} has the box {str(box)[:80]}; expected [x, y, width, height]")
    if box[2] < 0 or box[3] < 0:
        raise DataError(f"{what} has the box {box!r} of negative width or height; expected [x, y, width, height]")
    crowd = annotation.get("iscrowd") or 0
    if crowd not in (0, 1, "0", "1"):
        raise DataError(f"{what} has iscrowd {str(crowd)[:40]!r}; expected 0 or 1")
    annotation["iscrowd"] = int(crowd)


def _add_segments(
    path: Path, annotations: Sequence[Any], records: Mapping[Any, Record], categories: Mapping[int, str]
) -> None:
    """Give the images of a panoptic JSON their segments of things, which are objects."""
    for number, annotation in enumerate(annotations):
        segments = annotation.get("segments_info") if isinstance(annotation, dict) else None
        if not isinstance(segments, list) or not all(isinstance(segment, dict) for segment in segments):
            raise DataError(f"{path}: annotation number {number} has no list of segments_info")
        identity = annotation.get("image_id")
        for segment in segments:
            category = segment.get("category_id")
            if type(category) is not int or category not in categories:
                continue
            thing = {**segment, "image_id": identity}
            _check_annotation(thing, f"{path}: segment {segment.get('id')}", records, categories)
            records[identity].objects.append(thing)


def read_records(path: Path, loaded: Mapping[str, Any], *, strict: bool = True) -> dict[Any, Record]:
    """Return the images of a COCO JSON by id, without annotations.

    Raises:
        DataError: an image without id, size, or a file name inside the folder.
    """
    images = loaded.get("images")
    if not isinstance(images, list):
        raise DataError(f"{path} is not a COCO file: it has no list of images")
    records: dict[Any, Record] = {}
    for number, image in enumerate(images):
        what = f"{path}: image number {number}"
        if not isinstance(image, dict) or not isinstance(image.get("id"), int | str) or image["id"] in records:
            raise DataError(f"{what} has no id, or one that is there twice")
        name, height, width = image.get("file_name"), _whole(image.get("height")), _whole(image.get("width"))
        if not isinstance(name, str) or not stored_name(name) or "\0" in name or (strict and not inside(name)):
            raise DataError(f"{what} has the file name {name!r}; expected one inside the folder of images")
        if height is None or width is None:
            raise DataError(f"{what} ({name}) has no width and height")
        records[image["id"]] = Record(file_name=stored_name(name), size=(height, width))
    return records


def _whole(value: Any) -> int | None:
    """Return a side of an image; some tools write 64.0."""
    return int(value) if is_finite(value) and value == int(value) and value >= 1 else None


def _solid(record: Record) -> list[tuple[dict[str, Any], tuple[float, float, float, float]]]:
    """Return the annotations with their corners, without those whose box is empty."""
    return [(item, box) for item in record.objects if (box := _corners(item["bbox"], record.size)) is not None]


def _corners(box: Sequence[float], size: tuple[int, int]) -> tuple[float, float, float, float] | None:
    """X, y, width, height to corners inside the picture; None if nothing is left."""
    height, width = size
    x, y, w, h = map(float, box)
    corners = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    return corners if corners[2] > corners[0] and corners[3] > corners[1] else None
