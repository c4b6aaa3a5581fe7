"""The text files of YOLO datasets: one object per line, and the files that name classes and splits."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitreg.errors import DataError
from splitreg.files import is_image
from splitreg_datasets import layout
from splitreg_datasets.objects import Shape, outline_box

#: Files that name the classes, one per line.
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt", "class_names.txt", "names.txt")
#: A coordinate may be this far outside of the image: tools round.
SLACK = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An object as written: fractions of the image's width and height."""

    label: int
    numbers: tuple[float, ...]

    @property
    def is_polygon(self) -> bool:
        """Whether the numbers are corners; otherwise they are centre x, centre y, width, height."""
        return len(self.numbers) > 4

    def shape(self, size: tuple[int, int]) -> Shape:
        """Return the object in the pixels of an (H, W) image."""
        height, width = size
        if not self.is_polygon:
            x, y, w, h = self.numbers
            box = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            return Shape(label=self.label, box=box)
        scaled = [
            value * side for value, side in zip(self.numbers, (width, height) * (len(self.numbers) // 2), strict=True)
        ]
        return Shape(label=self.label, box=outline_box([scaled]), polygons=[scaled])


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What a dataset's configuration file says.

    Args:
        path: the file.
        names: class names by index.
        splits: split -> places of its images, as written.
        folders: where relative places may begin, in the order in which they are tried.
        keypoints: numbers per object that follow the box.
    """

    path: Path
    names: tuple[str, ...]
    splits: Mapping[str, Sequence[str]]
    folders: tuple[Path, ...]
    keypoints: int = 0


def read_objects(text: str, path: Path, classes: int, keypoints: int = 0) -> list[Line]:
    """Read the text of a label file.

    Args:
        text: ``class cx cy w h``, or ``class x0 y0 x1 y1 x2 y2 ...``, one object per line.
        path: of the file, for messages.
        classes: number of classes; a larger class index is an error.
        keypoints: numbers that follow the box.

    Raises:
        DataError: names the line.
    """
    lines = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            lines.append(_read_line(line.split(), f"{path}, line {number}", classes, keypoints))
    return lines


def _read_line(fields: list[str], where: str, classes: int, keypoints: int) -> Line:
    try:
        first, *numbers = map(float, fields)
    except ValueError:
        raise DataError(f"{where}: expected numbers separated by spaces, got {' '.join(fields)[:60]!r}") from None
    if not all(map(math.isfinite, (first, *numbers))) or first != int(first) or first < 0:
        raise DataError(f"{where}: expected a class index and finite numbers, got {' '.join(fields)[:60]!r}")
    if first >= classes:
        raise DataError(f"{where}: class index {int(first)}, but only {classes} classes are named (0 to {classes - 1})")
    if keypoints and len(numbers) == 4 + keypoints:
        numbers = numbers[:4]
    if len(numbers) == 5:
        raise DataError(f"{where}: 6 numbers are a prediction (the last one is its confidence), not a label")
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise DataError(
            f"{where}: {len(fields)} numbers; expected 5 (class, x, y, width, height) or a class and 3 or more corners"
        )
    if not all(-SLACK <= value <= 1 + SLACK for value in numbers):
        raise DataError(f"{where}: coordinates must be fractions of the image, 0 to 1; got {' '.join(fields)[:60]!r}")
    return Line(label=int(first), numbers=tuple(numbers))


def are_rotated(objects: Sequence[Line]) -> bool:
    """Whether objects are rotated boxes: each has exactly 4 corners, and one does not lie along the axes."""
    if not objects or not all(len(item.numbers) == 8 for item in objects):
        return False
    return any(len(set(item.numbers[axis::2])) > 2 for item in objects for axis in (0, 1))


def looks_like_objects(text: str) -> bool:
    """Whether a text may be a label file: empty, or its first line is numbers."""
    lines = text.split("\n", 1)
    try:
        fields = [float(field) for field in lines[0].split()]
    except ValueError:
        return False
    return not text.strip() or (len(fields) >= 5 and fields[0] == int(fields[0]) and max(map(abs, fields[1:])) <= 1.1)


# --- configuration


def find_config(root: Path, names: tuple[str, ...] = ()) -> Config | None:
    """Find and read the file that names classes and perhaps splits: YAML, Darknet's .data, or a list of names.

    Args:
        root: the folder, or the YAML file itself.
        names: of the classes, instead of those in the file.

    Raises:
        DataError: it is malformed.
    """
    if root.is_file():
        return read_yaml(root, names)
    for path in yaml_files(root):
        return read_yaml(path, names)
    for name in layout.listing(root).files:
        if name.lower().endswith(".data"):
            return _read_darknet(root / name, names)
    folders = [root, *(root / name for name in layout.listing(root, limit=256).folders)]
    file = next((place for folder in folders if (place := layout.child(folder, *NAME_FILES))), None)
    if file is None and not names:
        return None
    listed = names or layout.class_names(layout.read_lines(file), file) if file else names
    return Config(path=file or root, names=listed, splits={}, folders=(root,))


def yaml_files(root: Path) -> list[Path]:
    """Return the YAML files of a folder that name classes, ``data.yaml`` first."""
    files = [name for name in layout.listing(root).files if name.lower().endswith((".yaml", ".yml"))]
    order = sorted(files, key=lambda name: (name.lower() not in ("data.yaml", "data.yml"), name))
    return [root / name for name in order if _has_names(root / name)]


def _has_names(path: Path) -> bool:
    try:
        text = layout.read_text(path)
    except DataError:
        return False
    return any(line.split(":")[0].strip(" \"'") == "names" for line in text.splitlines())


def read_yaml(path: Path, names: tuple[str, ...] = ()) -> Config:
    """Read a ``data.yaml`` as Ultralytics, Roboflow and CVAT write it.

    Raises:
        DataError: not YAML, or without class names.
    """
    table = _load_yaml(path)
    splits = {}
    for key, value in table.items():
        if (split := layout.split_name(key)) and value not in (None, "", [], "null", "~"):
            places = value if isinstance(value, list) else [value]
            if not all(isinstance(place, str) for place in places):
                raise DataError(f"{path}: {key} must be a folder, a list file or a list of them, got {value!r}")
            splits[split] = places
    listed = names or _names(table.get("names"), path)
    count = table.get("nc")
    if not names and isinstance(count, str) and count.isdecimal() and int(count) != len(listed):
        raise DataError(f"{path} says nc: {count}, but names {len(listed)} classes; one of them is wrong")
    place = table.get("path")
    home = path.parent
    folders = [home]
    if isinstance(place, str) and place.strip():
        stated = Path(os.path.expanduser(layout.stored_name(place) or "."))
        folders = [stated] if stated.is_absolute() else [home / stated, Path.cwd() / stated]
        folders = [*folders, home]
    return Config(
        path=path,
        names=listed,
        splits=splits,
        folders=tuple(folders),
        keypoints=_keypoints(table.get("kpt_shape"), path),
    )


def _load_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:  # plain strings only: YAML would read the classes "no" and "1" as False and a number
        table = yaml.load(layout.read_text(path), Loader=yaml.BaseLoader)  # builds strings, lists and dicts only
    except (yaml.YAMLError, RecursionError, ValueError) as cause:
        raise DataError(f"{path} is not YAML: {' '.join(str(cause).split())}") from cause
    if not isinstance(table, dict) or not all(isinstance(key, str) for key in table):
        raise DataError(f"{path} must be a table with the keys names, train and val")
    return table


def _names(value: Any, path: Path) -> tuple[str, ...]:
    if isinstance(value, dict):
        indexes = sorted(int(key) for key in value if isinstance(key, str) and key.isdecimal())
        if indexes != list(range(len(value))) or len(value) == 0:
            raise DataError(f"{path}: names must number the classes 0, 1, 2, ...; got {list(value)[:8]}")
        by_index = {int(key): name for key, name in value.items()}
        value = [by_index[index] for index in indexes]
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise DataError(f"{path}: names must list the class names, got {str(value)[:60]!r}")
    return layout.class_names(value, path)


def _keypoints(value: Any, path: Path) -> int:
    if value is None:
        return 0
    if not isinstance(value, list) or len(value) != 2 or not all(isinstance(v, str) and v.isdecimal() for v in value):
        raise DataError(f"{path}: kpt_shape must be [number, 2 or 3], got {value!r}")
    return int(value[0]) * int(value[1])


def _read_darknet(path: Path, names: tuple[str, ...]) -> Config:
    """Read Darknet's ``obj.data``: ``train = data/train.txt``, ``names = data/obj.names``."""
    table = {}
    for line in layout.read_lines(path):
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            table[key.strip().lower()] = layout.stored_name(value)
    splits = {split: [value] for key, value in table.items() if (split := layout.split_name(key)) and value}
    if not names:
        listed = layout.child(path.parent, os.path.basename(table.get("names", "")) or "obj.names", *NAME_FILES)
        if listed is None:
            raise DataError(f"{path}: no file of class names; expected {table.get('names', 'obj.names')} beside it")
        names = layout.class_names(layout.read_lines(listed), listed)
    return Config(path=path, names=names, splits=splits, folders=(path.parent,))


# --- places of images


def images_of(config: Config, split: str) -> Iterator[str]:
    """Yield the paths of a split's images; a place that is not there yields none.

    Raises:
        DataError: a list names an image that does not exist.
    """
    for place in config.splits[split]:
        path = resolve(place, config.folders)
        if path is None:
            continue
        if path.is_dir():
            yield from (f"{path}/{name}" for name in layout.images_in(path))
        elif path.suffix.lower() == ".txt":
            yield from _listed(path, config.folders)
        elif is_image(path.name):
            yield os.fspath(path)


def _listed(path: Path, folders: tuple[Path, ...]) -> Iterator[str]:
    for number, line in enumerate(layout.read_lines(path), 1):
        image = resolve(line, (path.parent, *folders))
        if image is None:
            raise DataError(f"{path}, line {number}: there is no image {line!r} in {folders[0]} or beside the list")
        yield os.fspath(image)


def resolve(place: str, folders: Sequence[Path]) -> Path | None:
    """Find a place that a file names: absolute, relative to a folder, or by the end of its path.

    A dataset that was moved has paths of another machine or folder in its files: the longest end of
    such a path that exists in one of the folders is taken, as Ultralytics does with ``../``.
    """
    name = layout.stored_name(place)
    if "\0" in name or not name:
        return None
    try:
        if name.startswith("/") and os.path.exists(name):
            return Path(name)
        for folder in folders:
            if not name.startswith("/") and os.path.exists(folder / name):
                return Path(os.path.normpath(folder / name))
        parts = [part for part in name.split("/") if part not in ("", "..")]
        for start in range(len(parts)):
            for folder in folders:
                if os.path.exists(folder.joinpath(*parts[start:])):
                    return folder.joinpath(*parts[start:])
    except (OSError, ValueError):  # a name too long for the system
        return None
    return None
