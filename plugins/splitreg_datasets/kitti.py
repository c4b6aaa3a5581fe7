"""KITTI: boxes of the object benchmark; depth of the depth benchmark."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import Sample, Target
from splitreg_datasets import depthmaps, layout
from splitreg_datasets.files import as_image, find_root, read_picture
from splitreg_datasets.layout import Splits
from splitreg_datasets.objects import Shape, object_specs, object_targets

CLASSES = ("Car", "Van", "Truck", "Pedestrian", "Person_sitting", "Cyclist", "Tram", "Misc")
#: A region whose objects are not labelled.
DONT_CARE = "DontCare"
#: Metres of one step of a depth image.
DEPTH_UNIT = 1 / 256
EXPECTED = (
    "training/image_2/*.png and training/label_2/*.txt, or <split>/<drive>/proj_depth/groundtruth/ with the images of "
    "the raw data, or depth_selection/val_selection_cropped/"
)


class Kitti(Dataset):
    """KITTI's object benchmark, or its depth benchmark.

    ::

        root/training/image_2/*.png, root/training/label_2/*.txt    boxes; 20 % are held out as "val"
        root/ImageSets/train.txt, val.txt                           optional: splits, as numbers of images
        root/<split>/<drive>/proj_depth/groundtruth/image_02/*.png  depth, PNG of 16 bits, metres * 256
        root/<date>/<drive>/image_02/data/*.png                     its images, from the raw data; also inside <split>/<drive>/
        root/depth_selection/val_selection_cropped/image/, groundtruth_depth/      depth, split "val"

    A ``DontCare`` region counts as a crowd of every class. Sparse depth is 0 (unknown) elsewhere.

    Args:
        root: the folder; None: ``$SPLITREG_DATA/kitti``.
        split: ``"train"``, ``"val"`` or ``"test"``.
        classes: names of the boxes' classes, separated by commas; empty: KITTI's 8. Others are left out.
        hold_out: fraction of ``train`` to hold out as ``val``; 0: 20 % where the dataset has no splits.

    Raises:
        DataError: not this layout, or a label file that is malformed.
    """

    def __init__(
        self, root: str | None = None, split: str = "train", *, classes: str = "", hold_out: float = 0.0
    ) -> None:
        self.targets = self.describe(root, classes=classes)
        self._root = layout.only_folder(find_root(root, "kitti"))
        self._entries = _splits(self._root, hold_out).select(split, "kitti", self._root)

    @classmethod
    def describe(cls, root: str | None = None, *, classes: str = "", **options: Any) -> Mapping[str, TargetSpec]:
        """Return the targets; reads names only.

        Raises:
            DataError: not this layout.
        """
        folder = layout.only_folder(find_root(root, "kitti"))
        if not _is_kitti(folder):
            raise layout.not_this("kitti", folder, EXPECTED)
        if _object_folder(folder) is None:
            return {tasks.DEPTH: TargetSpec(task=tasks.DEPTH)}
        return object_specs(layout.option_names(classes) or CLASSES)

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of images and boxes; None if it is another layout."""
        folder = layout.only_folder(Path(root))
        if not _is_kitti(folder):
            return None
        splits = _splits(folder, 0.0)
        if _object_folder(folder) is None:
            return f"kitti: {splits.counts()} with depth"
        labels = [entry.labels for entry in splits.images["all"] if entry.labels][: layout.MAX_COUNTED]
        lines = (line for path in labels for line in layout.read_lines(folder / path))
        boxes = sum(not line.startswith(DONT_CARE) for line in lines)
        return f"kitti: {len(CLASSES)} classes, {splits.counts()}, {layout.plural(boxes, 'box')}"

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self._entries[index]
        path = self._root / entry.image
        image = read_picture(path)
        size = (image.shape[0], image.shape[1])
        targets: dict[str, Target | None] = {}
        if entry.labels and tasks.DETECTION in self.targets:
            names = self.targets[tasks.DETECTION].labels
            shapes = read_objects(self._root / entry.labels, names)
            targets.update(object_targets(shapes, len(names), size, self._root / entry.labels))
        if entry.depth:
            depth = depthmaps.read_depth(self._root / entry.depth, size, path, unit=DEPTH_UNIT)
            targets[tasks.DEPTH] = depth
        return Sample(image=as_image(image), targets=targets, name=entry.image)


@dataclass(frozen=True, slots=True, kw_only=True)
class KittiEntry:
    """Paths of an image and its labels, relative to the root; empty where there are none."""

    image: str
    labels: str = ""
    depth: str = ""


def read_objects(path: Path, names: tuple[str, ...]) -> list[Shape]:
    """Read a label file: type, truncated, occluded, alpha, then left, top, right, bottom in pixels, then 3D.

    Raises:
        DataError: names the line.
    """
    shapes = []
    for number, line in enumerate(layout.read_lines(path), 1):
        where = f"{path}, line {number}"
        fields = line.rsplit(None, 15) if len(line.split()) > 15 else line.rsplit(None, 14)
        try:  # a class name may have spaces; a result has a score at the end
            values = [float(field) for field in fields[1:]]
        except ValueError:
            values = []
        if len(values) not in (14, 15) or not all(map(math.isfinite, values)):
            fields = line.rsplit(None, 14)
            try:
                values = [float(field) for field in fields[1:]]
            except ValueError:
                values = []
        if len(values) not in (14, 15) or not all(map(math.isfinite, values)):
            raise DataError(f"{where}: expected a class and 14 numbers (15 with a score), got {line[:60]!r}")
        box = (values[3], values[4], values[5], values[6])
        if fields[0] == DONT_CARE:
            shapes += [Shape(label=label, box=box, crowd=True) for label in range(len(names))]
        elif fields[0] in names:
            shapes.append(Shape(label=names.index(fields[0]), box=box))
        elif names == CLASSES:
            raise DataError(f"{where}: {fields[0]!r} is none of KITTI's classes; name yours: classes=first,second,...")
    return shapes


def _object_folder(root: Path) -> str | None:
    """Return the folder of labelled images of the object benchmark, empty for the root itself."""
    for name in ("training", "train", ""):
        if (root / name / "image_2").is_dir() and (root / name / "label_2").is_dir():
            return name
    return None


def _is_kitti(root: Path) -> bool:
    if not root.is_dir():
        return False
    if _object_folder(root) is not None or (root / "depth_selection" / "val_selection_cropped").is_dir():
        return True
    drives = [
        root / split / name for split in ("train", "val") for name in layout.listing(root / split, limit=16).folders
    ]
    return any((drive / "proj_depth" / "groundtruth").is_dir() for drive in drives)


def _splits(root: Path, hold_out: float) -> Splits[KittiEntry]:
    home = _object_folder(root)
    named = _drives(root) if home is None else _objects(root, home)
    if not any(named.values()):
        raise layout.not_this("kitti", root, EXPECTED)
    return layout.make_splits(named, stem=lambda entry: layout.stem_of(entry.image), hold_out=hold_out)


def _objects(root: Path, home: str) -> dict[str, list[KittiEntry]]:
    prefix = f"{home}/" if home else ""
    files = layout.listing(root / home / "label_2").files
    labels = {layout.stem_of(name): name for name in files if name.lower().endswith(".txt")}
    images = layout.by_stem(root / home / "image_2", 0)
    entries = {
        stem: KittiEntry(
            image=f"{prefix}image_2/{name}", labels=f"{prefix}label_2/{labels[stem]}" if stem in labels else ""
        )
        for stem, name in images.items()
    }
    lists = {name: root / "ImageSets" / f"{name}.txt" for name in ("train", "val")}
    if all(path.is_file() for path in lists.values()):
        return {name: [_entry(entries, line, path) for line in layout.read_lines(path)] for name, path in lists.items()}
    return {"": [entry for stem, entry in entries.items() if entry.labels]}


def _entry(entries: Mapping[str, KittiEntry], line: str, path: Path) -> KittiEntry:
    if line not in entries:
        raise DataError(f"{path} lists {line!r}, but there is no such image")
    return entries[line]


def _drives(root: Path) -> dict[str, list[KittiEntry]]:
    """Pair the depth of the depth benchmark with images of the raw data."""
    named: dict[str, list[KittiEntry]] = {}
    for split in ("train", "val"):
        for drive in layout.listing(root / split).folders:
            for camera in ("image_02", "image_03"):
                depth = f"{split}/{drive}/proj_depth/groundtruth/{camera}"
                places = [
                    f"{split}/{drive}/{camera}/data",
                    f"{drive[:10]}/{drive}/{camera}/data",
                    f"raw/{drive[:10]}/{drive}/{camera}/data",
                ]
                images = next((place for place in places if (root / place).is_dir()), None)
                for name in layout.listing(root / depth).images() if images else ():
                    entry = KittiEntry(image=f"{images}/{name}", depth=f"{depth}/{name}")
                    if (root / entry.image).is_file():
                        named.setdefault(split, []).append(entry)
    chosen = "depth_selection/val_selection_cropped"
    for name in layout.listing(root / chosen / "image").images():
        depth = f"{chosen}/groundtruth_depth/{name.replace('_image_', '_groundtruth_depth_', 1)}"
        if (root / depth).is_file():
            named.setdefault("val", []).append(KittiEntry(image=f"{chosen}/image/{name}", depth=depth))
    return named
