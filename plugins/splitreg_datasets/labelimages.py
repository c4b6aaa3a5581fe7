"""Label images: one class per pixel, as an index or as a colour, and the files that say which is which."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from splitreg import imaging
from splitreg.errors import DataError, ImageError
from splitreg.image_decoding import as_stored, as_turned
from splitreg.tasks import IGNORE, MaskTarget
from splitreg_datasets import layout
from splitreg_datasets.files import orientation

#: Files that name the classes of label images, in the order in which they are looked for.
CLASS_FILES = (
    "labelmap.txt", "class_dict.csv", "_classes.csv", "label_colors.txt", "class_names.txt", "classes.txt", "labels.txt",
)  # fmt: skip
#: Labels that are looked at before training starts.
CHECKED = 64
#: Value of a pixel that no class stands for, before it becomes an error or `IGNORE`.
UNKNOWN = -1

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskClasses:
    """What the pixels of label images stand for.

    Args:
        names: of the classes, by index.
        values: stored value of each class in an image of indexes.
        colours: colour of each class in an image of colours, empty where none is known.
        ignored: values that stand for "unknown".
        ignored_colours: likewise colours.
        by_colour: a file states the colours.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    colours: tuple[Colour, ...] = ()
    ignored: tuple[int, ...] = (IGNORE,)
    ignored_colours: tuple[Colour, ...] = ()
    by_colour: bool = False

    def indexes(self, labels: NDArray[Any]) -> NDArray[np.int64]:
        """Map stored labels, (H, W) or (H, W, 3), to class indexes, ``IGNORE`` or ``UNKNOWN``: (H, W) int64."""
        if labels.ndim == 2:
            ignored = [value for value in self.ignored if value not in self.values]
            return _mapped(labels.astype(np.int64), [*self.values, *ignored], len(self.values))
        ignored_colours = [colour for colour in self.ignored_colours if colour not in self.colours]
        keys = [_packed(np.array(colour)) for colour in (*self.colours, *ignored_colours)]
        return _mapped(_packed(labels), [int(key) for key in keys], len(self.colours))


def _packed(colours: NDArray[Any]) -> NDArray[np.int64]:
    """Colours (..., 3) as one number each."""
    return np.asarray(colours.astype(np.int64) @ np.array([65536, 256, 1]))


def _mapped(stored: NDArray[np.int64], keys: Sequence[int], classes: int) -> NDArray[np.int64]:
    """Map stored values to the position of their key; the keys from ``classes`` on stand for ``IGNORE``."""
    if not keys:
        return np.full(stored.shape, UNKNOWN, np.int64)
    order = np.argsort(keys, kind="stable")
    ordered = np.asarray(keys, np.int64)[order]
    place = np.minimum(np.searchsorted(ordered, stored), len(ordered) - 1)
    mapped: NDArray[np.int64] = np.where(np.arange(len(keys)) < classes, np.arange(len(keys)), IGNORE)[order][place]
    mapped[ordered[place] != stored] = UNKNOWN
    return mapped


def palette(count: int = 256) -> list[Colour]:
    """Return the first colours of PASCAL VOC: the bits of an index, spread over red, green and blue.

    >>> palette(3), palette()[255]
    ([(0, 0, 0), (128, 0, 0), (0, 128, 0)], (224, 224, 192))
    """
    colours = []
    for index in range(count):
        red = green = blue = 0
        for bit in range(8):
            part = index >> 3 * bit
            red |= (part & 1) << 7 - bit
            green |= (part >> 1 & 1) << 7 - bit
            blue |= (part >> 2 & 1) << 7 - bit
        colours.append((red, green, blue))
    return colours


def indexed_classes(names: Sequence[str]) -> MaskClasses:
    """Return classes that are stored as 0, 1, 2, ... or as VOC's colours; 255 is unknown."""
    colours = palette()
    return MaskClasses(
        names=tuple(names), values=tuple(range(len(names))), colours=tuple(colours[: len(names)]),
        ignored_colours=(colours[IGNORE],),
    )  # fmt: skip


# --- images


def read_labels(path: Path, *, colours: bool = False) -> NDArray[Any]:
    """Read a label image.

    Args:
        path: of the image.
        colours: give the colours of a palette image, not its indexes.

    Returns:
        (H, W) integers, or (H, W, 3) uint8 colours.

    Raises:
        DataError: not an image, damaged, or of floats.
    """
    return _read(path, f"the labels {path}", colours)


def read_label_bytes(data: bytes, name: str) -> NDArray[Any]:
    """Read a label image from the bytes of its file, as ``read_labels``; ``name`` says which one in messages.

    Raises:
        DataError: not an image, damaged, or of floats.
    """
    return _read(data, f"the labels of {name}", False)


def _read(source: Path | bytes, name: str, colours: bool) -> NDArray[Any]:
    try:
        with imaging.open_image(source) as image:
            if image.mode in ("P", "PA") and not colours:
                return np.array(image if image.mode == "P" else image.getchannel(0))
            if image.mode in ("L", "1") or image.mode.startswith("I"):
                return np.array(image).astype(np.int32 if image.mode.startswith("I") else np.uint8)
            if image.mode == "LA":
                return np.array(image.getchannel(0))
            if image.mode in ("RGB", "RGBA", "P", "PA"):
                return np.array(image.convert("RGB"))
            raise DataError(f"{name} are an image of mode {image.mode}; labels are indexes or colours of 8 or 16 bits")
    except ImageError as cause:
        raise DataError(f"cannot read {name}: {cause}") from cause


def class_indexes(path: Path, classes: MaskClasses) -> NDArray[np.int64]:
    """Read a label image as class indexes, ``IGNORE``, or ``UNKNOWN``: (H, W).

    A palette image counts by its indexes. Where the classes' colours are known from a file, it counts by its colours,
    if each of them is one of a class.

    Raises:
        DataError: not an image, or damaged.
    """
    mask = classes.indexes(read_labels(path, colours=classes.by_colour))
    if classes.by_colour and (mask == UNKNOWN).any():
        mask = classes.indexes(read_labels(path))
    return mask


def fit(labels: NDArray[Any], size: tuple[int, int], path: Path, image: Path) -> NDArray[Any]:
    """Turn labels as their image is turned, if it is turned by its EXIF and they are not, or the other way round.

    Args:
        labels: (H, W, ...).
        size: (H, W) of the image as it is used.
        path: of the labels.
        image: path of the image.

    Raises:
        DataError: labels of another size than the image has.
    """
    if labels.shape[:2] == size:
        return labels
    if labels.shape[:2] == size[::-1]:
        turned = orientation(image)
        if turned in (5, 6, 7, 8):
            return as_turned(labels, turned) if _is_turned(image, size) else as_stored(labels, turned)
    there = f"{labels.shape[1]}x{labels.shape[0]}"
    raise DataError(f"the labels {path} have {there} pixels, their image has {size[1]}x{size[0]}")


def _is_turned(image: Path, size: tuple[int, int]) -> bool:
    try:
        with imaging.open_image(image) as opened:
            return (opened.width, opened.height) == size
    except ImageError as cause:
        raise DataError(f"cannot read an image of the dataset: {cause}") from cause


def read_mask(path: Path, classes: MaskClasses, size: tuple[int, int], image: Path) -> NDArray[np.int64]:
    """Read the class indexes of an image: (H, W), ``IGNORE``, or ``UNKNOWN`` where no class is stored.

    Raises:
        DataError: damaged, or of another size than the image.
    """
    return fit(class_indexes(path, classes), size, path, image)


def mask_target(mask: NDArray[np.int64]) -> MaskTarget:
    """Return the target of class indexes; what is unknown is ignored."""
    return MaskTarget(mask=tv_tensors.Mask(torch.from_numpy(np.where(mask == UNKNOWN, IGNORE, mask))))


def example(labels: NDArray[Any], mask: NDArray[np.int64]) -> str:
    """Name a stored value that no class stands for: ``"the class id 7"`` or ``"the colour (0, 0, 64)"``."""
    values = labels[mask == UNKNOWN][0]
    if labels.ndim == 2:
        return f"the class id {int(values)}"
    return f"the colour ({', '.join(str(int(v)) for v in values)})"


# --- files of classes


def find_classes(root: Path) -> MaskClasses | None:
    """Read the file of a folder that names the classes of its label images, None where there is none.

    Raises:
        DataError: it is malformed.
    """
    path = layout.child(root, *CLASS_FILES)
    return read_classes(path) if path else None


def read_classes(path: Path) -> MaskClasses:
    """Read a file that names classes: CVAT's, Roboflow's, CamVid's, CSV of names and colours, or one name per line.

    Raises:
        DataError: none of these, or a name that is there twice.
    """
    lines = [line for line in layout.read_lines(path) if not line.startswith("#")]
    if not lines:
        raise DataError(f"{path} names no class")
    header = [field.strip().lower() for field in next(csv.reader([lines[0]]))]
    if header[:2] == ["pixel value", "class"]:
        return _roboflow(lines[1:], path)
    if {"r", "g", "b"} <= set(header):
        return _coloured(_csv_rows(lines, header, path), path)
    if all(line.count(":") >= 2 for line in lines):
        return _coloured([_labelmap_row(line, path) for line in lines], path)
    fields = [line.split(None, 3) for line in lines]
    if all(len(row) == 4 and all(part.isdecimal() for part in row[:3]) for row in fields):
        return _coloured([(row[3], row[:3]) for row in fields], path)
    names = [line for line in lines if line != "__ignore__"]
    return indexed_classes(layout.class_names((_background(name) for name in names), path))


def _background(name: str) -> str:
    return "background" if name.strip() == "_background_" else name


def _roboflow(lines: Sequence[str], path: Path) -> MaskClasses:
    rows = [row for row in csv.reader(lines) if len(row) >= 2]
    if not rows or not all(row[0].strip().isdecimal() for row in rows):
        raise DataError(f"{path}: expected lines of a pixel value and a class")
    values = tuple(int(row[0]) for row in rows)
    if len(set(values)) != len(values):
        raise DataError(f"{path}: a pixel value is there twice")
    return MaskClasses(names=layout.class_names((row[1] for row in rows), path), values=values)


def _csv_rows(lines: Sequence[str], header: list[str], path: Path) -> list[tuple[str, list[str]]]:
    name = next((at for at, key in enumerate(header) if key not in ("r", "g", "b")), None)
    rows = [row for row in csv.reader(lines[1:]) if row]
    if name is None or any(len(row) < len(header) for row in rows):
        raise DataError(f"{path}: expected the columns name, r, g and b")
    return [(row[name], [row[header.index(channel)] for channel in "rgb"]) for row in rows]


def _labelmap_row(line: str, path: Path) -> tuple[str, list[str]]:
    name, colour = line.split(":")[:2]
    return name, colour.split(",") if colour.strip() else []


def _coloured(rows: Sequence[tuple[str, list[str]]], path: Path) -> MaskClasses:
    """Return classes with a colour each; one that is left out is VOC's of that index, as CVAT does."""
    usual = palette()
    colours: list[Colour] = []
    for number, (name, parts) in enumerate(rows):
        if not parts and number < len(usual):
            colours.append(usual[number])
            continue
        try:
            red, green, blue = (int(part) for part in parts)
        except ValueError:
            raise DataError(f"{path}: class {name!r} has the colour {parts}; expected red, green and blue") from None
        if not all(0 <= part <= 255 for part in (red, green, blue)) or (red, green, blue) in colours:
            raise DataError(
                f"{path}: class {name!r} has the colour {red}, {green}, {blue}: out of range, or there twice"
            )
        colours.append((red, green, blue))
    names = layout.class_names((name for name, _ in rows), path)
    return MaskClasses(
        names=names, values=tuple(range(len(names))), colours=tuple(colours), ignored_colours=(usual[IGNORE],),
        by_colour=True,
    )  # fmt: skip
