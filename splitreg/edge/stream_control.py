"""When to send the next frame of a stream, and at which rate: budgets of bytes and of time; motion."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitreg import imaging
from splitreg.errors import RecipeError

#: Bytes of a frame beside its packet: request number, WebSocket, TCP and IP headers.
FRAME_OVERHEAD_BYTES = 8 + 6 + 52
#: Bytes of a probe: an empty WebSocket ping with TCP and IP headers.
PROBE_BYTES = 10 + 52
#: Seconds of a byte budget that may be used at once.
_BURST_S = 1.0
#: Steps of the rate: down when a budget is exceeded, up when it is not used.
_DOWN, _UP = 0.08, 0.02
#: Shares of a budget: above the first it is nearly exceeded, below the second it is not used.
_FULL, _FREE = 0.9, 0.6
#: Answers whose latencies are remembered; shares of them that meet the budget.
_WINDOW, _CERTAINTY = 20, 0.95
#: Share of a budget of time: while a frame waits longer for its answer, the next one would be late too.
_OVERDUE = 0.5
#: Answers in time after a late one, until the link counts as steady.
_STEADY = 100
#: Multiple of the shortest round trip by which a link pauses; it grows with each probe that takes longer.
_PAUSE, _PATIENCE = 2.0, 1.5
#: Size of the image in which motion is looked for, and of its blocks.
_MOTION_SIZE, _MOTION_BLOCK = (48, 64), 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a stream may use.

    Args:
        fps: frames per second at most; None: as many as the source and the link give.
        kbps: kilobits per second of packets with their headers, on average over one second.
        ms: milliseconds from image to predictions, for 95 % of the frames.

    Raises:
        RecipeError: a value is not above 0.
    """

    fps: float | None = None
    kbps: float | None = None
    ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("fps", "kbps", "ms"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise RecipeError(f"{name} must be a number above 0, got {value}")


class StreamController:
    """Chooses the time and the rate of each frame.

    A byte budget is a bucket that fills at a constant speed: a frame waits until it is not empty. A
    budget of time is kept by the rate, and where the lowest rate does not help, by fewer frames. While
    the link pauses, no frame is sent: it would only wait behind the one that is late already. After a
    late answer, each frame is taken only when a probe has shown that the link does not pause.

    Args:
        budget: to keep.
        rate: 0 to 1, of the first frame; None: the model has one rate.

    Attributes:
        rate: of the next frame.
    """

    def __init__(self, budget: Budget, rate: float | None) -> None:
        self.budget, self.rate = budget, rate
        self._latencies: deque[float] = deque(maxlen=_WINDOW)
        self._bucket = 0.0 if budget.kbps is None else budget.kbps * 125 * _BURST_S
        self._last: float | None = None
        self._pace_s = 0.0 if budget.fps is None else 1 / budget.fps
        self._slower = 1.0
        self._frame_bytes: float | None = None
        self._in_time = _STEADY  # answers since the last late one
        self._min_round_trip_s, self._patience = math.inf, 1.0

    @property
    def steady(self) -> bool:
        """Whether a frame may be sent without a probe of the link."""
        return self.budget.ms is None or self._in_time >= _STEADY

    @property
    def probe_s(self) -> float:
        """Seconds that a probe takes when the link does not pause; 0: no probe is needed."""
        return 0.0 if self.steady or self._min_round_trip_s == math.inf else self._min_round_trip_s

    def probed(self, round_trip_s: float) -> bool:
        """Count a probe; return whether a frame may be sent now.

        Args:
            round_trip_s: seconds until a message of a few bytes was answered.
        """
        self._bucket -= PROBE_BYTES
        self._min_round_trip_s = min(self._min_round_trip_s, round_trip_s)
        free = round_trip_s <= _PAUSE * self._patience * self._min_round_trip_s
        self._patience = 1.0 if free else self._patience * _PATIENCE
        return free

    def wait_s(self, now: float) -> float:
        """Return the seconds until the next frame may be sent.

        Args:
            now: seconds of a monotonic clock.
        """
        if self._last is None:
            return 0.0
        passed = now - self._last
        waits = [self._pace_s * self._slower - passed]
        if self.budget.kbps is not None:
            speed = self.budget.kbps * 125
            waits.append((-self._bucket - passed * speed) / speed)
        return max(0.0, *waits)

    def overdue(self, age_s: float) -> bool:
        """Whether no frame should be sent, because one that was sent ``age_s`` seconds ago has no answer yet."""
        return self.budget.ms is not None and 1000 * age_s > _OVERDUE * self.budget.ms

    def sent(self, packet_bytes: int, now: float, *, key: bool) -> None:
        """Count a frame.

        Args:
            packet_bytes: size of its packet.
            now: seconds of a monotonic clock.
            key: whether it is coded alone; its size says nothing about the next ones.
        """
        size = packet_bytes + FRAME_OVERHEAD_BYTES
        if self.budget.kbps is not None:
            speed = self.budget.kbps * 125
            if self._last is not None:
                self._bucket = min(speed * _BURST_S, self._bucket + (now - self._last) * speed)
            self._bucket -= size
            if not key and self._pace_s:
                self._frame_bytes = size if self._frame_bytes is None else 0.8 * self._frame_bytes + 0.2 * size
                self._adjust(self._frame_bytes / (speed * self._pace_s))
        self._last = now

    def answered(self, latency_s: float) -> None:
        """Count an answer; ``latency_s`` are the seconds from image to predictions."""
        if self.budget.ms is None:
            return
        self._latencies.append(latency_s)
        self._in_time = 0 if 1000 * latency_s > self.budget.ms else self._in_time + 1
        ordered = sorted(self._latencies)
        median = ordered[len(ordered) // 2]
        slowest = ordered[min(len(ordered) - 1, int(_CERTAINTY * len(ordered)))]
        share = 1000 * slowest / self.budget.ms
        if self.rate in (None, 0.0) and 1000 * median > _FULL * self.budget.ms:  # not one pause of the link
            self._slower = min(8.0, self._slower * 1.3)
            self._pace_s = self._pace_s or median
            self._latencies.clear()
        elif share < _FREE and self._slower > 1:
            self._slower = max(1.0, self._slower / 1.05)
        elif share > _FULL or share < _FREE:
            self._adjust(share)
            if share > _FULL:
                self._latencies.clear()  # they are those of the rate before

    def _adjust(self, share: float) -> None:
        if self.rate is not None and share > _FULL:
            self.rate = max(0.0, self.rate - _DOWN)
        elif self.rate is not None and share < _FREE:
            self.rate = min(1.0, self.rate + _UP)


class MotionGate:
    """Finds frames that look like the last one that was sent.

    Images are compared as grey values of 64x48 pixels; a block of 8x8 of them that changed by more
    than the threshold on average is motion.

    Args:
        threshold: grey values, of 255.
    """

    def __init__(self, threshold: float) -> None:
        if not threshold > 0:
            raise RecipeError(f"the motion threshold must be above 0, got {threshold}")
        self.threshold = threshold
        self._reference: NDArray[np.float32] | None = None
        self._seen: NDArray[np.float32] | None = None

    def moved(self, image: NDArray[np.uint8]) -> bool:
        """Whether an (H, W, 3) image differs from the last one that was sent."""
        small = imaging.resize_pixels(image, _MOTION_SIZE).mean(axis=2, dtype=np.float32)
        self._seen = small
        if self._reference is None:
            return True
        (height, width), side = _MOTION_SIZE, _MOTION_BLOCK
        blocks = (small - self._reference).reshape(height // side, side, width // side, side)
        return bool(np.abs(blocks.mean(axis=(1, 3))).max() > self.threshold)

    def sent(self) -> None:
        """Compare later images with the last one that ``moved`` saw."""
        self._reference = self._seen
