"""Open Images: boxes in CSV files, images in a folder per split."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import Sample
from splitreg_datasets import layout
from splitreg_datasets.files import as_image, find_root, read_picture
from splitreg_datasets.objects import Shape, object_specs, object_targets

EXPECTED = (
    "<split>-annotations-bbox.csv and class-descriptions-boxable.csv (also in annotations/, csv/ or metadata/), with the "
    "images in <split>/ or images/<split>/"
)
_FOLDERS = ("", "annotations", "csv", "csv_folder", "metadata", "labels")


class OpenImages(Dataset):
    """Open Images' boxes for the images that are there: a part of the dataset is enough.

    ::

        root/<split>-annotations-bbox.csv               also oidv6-<split>-annotations-bbox.csv
        root/class-descriptions-boxable.csv             names of the classes
        root/<split>/<ImageID>.jpg                      or root/images/<split>/, root/<split>/data/

    A box of a group (``IsGroupOf``) counts as a crowd.

    Args:
        root: the folder; None: ``$SPLITREG_DATA/openimages``.
        split: ``"train"``, ``"val"`` (``validation``) or ``"test"``.
        classes: names of the classes, separated by commas, of which boxes are read; empty: all.
        hold_out: fraction of ``train`` to hold out as ``val``, where there is none.

    Raises:
        DataError: not this layout, or a CSV file that is malformed.
    """

    def __init__(
        self, root: str | None = None, split: str = "train", *, classes: str = "", hold_out: float = 0.0
    ) -> None:
        self.targets = self.describe(root, classes=classes)
        self._root = layout.only_folder(find_root(root, "openimages"))
        labels = self.targets[tasks.DETECTION].labels
        names = {code: labels.index(name) for code, name in _classes(self._root).items() if name in labels}
        parts = _parts(self._root)
        wanted = layout.split_name(split) or split
        needed = {name for name in parts if wanted in (name, "all") or (hold_out and name == "train")}
        self._files = {name: part for name, part in parts.items() if name in needed}
        self._boxes = {name: _read_boxes(part, names, bool(classes)) for name, part in self._files.items()}
        named = {
            name: [(name, stem) for stem in part.images if name in needed and stem in self._boxes[name]]
            for name, part in parts.items()
        }
        splits = layout.make_splits(named, stem=lambda item: item[1].split("/")[-1], hold_out=hold_out)
        self._items = splits.select(split, "openimages", self._root)

    @classmethod
    def describe(cls, root: str | None = None, *, classes: str = "", **options: Any) -> Mapping[str, TargetSpec]:
        """Return the targets; reads the names of the classes.

        Raises:
            DataError: not this layout.
        """
        folder = layout.only_folder(find_root(root, "openimages"))
        if not folder.is_dir() or not _tables(folder):
            raise layout.not_this("openimages", folder, EXPECTED)
        known = _classes(folder).values()
        chosen = layout.option_names(classes)
        missing = next((name for name in chosen if name not in known), None)
        if missing is not None:
            raise DataError(f"Open Images has no class {missing!r} in {folder}; it names {len(known)}")
        return object_specs(chosen or layout.class_names(known, folder))

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of classes and images; None if it is another layout."""
        folder = layout.only_folder(Path(root))
        if not folder.is_dir() or not _tables(folder):
            return None
        named = {name: list(part.images) for name, part in _parts(folder).items()}
        counts = layout.make_splits(named, stem=str).counts()
        return f"openimages: {layout.plural(len(_classes(folder)), 'class')}, {counts}"

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Sample:
        name, stem = self._items[index]
        part = self._files[name]
        image = read_picture(part.folder / part.images[stem])
        height, width = image.shape[:2]
        shapes = [
            Shape(label=label, box=(x0 * width, y0 * height, x1 * width, y1 * height), crowd=crowd)
            for label, (x0, x1, y0, y1), crowd in self._boxes[name][stem]
        ]
        classes = len(self.targets[tasks.DETECTION].labels)
        targets = object_targets(shapes, classes, (height, width), part.table)
        return Sample(image=as_image(image), targets=targets, name=f"{name}/{part.images[stem]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A split: its CSV file, the folder of its images, and image id -> name below that folder."""

    table: Path
    folder: Path
    images: Mapping[str, str]


def _tables(root: Path) -> dict[str, Path]:
    """Return split -> CSV file of boxes."""
    tables: dict[str, Path] = {}
    for place in _FOLDERS:
        folder = layout.child_folder(root, place) if place else root
        for name in layout.listing(folder, limit=10_000).files if folder else ():
            if name.lower().endswith("annotations-bbox.csv") and folder:
                tables.setdefault(layout.split_in(name) or "train", folder / name)
    for folder in (root / name for name in layout.listing(root, limit=64).folders if layout.split_name(name)):
        file = folder / "labels" / "detections.csv"  # FiftyOne
        if file.is_file():
            tables.setdefault(layout.split_name(folder.name) or "", file)
    return tables


def _parts(root: Path) -> dict[str, _Part]:
    parts = {}
    for split, table in _tables(root).items():
        spellings = layout.SPLITS.get(split, (split,))
        bases = [root, layout.child_folder(root, "images"), layout.child_folder(root, "Dataset")]
        folders = [folder for base in bases if base and (folder := layout.child_folder(base, *spellings))]
        folders = [layout.child_folder(folder, "data", "images") or folder for folder in folders]
        folder = next(iter(folders), root)
        parts[split] = _Part(table=table, folder=folder, images=layout.by_stem(folder, 3 if folders else 0))
    return parts


def _classes(root: Path) -> dict[str, str]:
    """Return code of a class (/m/011k07) -> name, in the file's order."""
    inner = [root / name / "metadata" for name in layout.listing(root, limit=64).folders if layout.split_name(name)]
    for folder in [*(layout.child_folder(root, name) if name else root for name in _FOLDERS), *inner]:
        for file in layout.listing(folder).files if folder else ():
            named = "class-descriptions" in file.lower() or (file == "classes.csv" and folder in inner)
            if named and file.lower().endswith(".csv") and folder:
                lines = csv.reader(layout.read_text(folder / file).splitlines())
                rows = [row for row in lines if len(row) >= 2 and row[0] != "LabelName"]
                if rows:
                    return {row[0].strip(): row[1].strip() for row in rows}
    raise DataError(f"{root} has no class-descriptions-boxable.csv, which names the classes of Open Images' codes")


def _rows(path: Path) -> Iterator[list[str]]:
    """Yield the rows of a CSV file, line by line: the largest has two gigabytes.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            yield from csv.reader(file)
    except (OSError, csv.Error) as cause:
        raise DataError(f"cannot read {path}: {cause}") from cause


Box = tuple[int, tuple[float, float, float, float], bool]


def _read_boxes(part: _Part, names: Mapping[str, int], some: bool) -> dict[str, list[Box]]:
    """Read the boxes of the images that are there: image id -> (class, x0, x1, y0, y1, group).

    Args:
        part: the split.
        names: code of a class -> index.
        some: other classes are left out; otherwise they are an error.

    Raises:
        DataError: names the line.
    """
    by_id = {stem.split("/")[-1]: stem for stem in part.images}
    boxes: dict[str, list[Box]] = {stem: [] for stem in part.images}
    rows = _rows(part.table)
    header = next(rows, [])
    columns = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
    if not set(columns) <= set(header):
        raise DataError(f"{part.table}: expected the columns {', '.join(columns)}, got {header[:8]}")
    identity, code, *sides = (header.index(name) for name in columns)
    group = header.index("IsGroupOf") if "IsGroupOf" in header else -1
    for number, row in enumerate(rows, 2):
        if len(row) < len(columns) or row[identity] not in by_id:
            continue
        try:
            corners = tuple(float(row[side]) for side in sides)
            crowd = group >= 0 and row[group].strip() == "1"
        except (ValueError, IndexError):
            corners, crowd = (math.nan,) * 4, False
        if not all(-0.01 <= value <= 1.01 for value in corners):
            raise DataError(f"{part.table}, line {number}: coordinates must be fractions of the image, got {row[:8]}")
        if row[code] not in names:
            if some:
                continue
            raise DataError(f"{part.table}, line {number}: the class {row[code]!r} is in no list of class descriptions")
        x0, x1, y0, y1 = corners
        boxes[by_id[row[identity]]].append((names[row[code]], (x0, x1, y0, y1), crowd))
    return boxes
