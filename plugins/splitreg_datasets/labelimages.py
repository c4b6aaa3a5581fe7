"""Label images: one class per pixel, as an index or as a colour, and the files that say which is which."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
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
#: Pillow's name for grey samples of 2 or 4 bits -> what it multiplies them by, so that white is 255.
_STEPS = {"L;2": 85, "L;4": 17}
#: Likewise in archives and tables, which are slower to read.
CHECKED_BYTES = 8
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


def has_few_bits(path: Path) -> bool:
    """Whether a label image has 1, 2 or 4 bits of grey per pixel.

    Raises:
        DataError: not an image.
    """
    try:
        with imaging.open_image(path) as image:
            return bool(image.mode == "1" or _step(image) > 1)
    except ImageError as cause:
        raise DataError(f"cannot read the labels {path}: {cause}") from cause


def read_label_bytes(data: bytes, name: str) -> NDArray[Any]:
    """Read a label image from the bytes of its file, as ``read_labels``; ``name`` says which one in messages.

    Raises:
        DataError: not an image, damaged, or of floats.
    """
    return _read(data, f"the labels of {name}", False)


def _read(source: Path | bytes, name: str, colours: bool) -> NDArray[Any]:
    try:
        with imaging.open_image(source) as image:
            step = _step(image)
            if image.mode in ("P", "PA") and not colours:
                return np.array(image if image.mode == "P" else image.getchannel(0))
            if image.mode in ("L", "1") or image.mode.startswith("I"):
                if image.mode.startswith("I"):
                    return np.array(image).astype(np.int32)
                return np.floor_divide(np.array(image).astype(np.uint8), step)
            if image.mode == "LA":
                return np.array(image.getchannel(0))
            if image.mode in ("RGB", "RGBA", "P", "PA"):
                return np.array(image.convert("RGB"))
            raise DataError(f"{name} are an image of mode {image.mode}; labels are indexes or colours of 8 or 16 bits")
    except ImageError as cause:
        raise DataError(f"cannot read {name}: {cause}") from cause


def _step(image: Any) -> int:
    """Return by what Pillow multiplies grey samples of 2 or 4 bits: 1 where it does not."""
    tiles = getattr(image, "tile", None) or []
    return next((step for bits, step in _STEPS.items() if any(bits in map(str, tile) for tile in tiles)), 1)


def class_indexes(path: Path, classes: MaskClasses) -> NDArray[np.int64]:
    """Read a label image as class indexes, ``IGNORE``, or ``UNKNOWN``: (H, W).

    A palette image counts by its indexes, or by its colours where a file states those of the classes. Of an image of
    which some pixels are of no class, another reading counts if it leaves fewer: indexes for a palette, the shade for
    colours that are all grey, and 255 for the largest value of an image of 1, 2 or 4 bits.

    Raises:
        DataError: not an image, or damaged.
    """
    return _class_indexes(path, classes)[0]


def _class_indexes(path: Path, classes: MaskClasses) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the class indexes of a label image, and the stored values that they come from."""
    labels = read_labels(path, colours=classes.by_colour)
    mask = classes.indexes(labels)
    unknown = int((mask == UNKNOWN).sum())
    if unknown:
        others = [read_labels(path)] if classes.by_colour else []
        others += [one[:, :, 0] for one in (labels, *others) if one.ndim == 3 and (one == one[:, :, :1]).all()]
        top = int(labels.max(initial=0))
        if 255 in classes.values and labels.ndim == 2 and top in (1, 3, 15):
            others.append(labels * (255 // top))
        for other in others:
            second = classes.indexes(other)
            if (second == UNKNOWN).sum() < unknown:
                mask, labels, unknown = second, other, int((second == UNKNOWN).sum())
    return mask, labels


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


def check_foreground(masks: Iterable[NDArray[np.int64]], classes: MaskClasses, where: object, remedy: str) -> None:
    """Refuse masks of 0 and 255 alone: who writes them means the foreground by 255, which stands for "unknown" here.

    Args:
        masks: class indexes of some label images.
        classes: what their pixels stand for.
        where: what they belong to, for the message.
        remedy: what the user can do.

    Raises:
        DataError: no pixel is of another class than the first one, and some are unknown.
    """
    if classes.by_colour or len(classes.names) < 2 or 255 in classes.values:
        return
    values: set[int] = set()
    number = 0
    for mask in masks:
        number += 1
        values.update(np.unique(mask).tolist())
        if values - {0, IGNORE, UNKNOWN}:
            return
    if IGNORE in values:
        raise DataError(
            f"the masks of {where} hold no class but {classes.names[0]!r}: of {number} that were looked at all pixels are "
            f"0 or 255, and 255 stands for unknown. If 255 is {classes.names[1]!r}, {remedy}"
        )


def mask_target(mask: NDArray[np.int64]) -> MaskTarget:
    """Return the target of class indexes; what is unknown is ignored."""
    return MaskTarget(mask=tv_tensors.Mask(torch.from_numpy(np.where(mask == UNKNOWN, IGNORE, mask))))


def example(path: Path, classes: MaskClasses) -> str:
    """Name a value of a label image that no class stands for, see ``example_of``."""
    mask, labels = _class_indexes(path, classes)
    return example_of(labels, mask)


def example_of(labels: NDArray[Any], mask: NDArray[np.int64]) -> str:
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
