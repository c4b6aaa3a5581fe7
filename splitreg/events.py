"""Events of tracked objects: who enters and leaves which zone, and how many are there; numpy only.

::

    tracker, log = Tracker(), EventLog(EventOptions(zones=(Zone.parse("door=0,0,80,200"),)))
    for frame in source:
        for event in log.update(tracker.update(detections), frame.seconds):
            print(json.dumps(event.to_json()))
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import RecipeError
from splitreg.predictions import Detections

if TYPE_CHECKING:
    from typing import Self

__all__ = ["COUNT", "ENTER", "LEAVE", "Event", "EventLog", "EventOptions", "Zone"]

ENTER, LEAVE, COUNT = "enter", "leave", "count"
#: Name of the zone that is everywhere, if no zone is given.
EVERYWHERE = "image"
_NAME = re.compile(r"[^\W_][\w .-]{0,63}")
_MAX_POINTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Zone:
    """A part of the image.

    Args:
        name: letters, digits, spaces, dots, dashes and underscores.
        points: x and y of at least three corners in pixels; empty: everywhere.

    Raises:
        RecipeError: no such name, or no polygon with an area.
    """

    name: str
    points: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise RecipeError(f"a zone has a name of letters, digits, spaces, dots and dashes, got {self.name[:64]!r}")
        if not self.points:
            return
        corners = np.array(self.points, np.float64)
        fine = (
            3 <= len(corners) <= _MAX_POINTS and bool(np.isfinite(corners).all()) and float(np.abs(corners).max()) < 1e6
        )
        if not fine or not _area(corners):
            raise RecipeError(
                f"zone {self.name!r} needs at least three corners and an area, got {len(corners)} corners"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``NAME=x0,y0,x1,y1`` (a box) or ``NAME=x,y,x,y,x,y,...`` (a polygon), in pixels.

        Raises:
            RecipeError: not such a text.
        """
        name, mark, listed = text.partition("=")
        try:
            values = [float(value) for value in listed.split(",")] if mark else []
        except ValueError:
            values = []
        if len(values) == 4:
            x0, y0, x1, y1 = values
            values = [x0, y0, x1, y0, x1, y1, x0, y1]
        if len(values) < 6 or len(values) % 2:
            raise RecipeError(f"a zone is NAME=x0,y0,x1,y1 or NAME=x,y,x,y,x,y,... in pixels, got {text[:80]!r}")
        return cls(name=name.strip(), points=tuple(zip(values[::2], values[1::2], strict=True)))

    def distances(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (N,) pixels from (N, 2) points to the zone; 0 inside and on its border."""
        if not self.points:
            return np.zeros(len(points))
        corners = np.array(self.points, np.float64)
        ends = np.roll(corners, -1, axis=0)
        x, y = points[:, 0, None], points[:, 1, None]
        between = (corners[:, 1] > y) != (ends[:, 1] > y)
        rise = np.where(ends[:, 1] == corners[:, 1], 1.0, ends[:, 1] - corners[:, 1])
        crossing = corners[:, 0] + (y - corners[:, 1]) / rise * (ends[:, 0] - corners[:, 0])
        inside = (between & (x < crossing)).sum(1) % 2 == 1
        sides = ends - corners
        length = np.maximum(np.square(sides).sum(1), 1e-12)
        away = points[:, None] - corners
        share = np.clip((away * sides).sum(2) / length, 0, 1)
        nearest: NDArray[np.float64] = np.sqrt(np.square(away - share[..., None] * sides).sum(2)).min(1)
        return np.where(inside, 0.0, nearest)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventOptions:
    """Options of an ``EventLog``.

    Args:
        zones: zones with different names; empty: one zone ``"image"`` that is everywhere.
        enter_s: seconds for which an object must be in a zone before it enters.
        leave_s: seconds for which it must be outside, or not be seen, before it leaves.
        margin: pixels by which an object must be outside of a zone that it is in.
        anchor: point of the box that must be in the zone: ``"bottom"`` (the middle of the lower side,
            where people stand) or ``"centre"``.
        labels: names of the classes that count; empty: all.

    Raises:
        RecipeError: an option is out of its range, or two zones have one name.
    """

    zones: tuple[Zone, ...] = ()
    enter_s: float = 0.3
    leave_s: float = 1.0
    margin: float = 4.0
    anchor: str = "bottom"
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("enter_s", "leave_s", "margin"):
            if not 0 <= getattr(self, name) < math.inf:
                raise RecipeError(f"{name} must be at least 0, got {getattr(self, name)}")
        if self.anchor not in ("bottom", "centre"):
            raise RecipeError(f"anchor must be 'bottom' or 'centre', got {self.anchor!r}")
        names = [zone.name for zone in self.zones]
        if len(set(names)) != len(names):
            raise RecipeError(f"two zones have one name: {', '.join(sorted(names))}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened.

    Args:
        kind: ``"enter"``, ``"leave"`` or ``"count"``.
        seconds: time of the frame in which it was noticed.
        zone: name of the zone.
        label: class of the object.
        identity: of the object; None for counts.
        box: x0, y0, x1, y1 of the object where it was seen last; None for counts.
        stayed_s: of ``"leave"``: seconds between the first and the last frame in the zone.
        count: of ``"count"``: number of objects of this class in the zone from now on.
    """

    kind: str
    seconds: float
    zone: str
    label: str
    identity: int | None = None
    box: tuple[float, float, float, float] | None = None
    stayed_s: float | None = None
    count: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain data without what does not apply."""
        table: dict[str, Any] = {
            "event": self.kind, "time": round(self.seconds, 3), "zone": self.zone, "label": self.label,
            "id": self.identity, "box": None if self.box is None else [round(v, 1) for v in self.box],
            "stayed_s": None if self.stayed_s is None else round(self.stayed_s, 3), "count": self.count,
        }  # fmt: skip
        return {key: value for key, value in table.items() if value is not None}


@dataclass(slots=True, kw_only=True)
class _Visit:
    """One object in one zone: first and last time in it, whether it has entered."""

    label: str
    first: float
    last: float
    box: tuple[float, float, float, float]
    entered: bool = False


class EventLog:
    """Turns tracked detections into events, frame by frame.

    Args:
        options: zones and delays.
    """

    def __init__(self, options: EventOptions | None = None) -> None:
        self.options = options or EventOptions()
        self.zones = self.options.zones or (Zone(name=EVERYWHERE),)
        self._visits: dict[tuple[str, int], _Visit] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._now = -math.inf

    def update(self, detections: Detections, seconds: float) -> list[Event]:
        """Return the events of a frame, counts last.

        Args:
            detections: result of ``Tracker.update``.
            seconds: time of the frame; must not decrease.

        Raises:
            RecipeError: detections without identities, or time runs backwards.
        """
        if detections.identities is None:
            raise RecipeError("events need identities; pass the detections through Tracker.update first")
        if not self._now <= seconds < math.inf:
            raise RecipeError(f"the time of a frame must not decrease, got {seconds} after {self._now}")
        self._now = seconds
        boxes = detections.boxes.astype(np.float64).reshape(-1, 4)
        anchors = (boxes[:, :2] + boxes[:, 2:]) / 2
        if self.options.anchor == "bottom":
            anchors[:, 1] = boxes[:, 3]
        labels = [detections.names[label] for label in detections.labels]
        for zone in self.zones:
            for row, distance in enumerate(zone.distances(anchors)):
                if not self.options.labels or labels[row] in self.options.labels:
                    key = (zone.name, int(detections.identities[row]))
                    self._see(key, float(distance), labels[row], boxes[row])
        return self._changes()

    def finish(self) -> list[Event]:
        """Return the events of the end of a video: every object leaves."""
        before = self._counts.copy()
        events = [self._leave(key, visit) for key, visit in list(self._visits.items()) if visit.entered]
        self._visits.clear()
        return [*events, *self._count_events(before)]

    @property
    def counts(self) -> dict[tuple[str, str], int]:
        """(zone, label) -> number of objects that are in it now."""
        return {key: count for key, count in self._counts.items() if count}

    def _see(self, key: tuple[str, int], distance: float, label: str, box: NDArray[np.float64]) -> None:
        x0, y0, x1, y1 = box.tolist()
        visit = self._visits.get(key)
        if visit is None:
            if distance <= 0:
                self._visits[key] = _Visit(label=label, first=self._now, last=self._now, box=(x0, y0, x1, y1))
        elif distance <= (self.options.margin if visit.entered else 0):
            visit.last, visit.box = self._now, (x0, y0, x1, y1)
        elif not visit.entered:
            del self._visits[key]

    def _changes(self) -> list[Event]:
        events, before = [], self._counts.copy()
        for key, visit in list(self._visits.items()):
            if visit.entered and self._now - visit.last > self.options.leave_s:
                events.append(self._leave(key, visit))
            elif not visit.entered and visit.last < self._now:  # not seen in this frame
                del self._visits[key]
            elif not visit.entered and visit.last - visit.first >= self.options.enter_s:
                visit.entered = True
                self._counts[key[0], visit.label] += 1
                events.append(self._event(ENTER, key, visit))
        return [*events, *self._count_events(before)]

    def _leave(self, key: tuple[str, int], visit: _Visit) -> Event:
        self._counts[key[0], visit.label] -= 1
        del self._visits[key]
        return self._event(LEAVE, key, visit, stayed_s=visit.last - visit.first)

    def _event(self, kind: str, key: tuple[str, int], visit: _Visit, stayed_s: float | None = None) -> Event:
        return Event(
            kind=kind, seconds=self._now, zone=key[0], label=visit.label, identity=key[1], box=visit.box,
            stayed_s=stayed_s,
        )  # fmt: skip

    def _count_events(self, before: Counter[tuple[str, str]]) -> Iterable[Event]:
        for (zone, label), count in sorted(self._counts.items()):
            if count != before[zone, label]:
                yield Event(kind=COUNT, seconds=self._now, zone=zone, label=label, count=count)


def _area(corners: NDArray[np.float64]) -> float:
    x, y = corners.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
