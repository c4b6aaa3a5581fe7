"""Images in class folders, or in one flat folder without labels; the same in a .tar or .zip."""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitreg import imaging, tasks
from splitreg.data.recognition import hint
from splitreg.errors import DataError, ImageError
from splitreg.files import is_image
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import ClassTarget, Sample, Target
from splitreg_datasets import layout
from splitreg_datasets.files import as_image, find_root
from splitreg_datasets.layout import SPLITS, Splits
from splitreg_datasets.stores import Store, open_store

EXPECTED = "<split>/<class>/*.jpg, <class>/*.jpg, or images; in a folder, a .tar or a .zip"

#: Image as (name, class); the class is empty where there are no class folders.
Item = tuple[str, str]

#: Folders that other layouts have are no classes.
_PARTS = re.compile(
    r"images?|imgs?|jpegimages|labels?|masks?|annotations?|imagesets|segmentation(class|object)(png|raw)?|depth|depths|"
    r"bboxes|(image|label|depth)_\d+|velodyne|calib|leftimg8bit|gt(fine|coarse)|obj_train_data|.*annot",
    re.IGNORECASE,
)
_SYNSET = re.compile(r"n\d{8}")


class Folder(Dataset):
    """Class folders, or a flat folder.

    ::

        root/<split>/<class>/*.jpg      the class is the folder's name; classes in the order of their names
        root/<class>/*.jpg              20 % of each class are held out as "val", "train" is the rest, "all" all
        root/*.jpg                      no labels; every split is all of them

    Folders that are parts of another layout (``images``, ``labels``, ...) are not taken for classes: the error names the
    layout.

    Args:
        root: a folder, a .tar, a .zip, or a folder with one of these in it; None: ``$SPLITREG_DATA/folder``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.
        hold_out: fraction of ``train`` to hold out as ``val``; 0: 20 % where there are no folders of splits.
        unlabelled: take images without class folders even where another reader finds labels for them.

    Raises:
        DataError: no images, no such split, or another layout.
    """

    def __init__(
        self, root: str | None = None, split: str = "train", *, hold_out: float = 0.0, unlabelled: bool = False
    ) -> None:
        self._store = _store(find_root(root, "folder"))
        splits = _splits(self._store, hold_out, unlabelled)
        self.targets = _targets(splits)
        self._images = splits.select(split, "folder", self._store.path)

    @classmethod
    def describe(cls, root: str | None = None, *, unlabelled: bool = False, **options: Any) -> Mapping[str, TargetSpec]:
        """Return the targets; reads names only.

        Raises:
            DataError: no images, or another layout.
        """
        return _targets(_splits(_store(find_root(root, "folder")), 0.0, unlabelled))

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of classes and images; None if it is another layout."""
        place = Path(root)
        if place.is_dir() and not _may_be_classes(layout.only_folder(place)):
            return None
        if not place.is_dir() and place.suffix.lower() not in (".tar", ".zip"):
            return None
        store = _store(place)
        if not store.names():
            return None
        try:
            splits = _splits(store, 0.0, True)
        except DataError:  # parts of another layout, or images beside class folders
            return None
        targets = _targets(splits)
        if not targets and place.is_dir() and not _is_flat(place):
            return None
        labels = targets[tasks.CLASSIFICATION].labels if targets else ()
        if sum(map(bool, map(_SYNSET.fullmatch, labels))) * 2 > len(labels):
            return None  # ImageNet's
        what = layout.plural(len(labels), "class") if labels else "no classes"
        return f"folder: {what}, {splits.counts() if labels else layout.plural(len(splits.images['all']), 'image')}"

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
            targets[tasks.CLASSIFICATION] = ClassTarget(index=bisect.bisect_left(labels, label))  # they are sorted
        return Sample(image=as_image(image), targets=targets, name=name)


def _store(root: Path) -> Store:
    if root.is_dir():
        there = layout.listing(root, limit=64)
        archives = [name for name in there.files if name.lower().endswith((".tar", ".zip"))]
        if len(archives) == 1 and not there.folders:
            return open_store(root / archives[0])
    return open_store(root)


def _targets(splits: Splits[Item]) -> dict[str, TargetSpec]:
    labels = {label for _, label in splits.images["all"]}
    if labels == {""}:
        return {}
    return {tasks.CLASSIFICATION: TargetSpec(task=tasks.CLASSIFICATION, labels=tuple(sorted(labels)))}


def _splits(store: Store, hold_out: float, unlabelled: bool) -> Splits[Item]:
    """Sort the images of a store into splits and classes.

    Raises:
        DataError: no images, images beside class folders, or another layout.
    """
    names = store.names()
    if not names:
        raise layout.not_this("folder", store.path, EXPECTED)
    skipped = _folder_with_all(names)
    named: dict[str, list[Item]] = {}
    for name in names:
        first, *rest = name.split("/")[skipped:]
        split = layout.split_name(first) if rest else None
        label = (rest[0] if len(rest) > 1 else "") if split else (first if rest else "")
        named.setdefault(split or "", []).append((name, label))
    if len(named) > 1:
        named.pop("", None)  # beside folders of splits nothing else counts
    items = [item for listed in named.values() for item in listed]
    classes = {label for _, label in items}
    _check(store, items, classes, unlabelled)
    if not hold_out and classes == {""} and "" in named:
        return Splits({split: items for split in (*SPLITS, "all")})
    return layout.make_splits(
        named, stem=lambda item: layout.stem_of(item[0]), group=lambda item: item[1], hold_out=hold_out
    )


def _folder_with_all(names: list[str]) -> int:
    """Return 1 if one folder holds all: an archive often has it."""
    tops = {name.split("/", 1)[0] for name in names}
    if len(tops) != 1 or any("/" not in name for name in names) or layout.split_name(*tops):
        return 0
    return int(all(name.count("/") > 1 for name in names))


def _check(store: Store, items: list[Item], classes: set[str], unlabelled: bool) -> None:
    parts = sorted(label for label in classes if _PARTS.fullmatch(label))
    if parts:
        raise DataError(
            f"{store.path} has no class folders: {', '.join(parts[:4])} are parts of another layout. Expected "
            f"{EXPECTED}.{hint(store.path, 'folder')}"
        )
    bare = next((name for name, label in items if not label), None)
    if bare is not None and classes != {""}:
        raise DataError(f"{store.path} has class folders, but {bare} lies in none of them; move it into one")
    if classes == {""} and not unlabelled and store.path.is_dir():
        other = hint(store.path, "folder")
        if other:
            raise DataError(
                f"{store.path} has images, but no class folders.{other} To take the images without labels, set "
                "unlabelled=true"
            )


def _may_be_classes(root: Path) -> bool:
    """Whether a folder has images or folders, and none that is part of another layout; looks at names only."""
    there = layout.listing(root, limit=10_000)
    inner = [root / name for name in there.folders[:64] if layout.split_name(name)]
    names = [*there.folders, *(name for folder in inner for name in layout.listing(folder, limit=64).folders)]
    return bool(there.folders or there.files) and not any(map(_PARTS.fullmatch, names))


def _is_flat(root: Path) -> bool:
    """Whether there is nothing in a folder but images, perhaps by split, and texts for people."""
    there = layout.listing(root)
    notes = (".md", ".rst", ".pdf", "sums", "license", "readme.txt", ".tar", ".zip")
    other = [name for name in there.files if not is_image(name) and not name.lower().endswith(notes)]
    return not other and all(layout.split_name(name) and _is_flat(root / name) for name in there.folders)
