"""NYU Depth V2: the labelled images in one MATLAB file (HDF5), with depth and semantic labels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg import tasks
from splitreg.errors import DataError, MissingExtra
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import IGNORE, Sample, Target
from splitreg_datasets import labelimages, layout
from splitreg_datasets.depthmaps import depth_target
from splitreg_datasets.files import as_image, find_root

FILE = "nyu_depth_v2_labeled.mat"
EXPECTED = f"{FILE}, and optionally classMapping40.mat and splits.mat beside it"


class NyuDepth(Dataset):
    """The labelled part of NYU Depth V2: 1,449 images of 640x480, depth in metres, semantic labels.

    ::

        root/nyu_depth_v2_labeled.mat           as published (HDF5)
        root/classMapping40.mat                 optional: the 894 labels as 40 classes (Gupta et al. 2013)
        root/splits.mat                         optional: the official splits; "val" is the same as "test"

    Without ``classMapping40.mat`` the labels are those of the file if there are at most 255, which can be told apart, and
    otherwise those that ``classes`` names. Without ``splits.mat`` the images of 20 % of the scenes are held out as
    "val"; a scene is in one split only.

    Args:
        root: the folder, or the file; None: ``$SPLITREG_DATA/nyu-depth``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.
        classes: names of labels in the file, separated by commas; others are unknown.

    Raises:
        DataError: another file.
        MissingExtra: h5py, or for the .mat files beside it scipy, is not installed.
    """

    def __init__(self, root: str | None = None, split: str = "train", *, classes: str = "") -> None:
        self._path = _file(root)
        self._open: Any = None
        self._process = 0
        self._table, labels = _classes(self._path, classes)
        self.targets = _targets(labels)
        named = _splits(self._path, len(self._file()["images"]))
        fraction = 0.0 if "test" in named else layout.HOLD_OUT
        every = sorted({row for rows in named.values() for row in rows})
        splits = layout.Splits({**named, "all": every}, fraction=fraction)
        self._rows = splits.select(split, "nyu-depth", self._path)

    @classmethod
    def describe(cls, root: str | None = None, *, classes: str = "", **options: Any) -> Mapping[str, TargetSpec]:
        """Return the targets; reads the names of the labels.

        Raises:
            DataError: another file.
        """
        return _targets(_classes(_file(root), classes)[1])

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of images and classes; None if it is another layout."""
        path = Path(root) / FILE if Path(root).is_dir() else Path(root)
        if path.name != FILE or not path.is_file():
            return None
        targets = cls.describe(root)
        labels = targets[tasks.SEGMENTATION].labels if tasks.SEGMENTATION in targets else ()
        with _opened(path) as file:
            images = len(file["images"])
        return f"nyu-depth: {layout.plural(images, 'image')} with depth, {layout.plural(len(labels), 'class')}"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        row = self._rows[index]
        file = self._file()
        image = np.ascontiguousarray(np.asarray(file["images"][row]).transpose(2, 1, 0))  # MATLAB stores (C, W, H)
        metres = np.asarray(file["depths"][row], np.float32).T
        metres = np.where(np.isfinite(metres) & (metres > 0), metres, 0)
        targets: dict[str, Target | None] = {tasks.DEPTH: depth_target(metres)}
        if tasks.SEGMENTATION in self.targets:
            stored = np.asarray(file["labels"][row]).T.astype(np.int64)
            if stored.max(initial=0) >= len(self._table):
                raise DataError(f"{self._path}: image {row} has the label {stored.max()}, which has no name")
            targets[tasks.SEGMENTATION] = labelimages.mask_target(self._table[stored])
        return Sample(image=as_image(image), targets=targets, name=f"{row:04d}")

    def _file(self) -> Any:
        if self._open is None or self._process != os.getpid():  # a child must not share the parent's file
            self._open, self._process = _opened(self._path), os.getpid()
        return self._open

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}


def _file(root: str | None) -> Path:
    place = find_root(root, "nyu-depth")
    path = layout.only_folder(place) / FILE if place.is_dir() else place
    if not path.is_file():
        raise layout.not_this("nyu-depth", place, EXPECTED)
    return path


def _opened(path: Path) -> Any:
    try:
        import h5py
    except ImportError as cause:
        raise MissingExtra(f"{path} needs h5py: pip install 'splitreg[full]'") from cause
    try:
        file = h5py.File(path, "r")
        shapes = {name: file[name].shape for name in ("images", "depths", "labels")}
    except (OSError, KeyError, AttributeError, ValueError) as cause:
        raise DataError(f"{path} is not NYU Depth's HDF5 file with images, depths and labels: {cause}") from cause
    count, *size = shapes["depths"] if len(shapes["depths"]) == 3 else (0, 0, 0)
    if shapes["images"] != (count, 3, *size) or shapes["labels"] != (count, *size) or file["images"].dtype != np.uint8:
        raise DataError(
            f"{path}: images, depths and labels have the shapes {shapes}; expected (N, 3, W, H) and (N, W, H)"
        )
    return file


def _targets(labels: tuple[str, ...]) -> dict[str, TargetSpec]:
    targets = {tasks.DEPTH: TargetSpec(task=tasks.DEPTH)}
    if labels:
        targets[tasks.SEGMENTATION] = TargetSpec(task=tasks.SEGMENTATION, labels=labels)
    return targets


def _classes(path: Path, chosen: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return stored label -> class index, and the names of the classes."""
    with _opened(path) as file:
        names = _strings(file, "names")
    wanted = layout.option_names(chosen)
    table = np.full(len(names) + 1, IGNORE, np.int64)
    if wanted:
        missing = [name for name in wanted if name not in names]
        if missing:
            raise DataError(f"{path} has no label {missing[0]!r}; it has {len(names)}, e.g. {', '.join(names[:5])}")
        for index, name in enumerate(wanted):
            table[names.index(name) + 1] = index
        return table, wanted
    mapping = path.parent / "classMapping40.mat"
    if mapping.is_file():
        loaded = _matlab(mapping)
        try:
            numbers = np.asarray(loaded["mapClass"]).reshape(-1).astype(np.int64)
            labels = tuple(str(np.asarray(name).reshape(-1)[0]) for name in np.asarray(loaded["className"]).reshape(-1))
        except (KeyError, ValueError, TypeError, IndexError) as cause:
            raise DataError(f"{mapping}: expected mapClass and className, as published: {cause}") from cause
        if len(numbers) != len(names) or numbers.min(initial=1) < 1 or numbers.max(initial=1) > len(labels):
            raise DataError(f"{mapping} maps {len(numbers)} labels to {len(labels)} classes; the file has {len(names)}")
        table[1:] = numbers - 1
        return table, layout.class_names(labels, mapping)
    if 0 < len(names) <= IGNORE:
        table[1:] = np.arange(len(names))
        return table, layout.class_names(names, path)
    return table, ()


def _strings(file: Any, key: str) -> list[str]:
    """Read a MATLAB cell array of strings; empty where there is none."""
    if key not in file:
        return []
    try:
        cells = np.asarray(file[key]).reshape(-1)
        return ["".join(chr(int(code)) for code in np.asarray(file[cell]).reshape(-1)) for cell in cells]
    except (ValueError, TypeError, KeyError, OverflowError) as cause:
        raise DataError(f"{file.filename}: {key} must be a cell array of strings: {cause}") from cause


def _matlab(path: Path) -> dict[str, Any]:
    try:
        import scipy.io
    except ImportError as cause:
        raise MissingExtra(f"{path} needs scipy: pip install scipy") from cause
    try:
        loaded: dict[str, Any] = scipy.io.loadmat(path)
        return loaded
    except Exception as cause:  # the library raises ValueError, TypeError, struct.error, zlib.error and more
        raise DataError(f"{path} is not a MATLAB file: {cause}") from cause


def _splits(path: Path, count: int) -> dict[str, list[int]]:
    """Return the rows of each split: the official ones, or some scenes held out."""
    listing = path.parent / "splits.mat"
    if listing.is_file():
        loaded = _matlab(listing)
        try:
            rows = {key: np.asarray(loaded[key]).reshape(-1).astype(int) - 1 for key in ("trainNdxs", "testNdxs")}
        except (KeyError, ValueError, TypeError) as cause:
            raise DataError(f"{listing}: expected trainNdxs and testNdxs, as published: {cause}") from cause
        if any(((value < 0) | (value >= count)).any() for value in rows.values()):
            raise DataError(f"{listing} lists an image beyond the {count} of {path.name}")
        train, test = (sorted(value.tolist()) for value in rows.values())
        return {"train": train, "val": test, "test": test}
    with _opened(path) as file:
        scenes = _strings(file, "scenes")
    groups = scenes if len(scenes) == count else [str(row) for row in range(count)]
    order = sorted(set(groups), key=lambda scene: hashlib.sha256(scene.encode()).digest())
    chosen = {scene for scene, out in zip(order, layout.held_out(order), strict=True) if out}
    return {
        "train": [row for row, scene in enumerate(groups) if scene not in chosen],
        "val": [row for row, scene in enumerate(groups) if scene in chosen],
    }
