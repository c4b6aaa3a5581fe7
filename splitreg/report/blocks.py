"""What a report consists of, before it becomes HTML or Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A paragraph; ``lead`` is set in a larger size."""

    text: str
    lead: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table; all columns but the first are numbers, and aligned to the right.

    Args:
        header: names of the columns.
        rows: one string per column.
        caption: what the table shows.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars:
    """Horizontal bars of one or several parts, with their numbers.

    Args:
        rows: (name, value of each part).
        parts: names of the parts; one for plain bars.
        unit: of the values, e.g. ``"ms"``.
        caption: what the bars show.
    """

    rows: Sequence[tuple[str, Sequence[float]]]
    parts: Sequence[str]
    unit: str
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart as SVG, see ``splitreg.bench.chart``.

    Args:
        svg: the file.
        caption: what it shows; also its alternative text.
        stem: file name without suffix, where the chart is a file of its own.
    """

    svg: str
    caption: str
    stem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """An image: encoded bytes, ``"png"`` or ``"jpeg"``, and its caption, which is also the alternative text."""

    data: bytes
    suffix: str
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gallery:
    """Images side by side; ``stem`` begins the names where they are files of their own."""

    pictures: Sequence[Picture]
    stem: str


Block = Text | Table | Bars | Chart | Gallery


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportSection:
    """A heading and what is below it."""

    title: str
    blocks: Sequence[Block]
