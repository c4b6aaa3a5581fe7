"""Result of a benchmark: JSON for programs, Markdown for people, one chart per metric."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitreg.bench.chart import Trace, chart
from splitreg.bench.curves import Axis, Comparison, Series
from splitreg.bench.machine import machine
from splitreg.bench.speed_report import speed_tables
from splitreg.bench.tables import markdown_table

if TYPE_CHECKING:
    from splitreg.bench.points import Point

#: Name and version of ``bench.json``.
FORMAT, VERSION = "splitreg-bench", 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """Curves of several series on one dataset.

    Args:
        dataset: name of the dataset.
        images: number of images.
        anchor: series that the others are compared with.
        series: the series with their points.
        comparisons: one per metric.
        output: folder of ``bench.json``, ``bench.md`` and the charts.
        speed: result of ``measure_speed``; empty if no times were measured.
    """

    dataset: str
    images: int
    anchor: str
    series: tuple[Series, ...]
    comparisons: tuple[Comparison, ...]
    output: Path
    speed: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with the whole evaluation of every point."""
        return {
            "format": FORMAT, "version": VERSION, "machine": machine(),
            "dataset": self.dataset, "images": self.images, "anchor": self.anchor,
            "series": {
                one.name: [
                    {"label": p.label, "bytes": p.bytes, "device": {"parameters": p.parameters, "macs": p.macs},
                     "sent": p.sent, "metrics": p.metrics, "intervals": p.intervals,
                     "primary": {head: {"metric": name, "lower_is_better": lower}
                                 for head, (name, lower) in p.primary.items()},
                     "evaluation": p.report}
                    for p in one.points
                ]
                for one in self.series
            },
            "comparisons": [comparison.to_json() for comparison in self.comparisons],
            **({"speed": self.speed} if self.speed else {}),
        }  # fmt: skip

    def charts(self) -> dict[str, str]:
        """Return file name -> SVG: every metric against bytes, and against MACs on the device if those differ."""
        charts = {}
        costs = {p.macs for one in self.series for p in one.points if p.macs}
        for axis in (comparison.axis for comparison in self.comparisons):
            charts[f"{axis.head}-{axis.metric}.svg"] = self._chart(axis, _by_bytes, "bytes")
            if len(costs) > 1:
                charts[f"{axis.head}-{axis.metric}-macs.svg"] = self._chart(
                    axis, _by_macs, "multiply-accumulates on the device"
                )
        return charts

    def _chart(self, axis: Axis, place: Callable[[Point], tuple[float, str] | None], x_label: str) -> str:
        """Draw a metric; ``place`` returns the x value and the label of a point, None to leave it out."""
        traces = []
        for one in self.series:
            points = [
                (at[0], value, at[1])
                for p in one.points
                if (value := axis.value(p)) is not None and (at := place(p)) is not None
            ]
            if points:
                traces.append(Trace(name=one.name, points=points))
        y_label = f"{axis} (lower is better)" if axis.lower_is_better else str(axis)
        return chart(f"{axis} on {self.images} images of {self.dataset}", y_label, traces, x_label)

    def markdown(self) -> str:
        """Return tables of all points, of all series against the anchor, and of bytes at equal accuracy."""
        names = [str(c.axis) for c in self.comparisons]
        points = [
            [one.name, p.label, f"{p.bytes:,.0f}", *(_cell(c.axis, p) for c in self.comparisons)]
            for one in self.series
            for p in sorted(one.points, key=lambda p: p.bytes)
        ]
        series = [
            [one.name, _range(p.parameters for p in one.points), _range(p.macs for p in one.points),
             *(_difference(c, one.name) for c in self.comparisons)]
            for one in self.series
        ]  # fmt: skip
        blocks = [
            f"{self.images} images of {self.dataset}.",
            markdown_table(["series", "sent", "bytes per image", *names], points),
            f"Bytes at equal accuracy against {self.anchor} (BD-rate; less is better):",
            markdown_table(["series", "device parameters", "device MACs", *names], series),
        ]
        notes = [f"- {', '.join(where)}: {note}." for note, where in self._notes().items()]
        if notes:
            blocks.append("\n".join(notes))
        sending = [one.name for one in self.series if any(p.bytes > 0 for p in one.points)]
        for comparison in self.comparisons:
            rows = [
                [f"{level.value:.4f} ({level.of})", *(_needed(level.bytes, name, level.at_most) for name in sending)]
                for level in comparison.levels
            ]
            if rows and len(sending) > 1:
                blocks.append(
                    f"Bytes per image for the same {comparison.axis}, interpolated (≤: the smallest point is better):"
                )
                blocks.append(markdown_table([str(comparison.axis), *sending], rows))
        blocks += speed_tables(self.speed)
        return "\n\n".join(blocks) + "\n"

    def _notes(self) -> dict[str, list[str]]:
        """Return note -> series that it is about, with the metrics if it is not about all of them."""
        metrics: dict[str, dict[str, list[str]]] = {}
        for comparison in self.comparisons:
            for difference in comparison.differences:
                if difference.note:
                    by_series = metrics.setdefault(difference.note, {})
                    by_series.setdefault(difference.series, []).append(str(comparison.axis))
        return {
            note: [name if len(m) == len(self.comparisons) else f"{name} ({', '.join(m)})" for name, m in where.items()]
            for note, where in metrics.items()
        }

    def __str__(self) -> str:
        return self.markdown().rstrip()


def _by_bytes(point: Point) -> tuple[float, str] | None:
    return point.bytes, point.label


def _by_macs(point: Point) -> tuple[float, str] | None:
    return (point.macs, f"{point.label}, {point.bytes:,.0f} bytes") if point.macs else None


def _difference(comparison: Comparison, name: str) -> str:
    differences = {d.series: d for d in comparison.differences}
    if name not in differences:
        return "anchor"
    rate = differences[name].bd_rate
    return "-" if rate is None else f"{rate:+.1%}"


def _needed(sizes: Mapping[str, float | None], name: str, at_most: Sequence[str]) -> str:
    size = sizes[name]
    return "-" if size is None else f"{'≤ ' if name in at_most else ''}{size:,.0f}"


def _cell(axis: Axis, point: Point) -> str:
    """Return a metric, with its interval if there is one."""
    value = axis.value(point)
    interval = point.intervals.get(axis.head, {}).get(axis.metric)
    if value is None:
        return "-"
    if interval is None or interval["low"] is None:
        return f"{value:.4f}"
    return f"{value:.4f} ({interval['low']:.4f} to {interval['high']:.4f})"


def _range(values: Iterable[int]) -> str:
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    if not high:
        return "-"  # the device runs only an image codec
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
