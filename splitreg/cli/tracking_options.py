"""Options ``--track``, ``--events``, ``--zone``, ``--mqtt`` of commands that receive answers for frames."""

from __future__ import annotations

import contextlib
import functools
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from typing import Self

    from splitreg.events import Event, EventLog
    from splitreg.imaging import ImageLike
    from splitreg.mqtt import MqttPublisher
    from splitreg.predictions import Detections, Prediction
    from splitreg.tracking import Tracker

_OPTIONS = (
    click.option("--track", is_flag=True, help="Give objects identities over the frames of a video."),
    click.option("--track-score", type=click.FloatRange(0, 1), default=0.6, show_default=True,
                 help="Smallest score with which a new object is tracked."),
    click.option("--events", is_flag=True,
                 help="Print enter, leave and count events as JSON lines instead of answers; includes --track."),
    click.option("--zone", "zones", multiple=True, metavar="NAME=X0,Y0,X1,Y1",
                 help="Box or polygon (X,Y,X,Y,X,Y,...) in pixels for events; repeatable.  [default: the whole image]"),
    click.option("--labels", metavar="NAME,...", help="Classes for events.  [default: all]"),
    click.option("--mqtt", metavar="URL", help="Publish events to mqtt://[USER@]HOST[:PORT], with Home Assistant's "
                 "discovery; needs 'splitreg[mqtt]'. Password: the variable SPLITREG_MQTT_PASSWORD."),
    click.option("--device", metavar="NAME", help="Name of this device for MQTT.  [default: its host name]"),
)  # fmt: skip
_NAMES = ("track", "track_score", "events", "zones", "labels", "mqtt", "device")
#: Largest number of classes that are announced to MQTT at the start without --labels.
_MAX_ANNOUNCED = 20
#: Frames whose time is remembered until they are answered.
_MAX_WAITING = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingOptions:
    """Values of the options."""

    track: bool = False
    track_score: float = 0.6
    events: bool = False
    zones: tuple[str, ...] = ()
    labels: str | None = None
    mqtt: str | None = None
    device: str | None = None

    @property
    def wants_events(self) -> bool:
        """Whether events are printed or published."""
        return self.events or self.mqtt is not None

    def __bool__(self) -> bool:
        """Whether objects are tracked."""
        return self.track or self.wants_events


def tracking_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which receives them as ``tracking``, a ``TrackingOptions``."""

    @functools.wraps(function)
    def call(*arguments: Any, **values: Any) -> Any:
        tracking = TrackingOptions(**{name: values.pop(name) for name in _NAMES})
        if not tracking.wants_events and (tracking.zones or tracking.labels is not None):
            raise click.UsageError("--zone and --labels need --events or --mqtt")
        if tracking.mqtt is None and tracking.device is not None:
            raise click.UsageError("--device needs --mqtt")
        return function(*arguments, tracking=tracking, **values)

    for option in reversed(_OPTIONS):
        call = option(call)
    return call


class FrameTime(NamedTuple):
    """When a frame was taken: its source, its number in it, and seconds since the source's first frame."""

    source: str
    number: int
    seconds: float


class Follower:
    """Tracks the objects of answers, and prints or publishes events; a context manager.

    Args:
        options: values of the command's options.
        write: prints a line.

    Raises:
        SplitregError: an invalid zone, or no connection to the MQTT broker.
    """

    def __init__(self, options: TrackingOptions, write: Callable[[str], None] = click.echo) -> None:
        from splitreg.events import EventOptions, Zone
        from splitreg.tracking import TrackerOptions

        self.options, self._write = options, write
        score = options.track_score
        self._tracker_options = TrackerOptions(
            new_score=score, high_score=max(score - 0.1, 0), low_score=min(0.1, max(score - 0.1, 0))
        )
        labels = () if options.labels is None else tuple(name.strip() for name in options.labels.split(","))
        self._event_options = EventOptions(zones=tuple(map(Zone.parse, options.zones)), labels=labels)
        self._times: OrderedDict[str, FrameTime] = OrderedDict()
        self._heads: dict[str, tuple[Tracker, EventLog]] = {}
        self._last: FrameTime | None = None
        self._mqtt: MqttPublisher | None = None
        if options.mqtt is not None:
            from splitreg.mqtt import MqttOptions, MqttPublisher

            self._mqtt = MqttPublisher(options.mqtt, MqttOptions(device=options.device or ""))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def remember(self, name: str, when: FrameTime) -> None:
        """Remember when a frame was taken that is about to be sent."""
        self._times[name] = when
        if len(self._times) > _MAX_WAITING:
            with contextlib.suppress(KeyError):  # another thread may have taken it
                self._times.popitem(last=False)

    def follow(self, name: str, predictions: Mapping[str, Prediction]) -> dict[str, Prediction]:
        """Return the predictions for a frame with identities; prints and publishes events.

        Args:
            name: of the frame.
            predictions: head -> prediction.

        Raises:
            SplitregError: no head detects objects, or none knows a class of ``--labels``.
        """
        from splitreg.errors import SplitregError
        from splitreg.predictions import Detections

        found = {head: p for head, p in predictions.items() if isinstance(p, Detections)}
        if not found:
            raise SplitregError(
                f"tracking needs a head that detects objects; the answer has: {', '.join(predictions) or 'none'}"
            )
        if not self._heads:
            self._check_labels(found)
        before, when = self._last, self._when(name)
        if before is not None and before.source != when.source:
            self._finish()
            before = None
        self._last = when
        frames = 1 if before is None else max(1, when.number - before.number)
        tracked = {head: self._track(head, p, frames, when, name) for head, p in found.items()}
        return {**predictions, **tracked}

    def close(self) -> None:
        """Let every object leave, and disconnect."""
        try:
            self._finish()
        finally:
            if self._mqtt is not None:
                self._mqtt.close()
                self._mqtt = None

    def _check_labels(self, found: Mapping[str, Detections]) -> None:
        from splitreg.errors import SplitregError, suggest

        known = list(dict.fromkeys(name for detections in found.values() for name in detections.names))
        for label in self._event_options.labels:
            if label not in known:
                raise SplitregError(
                    f"--labels: no head detects the class {label!r}.{suggest(label, known)} "
                    f"There are: {', '.join(known)}"
                )

    def _when(self, name: str) -> FrameTime:
        """Return when a frame was taken; a frame of an earlier run counts as a second after the one before."""
        last = self._last
        when = self._times.pop(name, None)
        if when is not None:
            return when
        return FrameTime("", 0, 0.0) if last is None else FrameTime(last.source, last.number + 1, last.seconds + 1)

    def _track(self, head: str, detections: Detections, frames: int, when: FrameTime, name: str) -> Detections:
        from splitreg.events import EventLog
        from splitreg.tracking import Tracker

        if head not in self._heads:
            self._heads[head] = Tracker(self._tracker_options), EventLog(self._event_options)
            self._announce(detections, self._heads[head][1])
        tracker, log = self._heads[head]
        tracked = tracker.update(detections, frames=frames)
        if self.options.wants_events:
            for event in log.update(tracked, when.seconds):
                self._emit(event, {"head": head, "name": name})
        return tracked

    def _announce(self, detections: Detections, log: EventLog) -> None:
        labels = self._event_options.labels or detections.names
        if self._mqtt is not None and len(labels) <= _MAX_ANNOUNCED:
            self._mqtt.announce((zone.name, label) for zone in log.zones for label in labels)

    def _finish(self) -> None:
        for head, (_, log) in self._heads.items():
            for event in log.finish():
                self._emit(event, {"head": head})
        self._heads.clear()

    def _emit(self, event: Event, where: Mapping[str, str]) -> None:
        if self.options.events:
            self._write(json.dumps({**event.to_json(), **where}))
        if self._mqtt is not None:
            self._mqtt.publish(event)


def follow_frames(sources: Iterable[str], every: int, follower: Follower | None) -> Iterator[tuple[str, ImageLike]]:
    """Yield (name, image) of sources, one frame out of ``every``; the follower remembers when each was taken."""
    from splitreg.edge import SourceOptions, timed_images

    for source in sources:
        for name, image, number, seconds in timed_images(source, SourceOptions(every=every)):
            if follower is not None:
                follower.remember(name, FrameTime(source, number, seconds))
            yield name, image
