"""What the readers share: where a dataset is, what a folder looks like, JSON and pictures with errors that help."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from splitreg import imaging
from splitreg.errors import DataError, ImageError, suggest
from splitreg.files import IMAGE_SUFFIXES
from splitreg.image_decoding import ORIENTATION, as_stored
from splitreg.tasks import IGNORE
from splitreg_datasets.layout import read_text

#: Suffixes of files that are taken for images.
PICTURES = IMAGE_SUFFIXES


def find_root(root: str | os.PathLike[str] | None, dataset: str) -> Path:
    """Return the dataset's folder (or file).

    Args:
        root: as given; None: ``$SPLITREG_DATA/<dataset>`` if there is one.
        dataset: the reader's name.

    Raises:
        DataError: none given and none there, or no such folder.
    """
    if root is None:
        shelf = os.environ.get("SPLITREG_DATA")
        if shelf and (Path(shelf) / dataset).exists():
            return Path(shelf) / dataset
        where = f"; there is no {dataset} in SPLITREG_DATA ({shelf})" if shelf else ""
        raise DataError(f"{dataset} needs the folder of its files: pass --root FOLDER{where}")
    path = Path(root).expanduser()
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"no folder {path}.{suggest(path.name, siblings)} {dataset} needs one: pass --root FOLDER")
    return path


def first_existing(candidates: Iterable[Path]) -> Path | None:
    """Return the first path that exists."""
    return next((path for path in candidates if path.exists()), None)


def no_split(dataset: str, root: Path, split: str, splits: Iterable[str]) -> DataError:
    """Return the error for a split that a dataset does not have."""
    there = sorted(set(splits))
    return DataError(
        f"{root} has no split {split!r} for {dataset}.{suggest(split, there)} There are: {', '.join(there) or 'none'}"
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; the last few are kept, because labels and records come from the same file.

    Raises:
        DataError: no such file, or not a JSON object.
    """
    return _read_json(path, *version_of(path))


def version_of(path: Path) -> tuple[int, int]:
    """Return time of change and size of a file, by which a cache of its content is valid.

    Raises:
        DataError: no such file.
    """
    try:
        state = path.stat()
    except OSError as cause:
        raise DataError(f"cannot read {path}: {cause.strerror}") from cause
    return state.st_mtime_ns, state.st_size


@functools.lru_cache(maxsize=4)
def _read_json(path: Path, modified: int, size: int) -> dict[str, Any]:
    try:
        loaded = json.loads(read_text(path))
    except (ValueError, RecursionError) as cause:
        raise DataError(f"{path} is not JSON: {cause}") from cause
    if not isinstance(loaded, dict):
        raise DataError(f"{path} holds a {type(loaded).__name__}, expected a JSON object")
    return loaded


def read_picture(path: Path, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """Read an image that annotations belong to: (H, W, 3) uint8.

    An image is turned as its EXIF says. Where the annotations' size tells that they were made on the pixels as stored
    (the turned image has height and width swapped), it is left as stored.

    Args:
        path: of the image.
        size: (height, width) that the annotations tell, None if they do not.

    Raises:
        DataError: unreadable, or of another size than the annotations say.
    """
    try:
        image = imaging.read(path)
    except ImageError as cause:
        raise DataError(f"cannot read an image of the dataset: {cause}") from cause
    if size is not None and image.shape[:2] == (size[1], size[0]) and size[0] != size[1]:
        image = np.ascontiguousarray(as_stored(image, orientation(path)))
    if size is not None and image.shape[:2] != tuple(size):
        there = f"{image.shape[1]}x{image.shape[0]}"
        raise DataError(f"{path} has {there} pixels, its annotations say {size[1]}x{size[0]}; one of them is wrong")
    return image


def orientation(path: Path) -> int:
    """Return how an image is turned by its EXIF: 1 to 8, 1 where it is not.

    Raises:
        DataError: unreadable.
    """
    try:
        with imaging.open_image(path) as image:
            image.load()  # a PNG may have its orientation after its pixels
            return int(image.getexif().get(ORIENTATION, 1))
    except ImageError as cause:
        raise DataError(f"cannot read an image of the dataset: {cause}") from cause


def read_indexes(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read a label image: (H, W) uint8, one class id per pixel.

    Raises:
        DataError: not a grey or palette image of ``size``.
    """
    try:
        with imaging.open_image(path) as opened:
            mode, indexes = opened.mode, np.array(opened)
    except ImageError as cause:
        raise DataError(f"cannot read the labels {path}: {cause}") from cause
    if mode not in ("L", "P"):
        raise DataError(f"{path} is an image of mode {mode}; labels are one 8-bit class id per pixel (grey or palette)")
    if indexes.shape != tuple(size):
        there = f"{indexes.shape[1]}x{indexes.shape[0]}"
        raise DataError(f"the labels {path} have {there} pixels, their image has {size[1]}x{size[0]}")
    return indexes


def map_indexes(indexes: NDArray[np.integer[Any]], table: NDArray[np.int64], path: Path, hint: str) -> tv_tensors.Mask:
    """Map ids to classes: ``table`` holds a class, ``IGNORE``, or -1 for ids that must not occur.

    Raises:
        DataError: an id that must not occur.
    """
    if indexes.size and int(indexes.max()) >= len(table):
        table = np.concatenate([table, np.full(int(indexes.max()) + 1 - len(table), -1)])
    mapped = table[indexes]
    if (mapped < 0).any():
        bad = int(indexes[mapped < 0].flat[0])
        raise DataError(f"{path} holds the class id {bad}, which no label stands for; {hint}")
    return tv_tensors.Mask(torch.from_numpy(mapped))


def index_table(classes: int, ignored: Iterable[int]) -> NDArray[np.int64]:
    """Return a table for ``map_indexes``: ids below ``classes`` stand for themselves."""
    table = np.full(256, -1, np.int64)
    table[:classes] = np.arange(classes)
    table[list(ignored)] = IGNORE
    return table


def as_image(pixels: NDArray[np.uint8]) -> tv_tensors.Image:
    """(H, W, 3) array to (3, H, W) tensor."""
    return tv_tensors.Image(torch.from_numpy(pixels.copy()).permute(2, 0, 1))
