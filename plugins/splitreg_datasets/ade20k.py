"""ADE20K as the scene parsing challenge has it: 150 semantic classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import IGNORE, ClassTarget, Sample, Target
from splitreg_datasets import labelimages, layout
from splitreg_datasets.files import as_image, find_root, read_picture

EXPECTED = "images/training/, images/validation/, annotations/training/, annotations/validation/ and objectInfo150.txt"


class Ade20k(Dataset):
    """``ADEChallengeData2016``: label images of 1 to 150, 0 is unknown; the scene of each image as its class.

    ::

        root/images/training/*.jpg, root/images/validation/*.jpg
        root/annotations/training/*.png, root/annotations/validation/*.png
        root/objectInfo150.txt                  names of the classes
        root/sceneCategories.txt                optional: the scene of each image, a classification

    Args:
        root: the folder; None: ``$SPLITREG_DATA/ade20k``.
        split: ``"train"`` or ``"val"``.

    Raises:
        DataError: not this layout.
    """

    def __init__(self, root: str | None = None, split: str = "train") -> None:
        self.targets = self.describe(root)
        self._root = layout.only_folder(find_root(root, "ade20k"))
        self._names = layout.make_splits(_images(self._root), stem=str).select(split, "ade20k", self._root)
        self._scenes = _scenes(self._root)

    @classmethod
    def describe(cls, root: str | None = None, **options: Any) -> Mapping[str, TargetSpec]:
        """Return the targets; reads the names of the classes.

        Raises:
            DataError: not this layout.
        """
        folder = layout.only_folder(find_root(root, "ade20k"))
        if not _is_ade(folder):
            raise layout.not_this("ade20k", folder, EXPECTED)
        targets = {tasks.SEGMENTATION: TargetSpec(task=tasks.SEGMENTATION, labels=_class_names(folder))}
        scenes = tuple(sorted(set(_scenes(folder).values())))
        if scenes:
            targets[tasks.CLASSIFICATION] = TargetSpec(task=tasks.CLASSIFICATION, labels=scenes)
        return targets

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of classes and images; None if it is another layout."""
        folder = layout.only_folder(Path(root))
        if not _is_ade(folder):
            return None
        counts = layout.make_splits(_images(folder), stem=str).counts()
        return f"ade20k: {layout.plural(len(_class_names(folder)), 'class')}, {counts}"

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        path = self._root / "images" / name
        image = read_picture(path)
        size = (image.shape[0], image.shape[1])
        targets: dict[str, Target | None] = {}
        labels = (self._root / "annotations" / name).with_suffix(".png")
        if labels.is_file():
            targets[tasks.SEGMENTATION] = labelimages.mask_target(self._mask(labels, size, path))
        scene = self._scenes.get(layout.stem_of(path.name))
        if scene is not None:
            targets[tasks.CLASSIFICATION] = ClassTarget(index=self.targets[tasks.CLASSIFICATION].labels.index(scene))
        return Sample(image=as_image(image), targets=targets, name=name)

    def _mask(self, path: Path, size: tuple[int, int], image: Path) -> Any:
        ids = labelimages.fit(labelimages.read_labels(path), size, path, image).astype(np.int64)
        classes = len(self.targets[tasks.SEGMENTATION].labels)
        if ids.ndim != 2 or ids.max(initial=0) > classes:
            raise DataError(f"{path} holds other values than 0 to {classes}; the full ADE20K has another format")
        return np.where(ids == 0, IGNORE, ids - 1)


def _is_ade(folder: Path) -> bool:
    inside = [folder / kind / split for kind in ("images", "annotations") for split in ("training", "validation")]
    named = (folder / "objectInfo150.txt").is_file() or "ADE" in folder.name.upper()
    return named and any(path.is_dir() for path in inside[:2]) and any(path.is_dir() for path in inside[2:])


def _images(folder: Path) -> dict[str, list[str]]:
    splits = [name for name in layout.listing(folder / "images").folders if layout.split_name(name)]
    return {name: [f"{name}/{image}" for image in layout.images_in(folder / "images" / name)] for name in splits}


def _class_names(folder: Path) -> tuple[str, ...]:
    """Read ``Idx Ratio Train Val Stuff Name`` (tabs); a name lists synonyms, of which the first ones tell classes apart."""
    path = folder / "objectInfo150.txt"
    if not path.is_file():
        raise DataError(
            f"{folder} has no objectInfo150.txt, which names the classes; it is in ADEChallengeData2016.zip"
        )
    rows = [line.split("\t") for line in layout.read_lines(path)]
    names = {}
    for row in rows:
        if row[0].strip().isdecimal() and len(row) >= 2:
            names[int(row[0])] = row[-1].strip()
    if not names or sorted(names) != list(range(1, len(names) + 1)) or len(names) > IGNORE:
        raise DataError(f"{path}: expected lines of a number from 1 on, four columns, and names, separated by tabs")
    firsts = [names[index].split(",")[0].strip() for index in sorted(names)]
    return layout.class_names(
        (first if firsts.count(first) == 1 else names[number] for number, first in enumerate(firsts, 1)), path
    )


def _scenes(folder: Path) -> dict[str, str]:
    path = folder / "sceneCategories.txt"
    rows = [line.split() for line in layout.read_lines(path)] if path.is_file() else []
    return {row[0]: row[1] for row in rows if len(row) == 2}
