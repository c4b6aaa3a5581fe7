"""What the library ``datasets`` of Hugging Face loads: saved datasets, Parquet files, the Hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg import imaging, tasks
from splitreg.errors import DataError, ImageError, MissingExtra
from splitreg.files import is_finite
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import IGNORE, ClassTarget, Sample, Target
from splitreg_datasets import depthmaps, labelimages, layout
from splitreg_datasets.files import as_image, find_root
from splitreg_datasets.layout import Splits
from splitreg_datasets.objects import Shape, object_specs, object_targets

EXPECTED = "a folder of datasets' save_to_disk (dataset_dict.json or state.json), or Parquet files"
#: Option that names a column -> its default.
_COLUMNS = {"image": "image", "label": "label", "objects": "objects", "mask": "", "depth": ""}
_BOXES, _CATEGORIES = ("bbox", "bboxes", "boxes"), ("category", "categories", "label", "labels", "category_id")


class HuggingFace(Dataset):
    """A dataset of Hugging Face's ``datasets``, from disk or from the Hub; options name its columns.

    ::

        root/dataset_dict.json or root/state.json           written by save_to_disk
        root/*.parquet, root/data/train-00000-of-00001.parquet
        hub="uoft-cs/cifar10"                               from the Hub

    Args:
        root: the folder; None: ``$SPLITREG_DATA/hf``, unless ``hub`` is given.
        split: as the dataset names it, or ``"val"`` for validation.
        hub: name on the Hub, instead of a folder.
        config: configuration of the dataset on the Hub.
        image: column of the images.
        label: column of the class; empty, or a column that is not there: none.
        objects: column of objects, each with a box and a category; likewise.
        boxes: what a box is: ``"xywh"`` (x, y, width, height, as in COCO) or ``"xyxy"``, in pixels.
        mask: column of label images; empty: none.
        mask_classes: names of the mask's classes from 0 on, separated by commas.
        depth: column of depth images; empty: none.
        unit: metres of one step of an integer depth.
        hold_out: fraction of ``train`` to hold out as ``val``; 0: 20 % where the dataset has no splits.

    Raises:
        DataError: it cannot be loaded, or has other columns.
        MissingExtra: datasets is not installed.
    """

    def __init__(
        self,
        root: str | None = None,
        split: str = "train",
        *,
        hub: str = "",
        config: str = "",
        image: str = "image",
        label: str = "label",
        objects: str = "objects",
        boxes: str = "xywh",
        mask: str = "",
        mask_classes: str = "",
        depth: str = "",
        unit: float = 0.001,
        hold_out: float = 0.0,
    ) -> None:
        if boxes not in ("xywh", "xyxy"):
            raise DataError(f"boxes must be 'xywh' or 'xyxy', got {boxes!r}")
        place = root or hub or "hf"
        self._tables = _load(root, hub, config)
        first = next(iter(self._tables.values()))
        self._columns = {"image": image, "label": label, "objects": objects, "mask": mask, "depth": depth}
        self.targets = _targets(first, self._columns, mask_classes, place)
        self._boxes, self._unit = boxes, unit
        names = self.targets[tasks.SEGMENTATION].labels if tasks.SEGMENTATION in self.targets else ()
        self._mask_classes = labelimages.indexed_classes(names)
        self._tables = {name: _undecoded(table, self._columns) for name, table in self._tables.items()}
        self._rows = _splits(self._tables, hold_out).select(split, "hf", Path(place))
        if names:
            labelimages.check_foreground(self._some_masks(), self._mask_classes, place, "store it as 1")

    @classmethod
    def describe(
        cls,
        root: str | None = None,
        *,
        hub: str = "",
        config: str = "",
        mask_classes: str = "",
        **options: Any,
    ) -> Mapping[str, TargetSpec]:
        """Return the targets; reads the dataset's description, and the names of classes where it lists none.

        Raises:
            DataError: it cannot be loaded, or has other columns.
        """
        columns = {column: str(options.get(column, default)) for column, default in _COLUMNS.items()}
        table = next(iter(_load(root, hub, config).values()))
        return _targets(table, columns, mask_classes, root or hub or "hf")

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of images and the columns; None if it is another layout."""
        place = Path(root)
        if not place.is_dir() or not _is_saved(place):
            return None
        try:
            tables = _load(root, "", "")
        except MissingExtra as error:
            return f"hf: {error}"
        columns = ", ".join(next(iter(tables.values())).column_names)
        return f"hf: {_splits(tables, 0.0).counts()} with the columns {columns}"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        name, number = self._rows[index]
        where = f"row {number} of {name or 'the dataset'}"
        row = self._tables[name][number]
        image = imaging_read(row[self._columns["image"]], where)
        size = (image.shape[0], image.shape[1])
        targets: dict[str, Target | None] = {}
        if tasks.CLASSIFICATION in self.targets:
            index_of = _index(row[self._columns["label"]], self.targets[tasks.CLASSIFICATION].labels, where)
            targets[tasks.CLASSIFICATION] = None if index_of is None else ClassTarget(index=index_of)
        if tasks.DETECTION in self.targets:
            labels = self.targets[tasks.DETECTION].labels
            shapes = _shapes(row[self._columns["objects"]], labels, self._boxes, where)
            targets.update(object_targets(shapes, len(labels), size, Path(where)))
        if tasks.SEGMENTATION in self.targets:
            targets[tasks.SEGMENTATION] = self._mask(row[self._columns["mask"]], size, where)
        if tasks.DEPTH in self.targets:
            targets[tasks.DEPTH] = depthmaps.depth_of_bytes(
                _bytes(row[self._columns["depth"]], where), size, where, self._unit
            )
        return Sample(image=as_image(image), targets=targets, name=f"{name}/{number}" if name else str(number))

    def _some_masks(self) -> Iterator[NDArray[np.int64]]:
        """Yield the class indexes of a few masks."""
        for name, number in self._rows[:: len(self._rows) // labelimages.CHECKED_BYTES + 1]:
            value = self._tables[name][number][self._columns["mask"]]
            if value is not None:
                where = f"row {number} of {name or 'the dataset'}"
                yield self._mask_classes.indexes(labelimages.read_label_bytes(_bytes(value, where), where))

    def _mask(self, value: Any, size: tuple[int, int], where: str) -> Target | None:
        if value is None:
            return None
        labels = labelimages.read_label_bytes(_bytes(value, where), where)
        if labels.shape[:2] != size:
            raise DataError(f"{where}: the mask has another size than the image")
        mask = self._mask_classes.indexes(labels)
        if (mask == labelimages.UNKNOWN).any():
            raise DataError(
                f"{where}: the mask holds {labelimages.example_of(labels, mask)}, which no class stands for"
            )
        return labelimages.mask_target(mask)


def imaging_read(value: Any, where: str) -> Any:
    """Read an image that a row holds."""
    try:
        return imaging.read(_bytes(value, where))
    except ImageError as cause:
        raise DataError(f"{where}: {cause}") from cause


def _bytes(value: Any, where: str) -> bytes:
    """Return the bytes of an image as ``datasets`` keeps it: in the row, or in a file."""
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        if isinstance(data, bytes):
            return data
        if isinstance(path, str) and Path(path).is_file():
            return Path(path).read_bytes()
    raise DataError(f"{where} has no image in its column")


def _is_saved(place: Path) -> bool:
    names = set(layout.listing(place, limit=4096).files)
    if "dataset_dict.json" in names or {"dataset_info.json", "state.json"} <= names:
        return True
    inner = layout.child_folder(place, "data")
    files = (*names, *(layout.listing(inner, limit=4096).files if inner else ()))
    return any(name.endswith(".parquet") for name in files)


def _load(root: str | None, hub: str, config: str) -> dict[str, Any]:
    """Return split -> table; an empty name where the dataset has no splits.

    Raises:
        DataError: it cannot be loaded.
        MissingExtra: datasets is not installed.
    """
    place = None if hub else find_root(root, "hf")
    if place is not None and not (place.is_dir() and _is_saved(place)):
        raise layout.not_this("hf", place, EXPECTED)
    try:
        import datasets
    except ImportError as cause:
        raise MissingExtra(f"{root or hub} needs the package datasets: pip install 'splitreg[hf]'") from cause
    try:
        if place is None:
            loaded = datasets.load_dataset(hub, config or None)
        elif {"dataset_dict.json", "state.json"} & set(layout.listing(place).files):
            loaded = datasets.load_from_disk(str(place))
        else:
            loaded = datasets.load_dataset("parquet", data_files=_parquet(place))
    except Exception as cause:  # the library raises its own errors, OSError, ValueError and arrow's
        raise DataError(f"datasets cannot load {root or hub}: {type(cause).__name__}: {cause}") from cause
    if isinstance(loaded, datasets.Dataset):
        return {"": loaded}
    tables = {name: table for name, table in loaded.items() if len(table)}
    if not tables:
        raise DataError(f"{root or hub} has no rows")
    return {"": tables["rows"]} if set(tables) == {"rows"} else tables


def _parquet(place: Path) -> dict[str, list[str]]:
    """Return split -> files; all of them as ``"rows"`` where their names tell no split."""
    files = [name for name in layout.walk(place, 2) if name.endswith(".parquet")]
    named: dict[str, list[str]] = {}
    for name in files:
        named.setdefault(layout.split_in(layout.stem_of(name).replace("/", " ")) or "rows", []).append(
            str(place / name)
        )
    return named


def _undecoded(table: Any, columns: Mapping[str, str]) -> Any:
    """Let rows hold the images' files, so that they are decoded as all others are."""
    import datasets

    for kind in ("image", "mask", "depth"):
        if columns[kind] in table.column_names and isinstance(table.features[columns[kind]], datasets.Image):
            table = table.cast_column(columns[kind], datasets.Image(decode=False))
    return table


def _targets(table: Any, columns: Mapping[str, str], mask_classes: str, place: str) -> dict[str, TargetSpec]:
    there = table.column_names
    for kind, optional in (("image", False), ("mask", False), ("depth", False), ("label", True), ("objects", True)):
        name = columns[kind]
        usual = optional and name == kind
        if name and name not in there and not usual:
            raise DataError(f"{place} has no column {name!r}; it has {', '.join(there)}. Name the column: {kind}=NAME")
    targets: dict[str, TargetSpec] = {}
    if columns["label"] in there:
        labels = _names(table.features[columns["label"]], table, columns["label"])
        targets[tasks.CLASSIFICATION] = TargetSpec(task=tasks.CLASSIFICATION, labels=labels)
    if columns["objects"] in there:
        targets.update(object_specs(_object_names(table, columns["objects"])))
    if columns["mask"]:
        names = layout.option_names(mask_classes, "mask_classes")
        if not names or len(names) > IGNORE:
            raise DataError(
                f"the column {columns['mask']!r} needs names of 1 to {IGNORE} classes: mask_classes=first,..."
            )
        targets[tasks.SEGMENTATION] = TargetSpec(task=tasks.SEGMENTATION, labels=names)
    if columns["depth"]:
        targets[tasks.DEPTH] = TargetSpec(task=tasks.DEPTH)
    return targets


def _names(feature: Any, table: Any, column: str) -> tuple[str, ...]:
    """Return the names of a column's classes: its feature's, its values, or numbers."""
    listed = getattr(feature, "names", None)
    if listed:
        return layout.class_names(listed, f"the column {column!r}")
    values = {value for value in table.unique(column) if value is not None}
    return _of_values(values, column)


def _of_values(values: set[Any], column: str) -> tuple[str, ...]:
    if values and all(type(value) is int and 0 <= value < 1_000_000 for value in values):
        return tuple(str(number) for number in range(max(values) + 1))
    if values and all(isinstance(value, str) for value in values):
        return tuple(sorted(values))
    raise DataError(f"the column {column!r} must hold class indexes or names, got {sorted(map(repr, values))[:3]}")


def _object_names(table: Any, column: str) -> tuple[str, ...]:
    feature = table.features[column]
    while hasattr(feature, "feature"):
        feature = feature.feature
    inner = feature if isinstance(feature, Mapping) else {}
    key = next((name for name in _CATEGORIES if name in inner), None)
    if key is None:
        raise DataError(f"the column {column!r} must hold a box and a category per object; it has {', '.join(inner)}")
    category = inner[key]
    while hasattr(category, "feature"):
        category = category.feature
    listed = getattr(category, "names", None)
    if listed:
        return layout.class_names(listed, f"the column {column!r}")
    values = {value for objects in table[column] for value in _field(objects, _CATEGORIES)}
    return _of_values(values, column)


def _field(objects: Any, names: Sequence[str]) -> list[Any]:
    """Return a field of all objects of a row, which are a table of lists or a list of tables."""
    if isinstance(objects, Mapping):
        value = next((objects[name] for name in names if name in objects), None)
        return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    rows = objects or []
    key = next((name for row in rows[:1] for name in names if name in row), None)
    return [row[key] for row in rows] if key is not None else []


def _shapes(objects: Any, labels: tuple[str, ...], form: str, where: str) -> list[Shape]:
    boxes, categories = _field(objects, _BOXES), _field(objects, _CATEGORIES)
    if len(boxes) != len(categories):
        raise DataError(f"{where} has {len(boxes)} boxes and {len(categories)} categories")
    shapes = []
    for box, category in zip(boxes, categories, strict=True):
        if not isinstance(box, Sequence) or len(box) != 4 or not all(map(is_finite, box)):
            raise DataError(f"{where} has the box {str(box)[:80]}; expected four numbers ({form})")
        x0, y0, x1, y1 = map(float, box)
        if form == "xywh":
            x1, y1 = x0 + x1, y0 + y1
        label = _index(category, labels, where)
        if label is not None:
            shapes.append(Shape(label=label, box=(x0, y0, x1, y1)))
    return shapes


def _index(value: Any, labels: tuple[str, ...], where: str) -> int | None:
    """Return the index of a class; None where the row has none (-1 in the library's own test sets)."""
    if value is None or value == -1:
        return None
    if isinstance(value, str) and value in labels:
        return labels.index(value)
    if type(value) is int and 0 <= value < len(labels):
        return value
    raise DataError(f"{where} has the class {value!r}, which is none of the {len(labels)}")


def _splits(tables: Mapping[str, Any], hold_out: float) -> Splits[tuple[str, int]]:
    named = {name: [(name, number) for number in range(len(table))] for name, table in tables.items()}
    return layout.make_splits(named, stem=lambda row: f"{row[1]:08d}", hold_out=hold_out)
