"""Plain tables and numbers for the terminal; no library, so that ``splitreg list`` stays fast."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import click

from splitreg.files import dump_json

if TYPE_CHECKING:
    from splitreg.predictions import Prediction


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows in aligned columns, below a header and a rule.

    >>> print(table(["name", "n"], [["a", "1"], ["long", "22"]]))
    name  n
    ----  --
    a     1
    long  22
    """
    cells = [list(header), *[list(map(str, row)) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in cells)


def print_json(value: Any) -> None:
    """Write JSON to stdout."""
    click.echo(dump_json(value, indent=1))


def count(value: float) -> str:
    """Return a number with an SI prefix: ``1.2 k``, ``3.4 M``, ``5.6 G``.

    >>> [count(n) for n in (950, 138672, 2030000000)]
    ['950', '138.7 k', '2.0 G']
    """
    for unit in ("", " k", " M", " G"):
        if abs(value) < 1000:
            return f"{value:.0f}{unit}" if not unit else f"{value:.1f}{unit}"
        value /= 1000
    return f"{value:.1f} T"


def shorten(text: str, width: int = 160) -> str:
    """Return at most ``width`` characters of a text, with an ellipsis if it is cut.

    >>> shorten("a long line", 8)
    'a lon...'
    """
    return text if len(text) <= width else text[: width - 3] + "..."


def brief(prediction: Prediction) -> str:
    """Return the three most important things of a prediction; ``--json`` prints all of them."""
    from splitreg.predictions import Classification, Detections, MultiLabel, Segmentation

    match prediction:
        case Classification():
            parts = [f"{name} {share:.2f}" for name, share in prediction.top(3)]
        case MultiLabel():
            parts = [f"{name} {share:.2f}" for name, share in prediction.present()]
        case Detections():
            pairs = zip(prediction.labels, prediction.scores, strict=True)
            parts = [f"{prediction.names[label]} {score:.2f}" for label, score in pairs]
        case Segmentation():
            parts = [f"{prediction.names[index]} {share:.0%}" for index, share in prediction.shares().items()]
        case _:
            return shorten(dump_json(prediction.to_json()), 60)
    return ", ".join(parts[:3]) + (f" and {len(parts) - 3} more" if len(parts) > 3 else "") if parts else "none"
