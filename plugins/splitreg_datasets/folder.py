"""Images in class folders, or in one flat folder without labels; also in a .tar or .zip."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitreg import imaging, tasks
from splitreg.errors import DataError, ImageError
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import ClassTarget, Sample, Target
from splitreg_datasets.files import as_image, find_root, no_split, not_a
from splitreg_datasets.stores import Store, open_store

#: Split -> names of its folder.
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_ALIASES = {alias: split for split, aliases in SPLITS.items() for alias in aliases}
#: Without split folders, every fifth image of a class is for validation.
HOLD_OUT = 5
EXPECTED = "<split>/<class>/*.jpg, <class>/*.jpg, or images; in a folder, a .tar or a .zip"

#: Split -> images as (name, class); the class is empty without class folders.
Splits = dict[str, list[tuple[str, str]]]


class Folder(Dataset):
    """Class folders, or a flat folder.

    ::

        root/<split>/<class>/*.jpg      the class is the folder's name; classes are sorted by name
        root/<class>/*.jpg              "val" is every fifth image of each class, "train" the rest, "all" all
        root/*.jpg                      no labels; each split has all images

    Args:
        root: a folder, a .tar, a .zip, or a folder that holds one archive; None: ``$SPLITREG_DATA/folder``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.

    Raises:
        DataError: there are no images, or there is no such split.
    """

    def __init__(self, root: str | None = None, split: str = "train") -> None:
        self._store = _store(find_root(root, "folder"))
        splits = _splits(self._store)
        self.targets = _targets(splits)
        self._images = splits.get(split, [])
        if not self._images:
            raise no_split("folder", self._store.path, split, splits)

    @classmethod
    def describe(cls, root: str | None = None, **options: Any) -> Mapping[str, TargetSpec]:
        """Return the targets; reads file names only.

        Raises:
            DataError: there are no images.
        """
        return _targets(_splits(_store(find_root(root, "folder"))))

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        name, label = self._images[index]
        try:
            image = imaging.read(self._store.read(name))
        except ImageError as cause:
            raise DataError(f"{self._store.path}: cannot read the image {name}: {cause}") from cause
        targets: dict[str, Target | None] = {}
        if self.targets:
            labels = self.targets[tasks.CLASSIFICATION].labels
            targets[tasks.CLASSIFICATION] = ClassTarget(index=bisect.bisect_left(labels, label))  # labels are sorted
        return Sample(image=as_image(image), targets=targets, name=name)


def _store(root: Path) -> Store:
    if root.is_dir():
        entries = list(root.iterdir())
        archives = [path for path in entries if path.suffix in (".tar", ".zip")]
        if len(archives) == 1 and not any(path.is_dir() for path in entries):
            return open_store(archives[0])
    return open_store(root)


def _targets(splits: Splits) -> dict[str, TargetSpec]:
    labels = {label for images in splits.values() for _, label in images}
    if labels == {""}:
        return {}
    return {tasks.CLASSIFICATION: TargetSpec(task=tasks.CLASSIFICATION, labels=tuple(sorted(labels)))}


def _splits(store: Store) -> Splits:
    names = store.names()
    if not names:
        raise not_a("folder", store.path, EXPECTED)
    tops = {name.split("/", 1)[0] for name in names if "/" in name}
    if len(tops) == 1 and all("/" in name for name in names) and not tops & _ALIASES.keys():
        inner = {name.split("/")[1] for name in names}
        if not any("." in name for name in inner):  # an archive often holds a single folder
            return _group(store, names, skip=1)
    return _group(store, names, skip=0)


def _group(store: Store, names: list[str], *, skip: int) -> Splits:
    """Group names by split, without their first ``skip`` folders."""
    parts = {name: name.split("/")[skip:] for name in names}
    if any(part[0] in _ALIASES and len(part) > 1 for part in parts.values()):
        splits: Splits = {}
        for name, part in parts.items():
            if part[0] in _ALIASES and len(part) > 1:
                splits.setdefault(_ALIASES[part[0]], []).append((name, part[1] if len(part) > 2 else ""))
        return _uniform(store, {**splits, "all": [image for images in splits.values() for image in images]})
    images = [(name, part[0] if len(part) > 1 else "") for name, part in parts.items()]
    if not any(label for _, label in images):
        return {split: images for split in (*SPLITS, "all")}
    train: list[tuple[str, str]] = []
    val: list[tuple[str, str]] = []
    for _, group in itertools.groupby(images, key=lambda image: image[1]):
        for number, image in enumerate(group):
            (val if number % HOLD_OUT == HOLD_OUT - 1 else train).append(image)
    return _uniform(store, {"train": train, "val": val, "all": images})


def _uniform(store: Store, splits: Splits) -> Splits:
    """Reject a mixture of images with and without a class folder."""
    bare = next((name for name, label in splits["all"] if not label), None)
    if bare is not None and any(label for _, label in splits["all"]):
        raise DataError(f"{store.path} has class folders, but {bare} is in none of them; move it into one")
    return splits
