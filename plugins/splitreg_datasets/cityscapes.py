"""Cityscapes: 19 semantic classes of street scenes, and objects with masks where there are instances."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import IGNORE, Sample, Target
from splitreg_datasets import labelimages, layout
from splitreg_datasets.files import as_image, find_root, read_picture
from splitreg_datasets.objects import Shape, mask_box, object_specs, object_targets

#: Name of a class that is trained -> id in the label images, by train id.
CLASSES: Mapping[str, int] = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
#: Classes of which each object has an id of its own.
THINGS = tuple(name for name, number in CLASSES.items() if number >= 24)
#: Highest id in the official label images.
MAX_ID = 33
EXPECTED = "leftImg8bit/<split>/<city>/*_leftImg8bit.png and gtFine/<split>/<city>/*_gtFine_labelIds.png"
_IMAGE, _LABELS, _INSTANCES = "_leftImg8bit", "_gtFine_labelIds", "_gtFine_instanceIds"


class Cityscapes(Dataset):
    """Cityscapes as published, with the 19 classes that are evaluated; all others are unknown.

    ::

        root/leftImg8bit/<split>/<city>/<name>_leftImg8bit.png
        root/gtFine/<split>/<city>/<name>_gtFine_labelIds.png
        root/gtFine/<split>/<city>/<name>_gtFine_instanceIds.png      optional: boxes and masks of 8 classes

    Args:
        root: the folder; None: ``$SPLITREG_DATA/cityscapes``.
        split: ``"train"``, ``"val"``, ``"test"`` (whose published labels are empty), ``"train_extra"``.
        masks: give masks with the boxes.

    Raises:
        DataError: not this layout.
    """

    def __init__(self, root: str | None = None, split: str = "train", *, masks: bool = True) -> None:
        self.targets = self.describe(root)
        self._root = layout.only_folder(find_root(root, "cityscapes"))
        names = _images(self._root)
        self._names = layout.make_splits(names, stem=str).select(split, "cityscapes", self._root)
        self._masks = masks

    @classmethod
    def describe(cls, root: str | None = None, **options: Any) -> Mapping[str, TargetSpec]:
        """Return the targets; looks for one file of instances.

        Raises:
            DataError: not this layout.
        """
        folder = layout.only_folder(find_root(root, "cityscapes"))
        if not _is_cityscapes(folder):
            raise layout.not_this("cityscapes", folder, EXPECTED)
        targets = {tasks.SEGMENTATION: TargetSpec(task=tasks.SEGMENTATION, labels=tuple(CLASSES))}
        first = next((name for name in layout.walk(folder / "gtFine", 3) if f"{_INSTANCES}." in name), None)
        return targets if first is None else {**targets, **object_specs(THINGS)}

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of images; None if it is another layout."""
        folder = layout.only_folder(Path(root))
        if not _is_cityscapes(folder):
            return None
        counts = layout.make_splits(_images(folder), stem=str).counts()
        return f"cityscapes: {len(CLASSES)} classes, {counts}"

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        path = self._root / "leftImg8bit" / name
        image = read_picture(path)
        size = (image.shape[0], image.shape[1])
        targets: dict[str, Target | None] = {}
        labels = self._root / "gtFine" / name.replace(_IMAGE, _LABELS)
        if labels.is_file():
            ids = labelimages.fit(labelimages.read_labels(labels), size, labels, path)
            targets[tasks.SEGMENTATION] = labelimages.mask_target(_train_ids(ids, labels))
        instances = self._root / "gtFine" / name.replace(_IMAGE, _INSTANCES)
        if tasks.DETECTION in self.targets and instances.is_file():
            ids = labelimages.fit(labelimages.read_labels(instances), size, instances, path)
            shapes = _objects(ids)
            targets.update(object_targets(shapes, len(THINGS), size, instances, masks=self._masks))
        return Sample(image=as_image(image), targets=targets, name=name)


def _is_cityscapes(folder: Path) -> bool:
    return (folder / "leftImg8bit").is_dir() and (folder / "gtFine").is_dir()


def _images(folder: Path) -> dict[str, list[str]]:
    named: dict[str, list[str]] = {}
    for name in layout.images_in(folder / "leftImg8bit", 3):
        if "/" in name and layout.stem_of(name).endswith(_IMAGE):
            named.setdefault(name.split("/")[0], []).append(name)
    if not named:
        raise layout.not_this("cityscapes", folder, EXPECTED)
    return named


def _train_ids(ids: Any, path: Path) -> Any:
    if ids.ndim != 2:
        raise DataError(f"{path} holds colours; Cityscapes' labels are ids (*_labelIds.png)")
    table = np.full(256, labelimages.UNKNOWN, np.int64)
    table[: MAX_ID + 1] = IGNORE
    table[255] = IGNORE  # licence plates are -1
    for train, number in enumerate(CLASSES.values()):
        table[number] = train
    mapped = table[np.clip(ids, 0, 255)]
    if (mapped == labelimages.UNKNOWN).any():
        raise DataError(f"{path} holds {labelimages.example_of(ids, mapped)}; Cityscapes has the ids 0 to {MAX_ID}")
    return mapped


def _objects(ids: Any) -> list[Shape]:
    """Return the objects of an instance image: id = class * 1000 + number, or the class alone for a group."""
    shapes = []
    for number in np.unique(ids).tolist():
        group = number < 1000
        name = next((name for name in THINGS if CLASSES[name] == (number if group else number // 1000)), None)
        if name is not None:
            mask = ids == number
            box = mask_box(mask)
            if box is not None:
                shapes.append(Shape(label=THINGS.index(name), box=box, crowd=group, mask=mask))
    return shapes
