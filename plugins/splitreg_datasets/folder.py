"""Pictures in class folders, or in one flat folder without labels; the same in a .tar or .zip."""

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
from splitreg_datasets.files import as_image, find_root, no_split
from splitreg_datasets.layout import not_this
from splitreg_datasets.stores import Store, open_store

#: Names under which splits are found.
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_ALIASES = {alias: split for split, aliases in SPLITS.items() for alias in aliases}
#: Without split folders every fifth picture of a class is for validation.
HOLD_OUT = 5
EXPECTED = "<split>/<class>/*.jpg, <class>/*.jpg, or pictures; in a folder, a .tar or a .zip"

#: Split -> pictures as (name, class); the class is empty where there are no class folders.
Layout = dict[str, list[tuple[str, str]]]


class Folder(Dataset):
    """Class folders, or a flat folder.

    ::

        root/<split>/<class>/*.jpg      the class is the folder's name; classes in the order of their names
        root/<class>/*.jpg              "val" is every fifth picture of each class, "train" the others, "all" all
        root/*.jpg                      no labels; every split is all of them

    Args:
        root: a folder, a .tar, a .zip, or a folder with one of these in it; None: ``$SPLITREG_DATA/folder``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.

    Raises:
        DataError: no pictures, or no such split.
    """

    def __init__(self, root: str | None = None, split: str = "train") -> None:
        self._store = _store(find_root(root, "folder"))
        layout = _layout(self._store)
        self.targets = _targets(layout)
        self._pictures = layout.get(split, [])
        if not self._pictures:
            raise no_split("folder", self._store.path, split, layout)

    @classmethod
    def describe(cls, root: str | None = None, **options: Any) -> Mapping[str, TargetSpec]:
        """Return the targets; reads names only.

        Raises:
            DataError: no pictures.
        """
        return _targets(_layout(_store(find_root(root, "folder"))))

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> Sample:
        name, label = self._pictures[index]
        try:
            image = imaging.read(self._store.read(name))
        except ImageError as cause:
            raise DataError(f"{self._store.path}: cannot read the picture {name}: {cause}") from cause
        targets: dict[str, Target | None] = {}
        if self.targets:
            labels = self.targets[tasks.CLASSIFICATION].labels
            targets[tasks.CLASSIFICATION] = ClassTarget(index=bisect.bisect_left(labels, label))  # they are sorted
        return Sample(image=as_image(image), targets=targets, name=name)


def _store(root: Path) -> Store:
    if root.is_dir():
        entries = list(root.iterdir())
        archives = [path for path in entries if path.suffix in (".tar", ".zip")]
        if len(archives) == 1 and not any(path.is_dir() for path in entries):
            return open_store(archives[0])
    return open_store(root)


def _targets(layout: Layout) -> dict[str, TargetSpec]:
    labels = {label for pictures in layout.values() for _, label in pictures}
    if labels == {""}:
        return {}
    return {tasks.CLASSIFICATION: TargetSpec(task=tasks.CLASSIFICATION, labels=tuple(sorted(labels)))}


def _layout(store: Store) -> Layout:
    names = store.names()
    if not names:
        raise not_this("folder", store.path, EXPECTED)
    tops = {name.split("/", 1)[0] for name in names if "/" in name}
    if len(tops) == 1 and all("/" in name for name in names) and not tops & _ALIASES.keys():
        inner = {name.split("/")[1] for name in names}
        if not any("." in name for name in inner):  # an archive often holds one folder that holds all
            return _group(store, names, skip=1)
    return _group(store, names, skip=0)


def _group(store: Store, names: list[str], *, skip: int) -> Layout:
    """Sort names into splits; ``skip`` leading folders count for nothing."""
    parts = {name: name.split("/")[skip:] for name in names}
    if any(part[0] in _ALIASES and len(part) > 1 for part in parts.values()):
        layout: Layout = {}
        for name, part in parts.items():
            if part[0] in _ALIASES and len(part) > 1:
                layout.setdefault(_ALIASES[part[0]], []).append((name, part[1] if len(part) > 2 else ""))
        return _uniform(store, {**layout, "all": [p for pictures in layout.values() for p in pictures]})
    pictures = [(name, part[0] if len(part) > 1 else "") for name, part in parts.items()]
    if not any(label for _, label in pictures):
        return {split: pictures for split in (*SPLITS, "all")}
    train: list[tuple[str, str]] = []
    val: list[tuple[str, str]] = []
    for _, group in itertools.groupby(pictures, key=lambda picture: picture[1]):
        for number, picture in enumerate(group):
            (val if number % HOLD_OUT == HOLD_OUT - 1 else train).append(picture)
    return _uniform(store, {"train": train, "val": val, "all": pictures})


def _uniform(store: Store, layout: Layout) -> Layout:
    """Refuse a mixture of pictures with a class and without."""
    bare = next((name for name, label in layout["all"] if not label), None)
    if bare is not None and any(label for _, label in layout["all"]):
        raise DataError(f"{store.path} has class folders, but {bare} lies in none of them; move it into one")
    return layout
