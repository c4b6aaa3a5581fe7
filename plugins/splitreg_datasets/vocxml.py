"""PASCAL VOC's annotation files. Every complaint names the file and the object."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from splitreg.errors import DataError
from splitreg_datasets.layout import decode_text

#: An annotation of one image is a few kilobytes.
MAX_BYTES = 10_000_000
#: Tools that count pixels from 0, by the owner that they write.
_FROM_ZERO = ("Label Studio",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """An object: ``box`` is xmin, ymin, xmax, ymax as written (counted from 1, inclusive)."""

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class VocAnnotation:
    """A picture's (height, width), None where the file does not tell, and its objects."""

    size: tuple[int, int] | None
    objects: tuple[Thing, ...]


def read_annotation(path: Path) -> VocAnnotation:
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
            rotated = "; robndbox is a rotated box" if element.find("robndbox") is not None else ""
            raise DataError(f"{what} ({name}) has no bndbox of xmin, ymin, xmax and ymax{rotated}")
        x0, y0, x1, y1 = (c for c in corners if c is not None)
        difficult = (element.findtext("difficult") or "0").strip().lower() in ("1", "true")
        objects.append(Thing(name=name, box=(x0, y0, x1, y1), difficult=difficult))
    height, width = (_number(root.findtext(f"size/{key}")) for key in ("height", "width"))
    size = (int(height), int(width)) if height and width else None  # some tools write 0 for unknown
    return VocAnnotation(size=size, objects=tuple(objects))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What is in a file: names of the objects' classes (not of their parts), and their number.

    ``from_zero``: a coordinate is 0, or the file is of a tool that counts pixels from 0.
    """

    names: frozenset[str]
    objects: int
    from_zero: bool


def summary(path: Path) -> Summary:
    """Read what a file holds, without checking its boxes.

    Raises:
        DataError: not XML.
    """
    root = _parse(path)
    objects = root.findall("object")
    names = {(element.findtext("name") or "").strip() for element in objects} - {""}
    firsts = [_number(e.findtext(f"bndbox/{key}")) for e in objects for key in ("xmin", "ymin")]
    zero = any(value is not None and value < 1 for value in firsts)
    tool = (root.findtext("owner/name") or "").strip() in _FROM_ZERO
    return Summary(names=frozenset(names), objects=len(objects), from_zero=zero or tool)


def is_annotation(path: Path) -> bool:
    """Whether a file looks like an annotation of boxes, by its first kilobytes."""
    try:
        with path.open("rb") as file:
            head = file.read(16_000)
    except OSError:
        return False
    return b"<annotation" in head and (b"<bndbox" in head or b"<object" not in head)


def _parse(path: Path) -> ElementTree.Element:
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise DataError(f"{path} has {size} bytes; an annotation of one image has at most {MAX_BYTES}")
        data = path.read_bytes()
        if any("<!ENTITY".encode(encoding) in data for encoding in ("ascii", "utf-16-le", "utf-16-be")):
            raise DataError(f"{path} defines entities, which annotations do not need; remove them")
        try:
            return ElementTree.fromstring(data)
        except ElementTree.ParseError:  # Latin-1 or UTF-8 that its declaration does not tell
            return ElementTree.fromstring(decode_text(data, path))
    except (OSError, ElementTree.ParseError, ValueError, LookupError) as cause:
        raise DataError(f"{path} is not an XML annotation: {cause}") from cause


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
