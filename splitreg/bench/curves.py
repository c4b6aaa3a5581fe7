"""Comparison of rate-accuracy curves with one of them: BD-rates, and bytes at equal accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from splitreg.bench.bjontegaard import RECOMMENDED, Curve, NoOverlap, bd_rate, overlap

if TYPE_CHECKING:
    from splitreg.bench.points import Point

#: Share of common accuracies below which a BD-rate is marked as rough.
MIN_OVERLAP = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The measured points of one series."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The metric of a curve: the primary metric of a head."""

    head: str
    metric: str
    lower_is_better: bool = False

    def __str__(self) -> str:
        return f"{self.head} {self.metric}"

    @property
    def sign(self) -> float:
        """1 if larger is better, otherwise -1."""
        return -1.0 if self.lower_is_better else 1.0

    def value(self, point: Point) -> float | None:
        """Return the metric of a point; None if it was not measured."""
        return point.metrics.get(self.head, {}).get(self.metric)

    def curve(self, series: Series) -> Curve | None:
        """Return the curve of a series; None if none of its points has bytes and this metric."""
        pairs = [(p.bytes, value) for p in series.points if p.bytes > 0 and (value := self.value(p)) is not None]
        return Curve.through(*zip(*pairs, strict=True), lower_is_better=self.lower_is_better) if pairs else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A series compared with the anchor.

    Args:
        series: name of the series.
        bd_rate: -0.3 is 30 % fewer bytes at equal accuracy; None if the curves cannot be compared.
        note: why they cannot be compared, or why the number is rough; otherwise empty.
    """

    series: str
    bd_rate: float | None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """The bytes of every series at one accuracy.

    Args:
        value: value of the metric.
        of: series with a point of that value.
        bytes: series -> bytes per image; None if it does not reach the value.
        at_most: series whose smallest point is better than the value, so it may need fewer bytes.
    """

    value: float
    of: str
    bytes: dict[str, float | None]
    at_most: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric of all series, compared with the anchor."""

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


def axes(series: Sequence[Series]) -> list[Axis]:
    """Return the primary metric of every head, in the order of the heads."""
    unique = {
        Axis(head=head, metric=metric, lower_is_better=lower): None
        for one in series
        for point in one.points
        for head, (metric, lower) in point.primary.items()
        if point.metrics.get(head, {}).get(metric) is not None
    }
    return list(unique)


def default_anchor(series: Sequence[Series]) -> str:
    """Return the first series with several points, or the first one."""
    return next((one.name for one in series if sum(p.bytes > 0 for p in one.points) > 1), series[0].name)


def compare(axis: Axis, series: Sequence[Series], anchor: str) -> Comparison:
    """Compare every series with the anchor."""
    curves = {one.name: axis.curve(one) for one in series}
    others = [name for name in curves if name != anchor]
    return Comparison(
        axis=axis, differences=tuple(_difference(name, curves[name], curves[anchor]) for name in others),
        levels=tuple(_levels(axis, curves, anchor)),
    )  # fmt: skip


def _difference(name: str, curve: Curve | None, anchor: Curve | None) -> Difference:
    if curve is None or anchor is None:
        subject = "it" if curve is None else "the anchor"
        return Difference(series=name, bd_rate=None, note=f"{subject} has no point with bytes and this metric")
    try:
        rate = bd_rate(curve, anchor)
    except NoOverlap as error:
        return Difference(series=name, bd_rate=None, note=str(error))
    rough = []
    if min(len(curve), len(anchor)) < RECOMMENDED:
        rough.append(f"{len(curve)} against {len(anchor)} points, {RECOMMENDED} recommended")
    if (share := overlap(curve, anchor)) < MIN_OVERLAP:
        rough.append(f"only {share:.0%} of the accuracies in common")
    if left := curve.left_out + anchor.left_out:
        rough.append(f"{left} point{'s' if left > 1 else ''} left out, because one with fewer bytes is as accurate")
    return Difference(series=name, bd_rate=rate, note="; ".join(rough))


def _levels(axis: Axis, curves: dict[str, Curve | None], anchor: str) -> list[Level]:
    """Return the accuracies of the anchor and of every series with a single point, best first."""
    wanted: dict[float, str] = {}
    for name, curve in curves.items():
        if curve is not None and (name == anchor or len(curve) == 1):
            wanted |= {float(accuracy): name for accuracy in curve.accuracies if float(accuracy) not in wanted}
    levels = []
    for accuracy in sorted(wanted, reverse=True):
        needed = {name: None if curve is None else _needed(curve, accuracy) for name, curve in curves.items()}
        at_most = tuple(name for name, c in curves.items() if c is not None and accuracy < c.accuracies[0])
        levels.append(Level(value=axis.sign * accuracy, of=wanted[accuracy], bytes=needed, at_most=at_most))
    return levels


def _needed(curve: Curve, accuracy: float) -> float | None:
    return curve.rate_at(max(accuracy, float(curve.accuracies[0])))
