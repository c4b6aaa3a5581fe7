"""Semantic labels of COCO's layout: 8-bit images of category ids, or panoptic JSON with segment images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torchvision import tv_tensors

from splitreg import imaging
from splitreg.errors import DataError, ImageError, suggest
from splitreg.tasks import IGNORE, MaskTarget
from splitreg_datasets.files import map_indexes, read_indexes, read_json
from splitreg_datasets.instances import ImageRecord, inside, read_categories

KINDS = ("auto", "png", "panoptic", "none")


class SemanticLabels(Protocol):
    """Semantic labels of one split."""

    def mask(self, identity: Any, record: ImageRecord) -> MaskTarget | None:
        """Return the labels of an image, or None if it has none."""
        ...


def of_split(folder: Path, prefix: str, split: str, suffix: str) -> Path | None:
    """Return ``<prefix><split><suffix>`` or ``<prefix><split>2017<suffix>``, whichever exists."""
    candidates = (folder / f"{prefix}{split}{year}{suffix}" for year in ("", "2017"))
    return next((path for path in candidates if path.exists()), None)


def smallest(folder: Path, pattern: str) -> Path | None:
    """Return the smallest file of a pattern; all of them list the categories."""
    return min(folder.glob(pattern), key=lambda path: (path.stat().st_size, path.name), default=None)


def resolve(annotations: Path, kind: str) -> str:
    """Return ``"png"``, ``"panoptic"`` or ``"none"``.

    Raises:
        DataError: there is no such kind, or no files of that kind.
    """
    if kind not in KINDS:
        raise DataError(f"no semantic {kind!r}.{suggest(kind, KINDS)} There are: {', '.join(KINDS)}")
    available = {
        "png": any(path.is_dir() for path in annotations.glob("semantic_*")),
        "panoptic": any(annotations.glob("panoptic_*.json")),
        "none": True,
    }
    if kind == "auto":
        return next(name for name, exists in available.items() if exists)
    if not available[kind]:
        raise DataError(
            f"semantic={kind} needs semantic_<split>/ or panoptic_<split>.json in {annotations}; there is none"
        )
    return kind


def categories(annotations: Path, otherwise: Path) -> dict[int, str]:
    """Return id -> name of the semantic categories: the panoptic ones, or those of the file ``otherwise``.

    Raises:
        DataError: the file is unreadable, or has more categories than a mask can hold.
    """
    path = smallest(annotations, "panoptic_*.json") or otherwise
    names = {identity: name for identity, name in read_categories(path).items() if identity}
    if len(names) > IGNORE:
        raise DataError(f"{path} lists {len(names)} semantic categories; a mask holds at most {IGNORE}")
    return names


def find(annotations: Path, split: str, kind: str, otherwise: Path) -> SemanticLabels | None:
    """Return the semantic labels of a split, or None if it has none; ``kind`` is from ``resolve``."""
    classes = {identity: index for index, identity in enumerate(categories(annotations, otherwise))}
    if kind == "png":
        folder = of_split(annotations, "semantic_", split, "")
        return None if folder is None else LabelImages(folder=folder, classes=classes)
    path = of_split(annotations, "panoptic_", split, ".json")
    return None if path is None else read_panoptic(path, classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelImages:
    """8-bit label images with the names of the images; id 0 is unlabelled."""

    folder: Path
    classes: Mapping[int, int]

    def mask(self, identity: Any, record: ImageRecord) -> MaskTarget | None:
        """Return the labels of an image, or None if it has none."""
        path = (self.folder / record.file_name).with_suffix(".png")
        if not path.exists():
            return None
        table = np.full(256, -1, np.int64)
        for category, index in self.classes.items():
            if category < len(table):
                table[category] = index
        table[0] = IGNORE
        mapped = map_indexes(read_indexes(path, record.size), table, path, "the JSON files list the categories")
        return MaskTarget(mask=mapped)


@dataclass(frozen=True, slots=True, kw_only=True)
class PanopticLabels:
    """Segment images: the id of a segment is R + 256 G + 65536 B; 0 is unlabelled."""

    path: Path
    folder: Path
    classes: Mapping[int, int]
    segments: Mapping[Any, tuple[str, Mapping[int, int]]]

    def mask(self, identity: Any, record: ImageRecord) -> MaskTarget | None:
        """Return the labels of an image, or None if it has none."""
        if identity not in self.segments:
            return None
        name, segments = self.segments[identity]
        path = self.folder / name
        try:
            rgb = imaging.read(path).astype(np.int64)
        except ImageError as cause:
            raise DataError(f"cannot read the segments of {record.file_name}: {cause}") from cause
        if rgb.shape[:2] != record.size:
            raise DataError(f"{path} is {rgb.shape[1]}x{rgb.shape[0]}, its image {record.size[1]}x{record.size[0]}")
        ids, inverse = np.unique(rgb @ np.array([1, 256, 65536]), return_inverse=True)
        unknown = [int(i) for i in ids if i and int(i) not in segments]
        if unknown:
            raise DataError(f"{path} holds the segment {unknown[0]}, which {self.path} does not list")
        table = np.array([self.classes[segments[int(i)]] if i else IGNORE for i in ids], np.int64)
        return MaskTarget(mask=tv_tensors.Mask(torch.from_numpy(table[inverse].reshape(record.size))))


def read_panoptic(path: Path, classes: Mapping[int, int]) -> PanopticLabels:
    """Read a panoptic JSON; the segment images are in the folder of the same name.

    Raises:
        DataError: the file is not a panoptic JSON.
    """
    annotations = read_json(path).get("annotations")
    if not isinstance(annotations, list):
        raise DataError(f"{path} is not a panoptic COCO file: it has no list of annotations")
    segments: dict[Any, tuple[str, Mapping[int, int]]] = {}
    for number, annotation in enumerate(annotations):
        try:
            listed = {int(s["id"]): int(s["category_id"]) for s in annotation["segments_info"]}
            identity, name = annotation["image_id"], annotation["file_name"]
        except (KeyError, TypeError, ValueError) as cause:
            raise DataError(f"{path}: annotation number {number} is malformed: {cause!r}") from cause
        if not isinstance(name, str) or not inside(name):
            raise DataError(f"{path}: annotation number {number} has the file name {name!r}")
        unlisted = [category for category in listed.values() if category not in classes]
        if unlisted:
            raise DataError(f"{path}: annotation {name} has the category {unlisted[0]}, which is not listed")
        segments[identity] = (name, listed)
    return PanopticLabels(path=path, folder=path.with_suffix(""), classes=classes, segments=segments)
