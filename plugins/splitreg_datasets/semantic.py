"""Semantic labels of COCO's layout: 8-bit pictures of category ids, or panoptic JSON with its segment pictures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from splitreg import imaging
from splitreg.errors import DataError, ImageError, suggest
from splitreg.tasks import IGNORE, MaskTarget
from splitreg_datasets.files import map_indexes, read_indexes, read_json
from splitreg_datasets.instances import Record, read_categories
from splitreg_datasets.layout import inside
from splitreg_datasets.objects import Shape

KINDS = ("auto", "png", "panoptic", "instances", "none")


class Semantic(Protocol):
    """Where a split's semantic labels come from."""

    def mask(self, identity: Any, record: Record) -> MaskTarget | None:
        """Return the labels of a picture, None where it has none."""
        ...


def of_split(folder: Path, prefix: str, split: str, suffix: str) -> Path | None:
    """Return ``<prefix><split><suffix>``, or the same with or without the year, whichever is there."""
    bare = split.rstrip("0123456789")
    words = dict.fromkeys([split, bare, f"{bare}2017"])
    return next((path for word in words if (path := folder / f"{prefix}{word}{suffix}").exists()), None)


def smallest(folder: Path, pattern: str) -> Path | None:
    """Return the smallest file of a pattern: the cheapest one that lists the categories."""
    return min(folder.glob(pattern), key=lambda path: (path.stat().st_size, path.name), default=None)


def resolve(annotations: Path, kind: str) -> str:
    """Return ``"png"``, ``"panoptic"`` or ``"none"``.

    Raises:
        DataError: no such kind, or nothing of the one that was asked for.
    """
    if kind not in KINDS:
        raise DataError(f"no semantic {kind!r}.{suggest(kind, KINDS)} There are: {', '.join(KINDS)}")
    there = {
        "png": any(path.is_dir() for path in annotations.glob("semantic_*")),
        "panoptic": any(annotations.glob("panoptic_*.json")),
        "none": True,
    }
    if kind == "auto":
        return next(name for name, found in there.items() if found)
    if not there[kind]:
        raise DataError(
            f"semantic={kind} needs semantic_<split>/ or panoptic_<split>.json in {annotations}; none there"
        )
    return kind


def categories(annotations: Path, otherwise: Path) -> dict[int, str]:
    """Return id -> name of the semantic categories: the panoptic ones, or those of the file ``otherwise``.

    Raises:
        DataError: unreadable, or more of them than can be told apart.
    """
    path = smallest(annotations, "panoptic_*.json") or otherwise
    names = {identity: name for identity, name in read_categories(path).items() if identity}
    if len(names) > IGNORE:
        raise DataError(f"{path} lists {len(names)} semantic categories; at most {IGNORE} can be told apart")
    return names


def find(annotations: Path, split: str, kind: str, otherwise: Path) -> Semantic | None:
    """Return a split's semantic labels, None where it has none; ``kind`` as ``resolve`` returns it."""
    classes = {identity: index for index, identity in enumerate(categories(annotations, otherwise))}
    if kind == "png":
        folder = of_split(annotations, "semantic_", split, "")
        return None if folder is None else Pictures(folder=folder, classes=classes)
    path = of_split(annotations, "panoptic_", split, ".json")
    return None if path is None else read_panoptic(path, classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """8-bit pictures beside the photographs' names; 0 is unlabelled."""

    folder: Path
    classes: Mapping[int, int]

    def mask(self, identity: Any, record: Record) -> MaskTarget | None:
        """Return the labels of a picture, None where it has none."""
        path = (self.folder / record.file_name).with_suffix(".png")
        if not path.exists():
            return None
        table = np.full(256, -1, np.int64)
        for category, index in self.classes.items():
            if category < len(table):
                table[category] = index
        table[0] = IGNORE
        mapped = map_indexes(read_indexes(path, record.size), table, path, "the categories are those of the JSON files")
        return MaskTarget(mask=mapped)


@dataclass(frozen=True, slots=True, kw_only=True)
class Panoptic:
    """Segment pictures: a segment's id is R + 256 G + 65536 B; 0 is unlabelled."""

    path: Path
    folder: Path
    classes: Mapping[int, int]
    segments: Mapping[Any, tuple[str, Mapping[int, int]]]

    def mask(self, identity: Any, record: Record) -> MaskTarget | None:
        """Return the labels of a picture, None where it has none."""
        if identity not in self.segments:
            return None
        name, segments = self.segments[identity]
        path = self.folder / name
        ids, inverse = np.unique(self._ids(path, record), return_inverse=True)
        unknown = [int(i) for i in ids if i and int(i) not in segments]
        if unknown:
            raise DataError(f"{path} holds the segment {unknown[0]}, which {self.path} does not list")
        table = np.array([self.classes[segments[int(i)]] if i else IGNORE for i in ids], np.int64)
        return MaskTarget(mask=tv_tensors.Mask(torch.from_numpy(table[inverse].reshape(record.size))))

    def shapes(self, identity: Any, record: Record, classes: Mapping[int, int], *, masks: bool) -> list[Shape]:
        """Return the segments of an image that are things, as objects.

        Raises:
            DataError: the segments cannot be read.
        """
        ids = (
            self._ids(self.folder / self.segments[identity][0], record) if masks and identity in self.segments else None
        )
        return [
            Shape(
                label=classes[segment["category_id"]],
                box=(x, y, x + width, y + height),
                crowd=bool(segment.get("iscrowd", 0)),
                mask=None if ids is None else ids == segment["id"],
            )
            for segment in record.objects
            for x, y, width, height in [segment["bbox"]]
        ]

    def _ids(self, path: Path, record: Record) -> NDArray[np.int64]:
        try:
            rgb = imaging.read(path).astype(np.int64)
        except ImageError as cause:
            raise DataError(f"cannot read the segments of {record.file_name}: {cause}") from cause
        if rgb.shape[:2] != record.size:
            raise DataError(f"{path} is {rgb.shape[1]}x{rgb.shape[0]}, its image {record.size[1]}x{record.size[0]}")
        return np.asarray(rgb @ np.array([1, 256, 65536]))


def read_panoptic(path: Path, classes: Mapping[int, int]) -> Panoptic:
    """Read a panoptic JSON; the segment pictures lie in the folder of its name.

    Raises:
        DataError: not one.
    """
    annotations = read_json(path).get("annotations")
    if not isinstance(annotations, list):
        raise DataError(f"{path} is not a panoptic COCO file: it has no list of annotations")
    segments: dict[Any, tuple[str, Mapping[int, int]]] = {}
    for number, annotation in enumerate(annotations):
        try:
            listed = {int(s["id"]): int(s["category_id"]) for s in annotation["segments_info"]}
            identity, name = annotation["image_id"], annotation["file_name"]
        except (KeyError, TypeError, ValueError, OverflowError) as cause:
            raise DataError(f"{path}: annotation number {number} is malformed: {cause!r}") from cause
        if not isinstance(name, str) or not inside(name) or not isinstance(identity, int | str):
            raise DataError(f"{path}: annotation number {number} has the file name {name!r} and the image {identity!r}")
        foreign = [category for category in listed.values() if category not in classes]
        if foreign:
            raise DataError(f"{path}: annotation {name} has the category {foreign[0]}, which is not listed")
        segments[identity] = (name, listed)
    return Panoptic(path=path, folder=path.with_suffix(""), classes=classes, segments=segments)
