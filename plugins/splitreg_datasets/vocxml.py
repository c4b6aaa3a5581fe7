"""PASCAL VOC's annotation files. Every complaint names the file and the object."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from splitreg.errors import DataError

#: An annotation of one picture is a few kilobytes.
MAX_BYTES = 10_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """An object: ``box`` is xmin, ymin, xmax, ymax as written (counted from 1, inclusive)."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """A picture's (height, width), None where the file does not tell, and its objects."""

    size: tuple[int, int] | None
    objects: tuple[Thing, ...]


def read_annotation(path: Path) -> Annotation:
    """Read an annotation file.

    Raises:
        DataError: not XML, or an object without name or box.
    """
    root = _parse(path)
    objects = []
    for number, element in enumerate(root.findall("object"), 1):
        what = f"{path}: object {number}"
        name = (element.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{what} has no name")
        corners = [_number(element.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax")]
        if any(c is None for c in corners):
            raise DataError(f"{what} ({name}) has no bndbox of xmin, ymin, xmax and ymax")
        x0, y0, x1, y1 = (c for c in corners if c is not None)
        difficult = (element.findtext("difficult") or "0").strip() == "1"
        objects.append(Thing(name=name, box=(x0, y0, x1, y1), difficult=difficult))
    height, width = (_number(root.findtext(f"size/{key}")) for key in ("height", "width"))
    size = (int(height), int(width)) if height and width else None  # some tools write 0 for unknown
    return Annotation(size=size, objects=tuple(objects))


def names_in(path: Path) -> set[str]:
    """Return the class names of a file's objects (not those of their parts)."""
    return {(e.findtext("name") or "").strip() for e in _parse(path).findall("object")} - {""}


def _parse(path: Path) -> ElementTree.Element:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{path} has {size} bytes; an annotation of one picture has at most {MAX_BYTES}")
        data = path.read_bytes()
        if b"<!ENTITY" in data:
            raise DataError(f"{path} defines entities, which annotations do not need; remove them")
        return ElementTree.fromstring(data)
    except (OSError, ElementTree.ParseError, ValueError) as cause:
        raise DataError(f"{path} is not an XML annotation: {cause}") from cause


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
