"""PASCAL VOC's layout: boxes and classes present from XML, semantic labels from palette pictures."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import IGNORE, BoxTarget, ClassTarget, MaskTarget, MultiLabelTarget, Sample, Target
from splitreg_datasets.files import (
    PICTURES,
    as_image,
    find_root,
    first_existing,
    index_table,
    map_indexes,
    no_split,
    read_indexes,
    read_picture,
)
from splitreg_datasets.layout import not_this, read_lines
from splitreg_datasets.vocxml import Annotation, names_in, read_annotation

VOC20 = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
EXPECTED = "JPEGImages/, ImageSets/Main/<split>.txt, and Annotations/*.xml or SegmentationClass/*.png"


class Voc(Dataset):
    """A folder of PASCAL VOC's layout.

    ::

        root/JPEGImages/, root/ImageSets/Main/<split>.txt (or ImageSets/Segmentation/)
        root/Annotations/<name>.xml               boxes; "difficult" ones count as crowds
        root/SegmentationClass/<name>.png         class indexes, 0 background, 255 unknown
        root/classes_<split>.csv                  optional: file_name, class_index, class name: the picture's class

    ``root/VOCdevkit/VOC2012`` and the like are found too. Class names of boxes: ``classes``, or VOC's 20 where
    ``ImageSets/Main`` lists them (``cat_train.txt``) , or the names that the XML files hold. Class names of segmentation:
    ``mask_classes``, or the names of ``classes_*.csv``, or those of the boxes.

    Args:
        root: the folder; None: ``$SPLITREG_DATA/voc``.
        split: ``"train"``, ``"val"``, ``"trainval"``, ...
        image_set: ``"Main"`` or ``"Segmentation"``; empty: the first that has the split.
        classes: names of the boxes' classes, separated by commas.
        mask_classes: names of the mask's classes from 1 on, separated by commas (0 is the background).

    Raises:
        DataError: not this layout, or a file that contradicts itself.
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
            there = (p.stem for name in sets for p in (self._root / "ImageSets" / name).glob("*.txt"))
            raise no_split("voc", self._root, split, (name for name in there if "_" not in name))
        self._names = [line.split()[0] for line in read_lines(listing)]
        if not self._names:
            raise DataError(f"{listing} lists no picture")
        bad = next((n for n in self._names if "/" in n or "\\" in n or n.startswith(".")), None)
        if bad is not None:
            raise DataError(f"{listing} holds {bad!r}; expected names of pictures, without folders")
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
            DataError: not this layout.
        """
        folder = _voc_root(root)
        targets = {}
        boxes = _split_names(classes) or _box_classes(folder)
        if boxes:
            targets[tasks.DETECTION] = TargetSpec(task=tasks.DETECTION, labels=boxes)
            targets[tasks.MULTILABEL] = TargetSpec(task=tasks.MULTILABEL, labels=boxes)
        listed = _csv_classes(folder)
        if listed:
            targets[tasks.CLASSIFICATION] = TargetSpec(task=tasks.CLASSIFICATION, labels=listed)
        if (folder / "SegmentationClass").is_dir():
            masks = ("background", *(_split_names(mask_classes) or listed or boxes or VOC20))
            targets[tasks.SEGMENTATION] = TargetSpec(task=tasks.SEGMENTATION, labels=masks)
        if not targets:
            raise not_this("voc", folder, EXPECTED)
        return targets

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        xml = self._root / "Annotations" / f"{name}.xml"
        annotation = read_annotation(xml) if tasks.DETECTION in self.targets and xml.exists() else None
        picture = first_existing(self._root / "JPEGImages" / f"{name}{suffix}" for suffix in PICTURES)
        if picture is None:
            raise DataError(f"{self._root / 'JPEGImages'} has no picture {name}.jpg, which ImageSets lists")
        image = read_picture(picture, annotation.size if annotation else None)
        size = (image.shape[0], image.shape[1])
        targets: dict[str, Target | None] = {}
        if annotation is not None:
            labels = self.targets[tasks.DETECTION].labels
            targets[tasks.DETECTION] = _boxes(annotation, labels, size, xml)
            targets[tasks.MULTILABEL] = _present(annotation, labels)
        mask = self._root / "SegmentationClass" / f"{name}.png"
        if tasks.SEGMENTATION in self.targets and mask.exists():
            hint = "name the classes: mask_classes=first,second,..."
            targets[tasks.SEGMENTATION] = MaskTarget(
                mask=map_indexes(read_indexes(mask, size), self._table, mask, hint)
            )
        if picture.name in self._whole:
            targets[tasks.CLASSIFICATION] = ClassTarget(index=self._whole[picture.name])
        return Sample(image=as_image(image), targets=targets, name=picture.name)


def _voc_root(root: str | None) -> Path:
    folder = find_root(root, "voc")
    inner = [*sorted(folder.glob("VOCdevkit/VOC*"), reverse=True), *sorted(folder.glob("VOC20*"), reverse=True)]
    for candidate in (folder, *inner):
        if (candidate / "JPEGImages").is_dir() and (candidate / "ImageSets").is_dir():
            return candidate
    raise not_this("voc", folder, EXPECTED)


def _split_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if len(set(names)) != len(names):
        raise DataError(f"a class name is there twice: {text}")
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
    found = {name for path in sorted(annotations.glob("*.xml")) for name in names_in(path)}
    return tuple(name for name in VOC20 if name in found) + tuple(sorted(found.difference(VOC20)))


def _csv_classes(folder: Path) -> tuple[str, ...]:
    """Return the class names of all ``classes_*.csv``, which must not contradict each other."""
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


def _boxes(annotation: Annotation, labels: tuple[str, ...], size: tuple[int, int], path: Path) -> BoxTarget:
    for thing in annotation.objects:
        if thing.name not in labels:
            raise DataError(f"{path} holds an object {thing.name!r}, which is not among the {len(labels)} classes")
    height, width = size
    corners = np.array([thing.box for thing in annotation.objects], np.float32).reshape(-1, 4)
    corners = np.clip(corners - np.array([1, 1, 0, 0], np.float32), 0, [width, height, width, height])
    keep = ((corners[:, 2:] - corners[:, :2]) > 0).all(1)
    things = [thing for thing, kept in zip(annotation.objects, keep, strict=True) if kept]
    return BoxTarget(
        boxes=tv_tensors.BoundingBoxes(
            torch.from_numpy(corners[keep].astype(np.float32)), format="XYXY", canvas_size=(height, width)
        ),
        labels=torch.tensor([labels.index(thing.name) for thing in things], dtype=torch.int64),
        crowd=torch.tensor([thing.difficult for thing in things], dtype=torch.bool),
    )


def _present(annotation: Annotation, labels: tuple[str, ...]) -> MultiLabelTarget:
    present = torch.zeros(len(labels))
    for difficult, value in ((True, float("nan")), (False, 1.0)):
        present[[labels.index(t.name) for t in annotation.objects if t.difficult is difficult]] = value
    return MultiLabelTarget(present=present)
