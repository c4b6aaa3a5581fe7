"""Texts of the MOTChallenge layout: rows of boxes (``gt.txt``, ``det.txt``) and ``seqinfo.ini``."""

from __future__ import annotations

import configparser
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import DataError
from splitreg_datasets.layout import inside, read_text, stored_name

#: Largest number of a frame, identity or class.
_MAX_NUMBER = 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MotRows:
    """Rows of one file, sorted by frame; N rows.

    Args:
        frames: (N,) number of the frame, from 1.
        identities: (N,) -1 for detections.
        boxes: (N, 4) left, top, width, height, as stored.
        scores: (N,) ground truth: 0 if the object does not count; detections: confidence.
        classes: (N,) -1 where the file has no classes.
        visibility: (N,) visible share of the object, 1 where the file does not state it.
    """

    frames: NDArray[np.int64]
    identities: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    classes: NDArray[np.int64]
    visibility: NDArray[np.float64]

    def of_frame(self, frame: int) -> slice:
        """Return the rows of a frame."""
        first, last = np.searchsorted(self.frames, [frame, frame + 1])
        return slice(int(first), int(last))


def read_rows(path: Path) -> MotRows:
    """Read ``frame, id, left, top, width, height[, score[, class[, visibility]]]`` per line.

    Files of MOT15 have ten columns, of which the last three are world coordinates, not classes.

    Raises:
        DataError: not such a text; the message names the line.
    """
    lines = [(number, line) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
    table = _table(path, lines)
    rows, columns = table.shape
    named = columns in (8, 9)
    absent, ones = np.full(rows, -1, np.int64), np.ones(rows)
    result = MotRows(
        frames=table[:, 0].astype(np.int64),
        identities=table[:, 1].astype(np.int64),
        boxes=table[:, 2:6],
        scores=table[:, 6] if columns > 6 else ones,
        classes=table[:, 7].astype(np.int64) if named else absent,
        visibility=table[:, 8] if columns == 9 else ones,
    )
    order = np.argsort(result.frames, kind="stable")
    return MotRows(**{name: getattr(result, name)[order] for name in MotRows.__dataclass_fields__})


def _table(path: Path, lines: Sequence[tuple[int, str]]) -> NDArray[np.float64]:
    """Return (N, 6 to 10) numbers that were checked."""
    if not lines:
        return np.zeros((0, 7))
    try:  # the fast way; which line is wrong is found out below
        table = np.loadtxt([line for _, line in lines], delimiter=",", comments=None, ndmin=2)
    except (ValueError, OverflowError):
        table = np.array([_numbers(path, number, line) for number, line in _even(path, lines)])
    if not 6 <= table.shape[1] <= 10:
        raise DataError(f"{path}, line {lines[0][0]}: expected 6 to 10 numbers, got {table.shape[1]}")
    whole = table[:, [0, 1, *([7] if table.shape[1] in (8, 9) else [])]]
    wrong = ~np.isfinite(table).all(1) | (np.abs(whole) > _MAX_NUMBER).any(1) | (whole != np.rint(whole)).any(1)
    wrong |= (table[:, 0] < 1) | (np.abs(table[:, 2:6]) > 1e9).any(1)
    if wrong.any():
        number, line = lines[int(np.flatnonzero(wrong)[0])]
        raise DataError(
            f"{path}, line {number}: expected a frame from 1, an identity and a box as numbers, got {line.strip()[:60]!r}"
        )
    return table


def _even(path: Path, lines: Sequence[tuple[int, str]]) -> Sequence[tuple[int, str]]:
    columns = lines[0][1].count(",")
    for number, line in lines:
        if line.count(",") != columns:
            raise DataError(f"{path}, line {number}: {line.count(',') + 1} columns, the first line has {columns + 1}")
    return lines


def _numbers(path: Path, number: int, line: str) -> list[float]:
    try:
        return [float(value) for value in line.split(",")]
    except ValueError as cause:
        raise DataError(f"{path}, line {number}: not numbers separated by commas: {line.strip()[:60]!r}") from cause


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceInfo:
    """``seqinfo.ini``: folder of the images, frames per second (0: unknown), (height, width) of the images or None."""

    images: str = "img1"
    rate: float = 0.0
    size: tuple[int, int] | None = None


def read_info(path: Path) -> SequenceInfo:
    """Read ``seqinfo.ini``.

    Raises:
        DataError: not such a text, or a value that is none.
    """
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(read_text(path))
    except configparser.Error as cause:
        raise DataError(f"{path} is not an INI file: {str(cause).splitlines()[0]}") from cause
    section = {name.lower(): value for name, value in parser["Sequence"].items()} if "Sequence" in parser else {}
    images = stored_name(section.get("imdir", "") or "img1")
    if not inside(images):
        raise DataError(f"{path}: imDir {images!r} leads out of the folder of the sequence")
    rate, width, height = (_value(path, section, name) for name in ("framerate", "imwidth", "imheight"))
    return SequenceInfo(images=images, rate=rate, size=(int(height), int(width)) if width and height else None)


def _value(path: Path, section: dict[str, str], name: str) -> float:
    try:
        value = float(section.get(name, 0) or 0)
    except ValueError:
        value = math.nan
    if not 0 <= value < 1e6:  # NaN is not either
        raise DataError(f"{path}: {name} must be a number from 0, got {section[name][:40]!r}")
    return value
