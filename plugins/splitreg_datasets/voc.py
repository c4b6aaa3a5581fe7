"""PASCAL VOC's layout: boxes and classes from XML, semantic labels from palette images."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.files import IMAGE_SUFFIXES
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import IGNORE, BoxTarget, ClassTarget, MaskTarget, Sample, Target
from splitreg_datasets.files import (
    as_image,
    find_root,
    first_existing,
    index_table,
    map_indexes,
    no_split,
    not_a,
    read_image,
    read_indexes,
    read_lines,
)
from splitreg_datasets.targets import box_specs, box_target, multilabel_target
from splitreg_datasets.vocxml import VocAnnotation, names_in, read_annotation

VOC20 = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
EXPECTED = "JPEGImages/, ImageSets/Main/<split>.txt, and Annotations/*.xml or SegmentationClass/*.png"


class Voc(Dataset):
    """A folder in PASCAL VOC's layout.

    ::

        root/JPEGImages/, root/ImageSets/Main/<split>.txt (or ImageSets/Segmentation/)
        root/Annotations/<name>.xml               boxes; "difficult" ones count as crowds
        root/SegmentationClass/<name>.png         class indexes, 0 background, 255 unknown
        root/classes_<split>.csv                  optional: file_name, class_index, class name

    The folder may also be ``root/VOCdevkit/VOC2012`` or similar. Class names of boxes: ``classes``; else
    VOC's 20 if ``ImageSets/Main`` has ``aeroplane_train.txt``; else the names in the XML files. Class
    names of segmentation: ``mask_classes``; else those of ``classes_*.csv``; else those of the boxes.

    Args:
        root: the folder; None: ``$SPLITREG_DATA/voc``.
        split: ``"train"``, ``"val"``, ``"trainval"``, ...
        image_set: ``"Main"`` or ``"Segmentation"``; empty: the first that has the split.
        classes: class names of the boxes, separated by commas.
        mask_classes: class names of the masks from index 1, separated by commas; 0 is background.

    Raises:
        DataError: the layout is another one, or a file is inconsistent.
    """

    def __init__(
        self,
        root: str | None = None,
        split: str = "train",
        *,
        image_set: str = "",
        classes: str = "",
        mask_classes: str = "",
    ) -> None:
        self.targets = self.describe(root, classes=classes, mask_classes=mask_classes)
        self._root = _voc_root(root)
        sets = [image_set] if image_set else ["Main", "Segmentation"]
        listing = first_existing(self._root / "ImageSets" / name / f"{split}.txt" for name in sets)
        if listing is None:
            splits = (p.stem for name in sets for p in (self._root / "ImageSets" / name).glob("*.txt"))
            raise no_split("voc", self._root, split, (name for name in splits if "_" not in name))
        self._names = [line.split()[0] for line in read_lines(listing)]
        if not self._names:
            raise DataError(f"{listing} lists no image")
        invalid = next((n for n in self._names if "/" in n or "\\" in n or n.startswith(".")), None)
        if invalid is not None:
            raise DataError(f"{listing} holds {invalid!r}; expected image names without folders")
        csv_file = self._root / f"classes_{split}.csv"
        self._whole = _read_classes(csv_file)[0] if csv_file.exists() else {}
        if tasks.SEGMENTATION in self.targets:
            self._table = index_table(len(self.targets[tasks.SEGMENTATION].labels), [IGNORE])

    @classmethod
    def describe(
        cls, root: str | None = None, *, classes: str = "", mask_classes: str = "", **options: Any
    ) -> Mapping[str, TargetSpec]:
        """Return the targets.

        Raises:
            DataError: the layout is another one.
        """
        folder = _voc_root(root)
        boxes = _split_names(classes) or _box_classes(folder)
        targets = box_specs(boxes) if boxes else {}
        listed = _csv_classes(folder)
        if listed:
            targets[tasks.CLASSIFICATION] = TargetSpec(task=tasks.CLASSIFICATION, labels=listed)
        if (folder / "SegmentationClass").is_dir():
            masks = ("background", *(_split_names(mask_classes) or listed or boxes or VOC20))
            targets[tasks.SEGMENTATION] = TargetSpec(task=tasks.SEGMENTATION, labels=masks)
        if not targets:
            raise not_a("voc", folder, EXPECTED)
        return targets

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        xml = self._root / "Annotations" / f"{name}.xml"
        annotation = read_annotation(xml) if tasks.DETECTION in self.targets and xml.exists() else None
        path = first_existing(self._root / "JPEGImages" / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES)
        if path is None:
            raise DataError(f"{self._root / 'JPEGImages'} has no image {name}.jpg, which ImageSets lists")
        image = read_image(path, annotation.size if annotation else None)
        size = (image.shape[0], image.shape[1])
        targets: dict[str, Target | None] = {}
        if annotation is not None:
            labels = self.targets[tasks.DETECTION].labels
            targets[tasks.DETECTION] = _boxes(annotation, labels, size, xml)
            objects = ((labels.index(o.name), o.difficult) for o in annotation.objects)
            targets[tasks.MULTILABEL] = multilabel_target(len(labels), objects)
        mask = self._root / "SegmentationClass" / f"{name}.png"
        if tasks.SEGMENTATION in self.targets and mask.exists():
            hint = "name the classes: mask_classes=first,second,..."
            targets[tasks.SEGMENTATION] = MaskTarget(
                mask=map_indexes(read_indexes(mask, size), self._table, mask, hint)
            )
        if path.name in self._whole:
            targets[tasks.CLASSIFICATION] = ClassTarget(index=self._whole[path.name])
        return Sample(image=as_image(image), targets=targets, name=path.name)


def _voc_root(root: str | None) -> Path:
    folder = find_root(root, "voc")
    inner = [*sorted(folder.glob("VOCdevkit/VOC*"), reverse=True), *sorted(folder.glob("VOC20*"), reverse=True)]
    for candidate in (folder, *inner):
        if (candidate / "JPEGImages").is_dir() and (candidate / "ImageSets").is_dir():
            return candidate
    raise not_a("voc", folder, EXPECTED)


def _split_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if len(set(names)) != len(names):
        raise DataError(f"a class name occurs twice: {text}")
    return names


def _box_classes(folder: Path) -> tuple[str, ...]:
    if (folder / "ImageSets" / "Main" / f"{VOC20[0]}_train.txt").exists():
        return VOC20
    annotations = folder / "Annotations"
    if not annotations.is_dir():
        return ()
    return _scan(annotations, annotations.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _scan(annotations: Path, modified: int) -> tuple[str, ...]:
    names = {name for path in sorted(annotations.glob("*.xml")) for name in names_in(path)}
    return tuple(name for name in VOC20 if name in names) + tuple(sorted(names.difference(VOC20)))


def _csv_classes(folder: Path) -> tuple[str, ...]:
    """Return the class names of all ``classes_*.csv``, which must agree."""
    names: dict[int, str] = {}
    for path in sorted(folder.glob("classes_*.csv")):
        for index, name in _read_classes(path)[1].items():
            if names.setdefault(index, name) != name:
                raise DataError(f"{path}: class {index} is {name!r} here and {names[index]!r} in another split")
    if sorted(names) != list(range(len(names))):
        raise DataError(f"{folder}/classes_*.csv hold the class indexes {sorted(names)}; expected 0, 1, 2, ...")
    return tuple(names[index] for index in range(len(names)))


def _read_classes(path: Path) -> tuple[dict[str, int], dict[int, str]]:
    """Return file name -> class index, and class index -> name (the column after ``class_index``)."""
    whole: dict[str, int] = {}
    names: dict[int, str] = {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if not rows or rows[0][:2] != ["file_name", "class_index"] or len(rows[0]) < 3:
        raise DataError(f"{path}: expected the columns file_name, class_index and a class name, got {rows[:1]}")
    for number, row in enumerate(rows[1:], 2):
        if len(row) < 3 or not row[1].isdecimal():
            raise DataError(f"{path}, line {number}: expected a file name, a class index and a class name, got {row}")
        whole[row[0]] = int(row[1])
        names[int(row[1])] = row[2]
    return whole, names


def _boxes(annotation: VocAnnotation, labels: tuple[str, ...], size: tuple[int, int], path: Path) -> BoxTarget:
    for entry in annotation.objects:
        if entry.name not in labels:
            raise DataError(f"{path} holds an object {entry.name!r}, which is not among the {len(labels)} classes")
    height, width = size
    corners = np.array([entry.box for entry in annotation.objects], np.float32).reshape(-1, 4)
    corners = np.clip(corners - np.array([1, 1, 0, 0], np.float32), 0, [width, height, width, height])
    valid = ((corners[:, 2:] - corners[:, :2]) > 0).all(1)
    objects = [entry for entry, keep in zip(annotation.objects, valid, strict=True) if keep]
    return box_target(
        corners[valid].tolist(),
        [labels.index(entry.name) for entry in objects],
        [entry.difficult for entry in objects],
        size,
    )
