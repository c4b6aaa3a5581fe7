"""Rate-accuracy curves of several series, held against one of them: BD-rates, and bytes at equal accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from splitreg.bench.bjontegaard import RECOMMENDED, Curve, NoOverlap, bd_rate, overlap
from splitreg.bench.points import Point

#: Share of common accuracies below which a BD-rate says little of the whole curves.
FEW_IN_COMMON = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The measured points of one series."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What a curve's height is: a head's primary metric."""

    head: str
    metric: str
    lower_is_better: bool = False

    def __str__(self) -> str:
        return f"{self.head} {self.metric}"

    @property
    def sign(self) -> float:
        """What turns the metric into one that is better when larger."""
        return -1.0 if self.lower_is_better else 1.0

    def value(self, point: Point) -> float | None:
        """Return a point's height, or None where it was not measured."""
        return point.metrics.get(self.head, {}).get(self.metric)

    def curve(self, line: Line) -> Curve | None:
        """Return a series's curve; None where none of its points has bytes and this metric."""
        pairs = [(p.bytes, value) for p in line.points if p.bytes > 0 and (value := self.value(p)) is not None]
        return Curve.through(*zip(*pairs, strict=True), lower_is_better=self.lower_is_better) if pairs else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A series against the anchor.

    Args:
        series: its name.
        bd_rate: -0.3: 30 % fewer bytes at equal accuracy; None where the curves cannot be compared.
        note: why not, or what makes the figure a rough one; else empty.
    """

    series: str
    bd_rate: float | None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """What every series needs for one accuracy.

    Args:
        value: the metric.
        of: whose point has it.
        bytes: series -> bytes an image; None where it never gets there.
        at_most: series whose cheapest point is better than that: it may need less.
    """

    value: float
    of: str
    bytes: dict[str, float | None]
    at_most: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric of all series, against the anchor."""

    axis: Axis
    differences: tuple[Difference, ...]
    levels: tuple[Level, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            **asdict(self.axis),
            "bd_rate": {d.series: d.bd_rate for d in self.differences},
            "notes": {d.series: d.note for d in self.differences if d.note},
            "bytes_at_equal_accuracy": [asdict(level) for level in self.levels],
        }


def axes(lines: Sequence[Line]) -> list[Axis]:
    """Return every head's primary metric, in the order in which the heads come."""
    found = {
        Axis(head=head, metric=metric, lower_is_better=lower): None
        for line in lines
        for point in line.points
        for head, (metric, lower) in point.primary.items()
        if metric in point.metrics.get(head, {})
    }
    return list(found)


def usual_anchor(lines: Sequence[Line]) -> str:
    """Return the first series that is a curve, or the first one."""
    return next((line.name for line in lines if sum(p.bytes > 0 for p in line.points) > 1), lines[0].name)


def compare(axis: Axis, lines: Sequence[Line], anchor: str) -> Comparison:
    """Hold every series against the anchor."""
    curves = {line.name: axis.curve(line) for line in lines}
    others = [name for name in curves if name != anchor]
    return Comparison(
        axis=axis, differences=tuple(_difference(name, curves[name], curves[anchor]) for name in others),
        levels=tuple(_levels(axis, curves, anchor)),
    )  # fmt: skip


def _difference(name: str, curve: Curve | None, anchor: Curve | None) -> Difference:
    if curve is None or anchor is None:
        whose = "it" if curve is None else "the anchor"
        return Difference(
            series=name, bd_rate=None, note=f"{whose} has no point of that metric at which anything is sent"
        )
    try:
        found = bd_rate(curve, anchor)
    except NoOverlap as error:
        return Difference(series=name, bd_rate=None, note=str(error))
    rough = []
    if min(len(curve), len(anchor)) < RECOMMENDED:
        rough.append(f"{len(curve)} against {len(anchor)} points, {RECOMMENDED} recommended")
    if (share := overlap(curve, anchor)) < FEW_IN_COMMON:
        rough.append(f"only {share:.0%} of the accuracies in common")
    if left := curve.left_out + anchor.left_out:
        rough.append(f"{left} point{'s' if left > 1 else ''} left out that a cheaper one matches")
    return Difference(series=name, bd_rate=found, note="; ".join(rough))


def _levels(axis: Axis, curves: dict[str, Curve | None], anchor: str) -> list[Level]:
    """Return the anchor's accuracies and those of every series of a single point, the best first."""
    wanted: dict[float, str] = {}
    for name, curve in curves.items():
        if curve is not None and (name == anchor or len(curve) == 1):
            wanted |= {float(accuracy): name for accuracy in curve.accuracies if float(accuracy) not in wanted}
    found = []
    for accuracy in sorted(wanted, reverse=True):
        needed = {name: None if curve is None else _needed(curve, accuracy) for name, curve in curves.items()}
        at_most = tuple(name for name, c in curves.items() if c is not None and accuracy < c.accuracies[0])
        found.append(Level(value=axis.sign * accuracy, of=wanted[accuracy], bytes=needed, at_most=at_most))
    return found


def _needed(curve: Curve, accuracy: float) -> float | None:
    return curve.rate_at(max(accuracy, float(curve.accuracies[0])))
