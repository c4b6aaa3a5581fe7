"""What a bench found: JSON for programs, Markdown for people, a chart a metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitreg.bench.chart import Trace, chart
from splitreg.bench.curves import Comparison, Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Curves of several series on one dataset.

    Args:
        dataset: which images.
        images: how many.
        anchor: the series that the others are held against.
        lines: series with their points.
        comparisons: one a metric.
        output: folder of ``bench.json``, ``bench.md`` and the charts.
    """

    dataset: str
    images: int
    anchor: str
    lines: tuple[Line, ...]
    comparisons: tuple[Comparison, ...]
    output: Path

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with every point's whole evaluation."""
        return {
            "dataset": self.dataset, "images": self.images, "anchor": self.anchor,
            "series": {
                line.name: [
                    {"label": p.label, "bytes": p.bytes, "device": {"parameters": p.parameters, "macs": p.macs},
                     "metrics": p.metrics, "evaluation": p.report}
                    for p in line.points
                ]
                for line in self.lines
            },
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
        }  # fmt: skip

    def charts(self) -> dict[str, str]:
        """Return file name -> SVG: every metric against bytes, and against the device's cost where that differs."""
        found = {}
        costs = {p.macs for line in self.lines for p in line.points if p.macs}
        for axis in (comparison.axis for comparison in self.comparisons):
            traces = [
                Trace(
                    name=line.name,
                    points=[(p.bytes, y, p.label) for p in line.points if (y := axis.value(p)) is not None],
                )
                for line in self.lines
            ]
            better = f"{axis} (lower is better)" if axis.lower_is_better else str(axis)
            title = f"{axis} on {self.images} images of {self.dataset}"
            found[f"{axis.head}-{axis.metric}.svg"] = chart(title, better, [t for t in traces if t.points])
            if len(costs) > 1:
                traces = [
                    Trace(
                        name=line.name,
                        points=[
                            (p.macs, y, f"{p.label}, {p.bytes:,.0f} bytes")
                            for p in line.points
                            if p.macs and (y := axis.value(p)) is not None
                        ],
                    )
                    for line in self.lines
                ]
                found[f"{axis.head}-{axis.metric}-macs.svg"] = chart(
                    title, better, [t for t in traces if t.points], "multiply-accumulates on the device"
                )
        return found

    def markdown(self) -> str:
        """Return the tables: every point, every series against the anchor, bytes at equal accuracy."""
        names = [str(c.axis) for c in self.comparisons]
        points = [
            [line.name, p.label, f"{p.bytes:,.0f}", *(_figure(c.axis.value(p)) for c in self.comparisons)]
            for line in self.lines
            for p in sorted(line.points, key=lambda p: p.bytes)
        ]
        series = [
            [line.name, _range(p.parameters for p in line.points), _range(p.macs for p in line.points),
             *(_difference(c, line.name) for c in self.comparisons)]
            for line in self.lines
        ]  # fmt: skip
        blocks = [
            f"{self.images} images of {self.dataset}.",
            _table(["series", "sent", "bytes an image", *names], points),
            f"Bytes at equal accuracy against {self.anchor} (BD-rate; less is better):",
            _table(["series", "device parameters", "device MACs", *names], series),
        ]
        notes = [f"- {', '.join(where)}: {note}." for note, where in self._notes().items()]
        if notes:
            blocks.append("\n".join(notes))
        sending = [line.name for line in self.lines if any(p.bytes > 0 for p in line.points)]
        for comparison in self.comparisons:
            rows = [
                [f"{level.value:.4f} ({level.of})", *(_needed(level.bytes, name, level.at_most) for name in sending)]
                for level in comparison.levels
            ]
            if rows and len(sending) > 1:
                blocks.append(
                    f"Bytes an image for the same {comparison.axis}, interpolated (≤: the cheapest point is better):"
                )
                blocks.append(_table([str(comparison.axis), *sending], rows))
        return "\n\n".join(blocks) + "\n"

    def _notes(self) -> dict[str, list[str]]:
        """Return what is to be said -> of which series; with the metrics where it is not true of all."""
        said: dict[str, dict[str, list[str]]] = {}
        for comparison in self.comparisons:
            for difference in comparison.differences:
                if difference.note:
                    said.setdefault(difference.note, {}).setdefault(difference.series, []).append(str(comparison.axis))
        return {
            note: [name if len(m) == len(self.comparisons) else f"{name} ({', '.join(m)})" for name, m in where.items()]
            for note, where in said.items()
        }

    def __str__(self) -> str:
        return self.markdown().rstrip()


def _difference(comparison: Comparison, name: str) -> str:
    found = {d.series: d for d in comparison.differences}
    if name not in found:
        return "anchor"
    rate = found[name].bd_rate
    return "-" if rate is None else f"{rate:+.1%}"


def _needed(sizes: Mapping[str, float | None], name: str, at_most: Sequence[str]) -> str:
    size = sizes[name]
    return "-" if size is None else f"{'≤ ' if name in at_most else ''}{size:,.0f}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _range(values: Iterable[int]) -> str:
    low, high = min(found := list(values)), max(found)
    if not high:
        return "-"  # only an image codec runs there
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned Markdown, so that it reads well on a terminal too; all columns but the first are numbers."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(3, *(len(row[i]) for row in cells)) for i in range(len(header))]
    lines = [
        "| "
        + " | ".join(c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        + " |"
        for row in cells
    ]
    rule = "| " + " | ".join("-" * (w - 1) + ":" if i else "-" * w for i, w in enumerate(widths)) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])
