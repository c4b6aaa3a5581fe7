"""Decode videos and cameras through PyAV: files frame by frame, live sources newest frame first."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import MissingExtra, SourceError
from splitreg.imaging import MAX_PIXELS

if TYPE_CHECKING:
    from splitreg.edge.source_options import SourceOptions

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptureInput:
    """What FFmpeg opens.

    Args:
        shown: the source without passwords, for messages.
        url: address, path or device; or an object with ``read``.
        format: FFmpeg's name of the format, None to detect it.
        options: FFmpeg's options.
        network: an address, whose reads have time-outs.
        camera: a device of this machine.
    """

    shown: str
    url: Any
    format: str | None = None
    options: dict[str, str] = field(default_factory=dict)
    network: bool = False
    camera: bool = False


class Decoder:
    """An open input.

    Args:
        place: the input.
        options: time-outs.

    Raises:
        SourceError: it cannot be opened, has no video, or does not answer in time.
        MissingExtra: ``av`` is not installed.
    """

    def __init__(self, place: CaptureInput, options: SourceOptions) -> None:
        try:
            import av
        except ModuleNotFoundError as cause:
            raise MissingExtra(
                f"{place.shown} needs av, which is not installed; pip install 'splitreg[video]'"
            ) from cause
        self._av, self._place, self._options = av, place, options
        timed = place.network or place.camera
        self._waiting_since = time.monotonic()
        with self._errors(options.open_timeout_s):
            self._container = av.open(
                place.url, format=place.format, options=dict(place.options),
                timeout=(options.open_timeout_s, options.read_timeout_s) if timed else None,
            )  # fmt: skip
        try:
            self._check()
        except BaseException:
            self._container.close()
            raise

    def _check(self) -> None:
        if not self._container.streams.video:
            raise SourceError(f"{self._place.shown} has no video stream")
        stream = self._container.streams.video[0]
        self.live = is_live(self._options, self._place, self._container)
        # frame threads delay every frame by their number
        stream.thread_type = "SLICE" if self.live else "AUTO"
        self.rate = float(stream.average_rate or stream.guessed_rate or 0)

    def frames(self) -> Iterator[Any]:
        """Yield decoded frames (``av.VideoFrame``); damaged packets of a live source are skipped.

        Raises:
            SourceError: the input cannot be read further, or nothing arrives in time.
        """
        self._waiting_since = time.monotonic()
        with self._errors(self._options.read_timeout_s):
            for packet in self._container.demux(video=0):
                try:
                    decoded = packet.decode()
                except self._av.error.InvalidDataError:
                    if not self.live:
                        raise
                    continue
                yield from decoded
                self._waiting_since = time.monotonic()

    def pixels(self, frame: Any) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8, rotated as the video's metadata says.

        Raises:
            SourceError: the frame is too large.
        """
        if frame.width * frame.height > MAX_PIXELS:
            raise SourceError(
                f"{self._place.shown} has frames of {frame.width}x{frame.height}, above {MAX_PIXELS} pixels"
            )
        with self._errors(math.inf):
            pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
        turns = round(getattr(frame, "rotation", 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels

    def close(self) -> None:
        """Close the input."""
        with contextlib.suppress(self._av.FFmpegError, OSError):
            self._container.close()

    @contextlib.contextmanager
    def _errors(self, timeout_s: float) -> Iterator[None]:
        try:
            yield
        except (self._av.FFmpegError, OSError, ValueError) as cause:
            # PyAV interrupts a call that takes too long; some formats report that as damaged data
            timed = self._place.network or self._place.camera
            late = timed and time.monotonic() - self._waiting_since >= timeout_s
            if late or isinstance(cause, self._av.error.ExitError):
                raise SourceError(f"{self._place.shown} did not answer within {timeout_s:g} s") from cause
            reason = str(getattr(cause, "strerror", None) or cause).splitlines()[0]
            raise SourceError(f"cannot read {self._place.shown}: {reason}") from cause


def is_live(options: SourceOptions, place: CaptureInput, container: Any) -> bool:
    """Whether frames arrive in real time: a camera, or an address without a duration."""
    if options.live is not None:
        return options.live
    if place.camera:
        return True
    still = container.format.name.endswith("_pipe") or container.format.name == "image2"
    return place.network and container.duration is None and not still


@dataclass(slots=True, kw_only=True)
class Captured:
    """A decoded frame of a live source: its number from 0, and the monotonic time of its arrival."""

    frame: Any
    number: int
    arrived: float
    decoder: Decoder


class LiveReader:
    """Reads a live source in a thread, keeps only the newest frame, and reconnects.

    Args:
        decoder: the open source.
        reopen: opens it again.
        options: back-off and time limits.
        shown: the source, for messages.
    """

    def __init__(self, decoder: Decoder, reopen: Callable[[], Decoder], options: SourceOptions, shown: str) -> None:
        self._decoder, self._reopen, self._options, self._shown = decoder, reopen, options, shown
        self._condition = threading.Condition()
        self._slot: Captured | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._closed = threading.Event()
        self.number = self.dropped = self.reconnects = 0
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def take(self) -> Captured | None:
        """Wait for the newest frame; None at the end.

        Raises:
            SourceError: the source has been offline for too long.
        """
        with self._condition:
            while self._slot is None and self._error is None and not self._ended:
                self._condition.wait(0.5)  # short, so that an interrupt is seen
            if self._slot is not None:
                captured, self._slot = self._slot, None
                return captured
            if self._error is not None:
                raise self._error
            return None

    def close(self) -> None:
        """Stop; the thread ends at the latest when its read times out."""
        self._closed.set()
        with self._condition:
            self._ended = True
            self._slot = None
            self._condition.notify_all()
        self._thread.join(timeout=1)

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                reason = self._read()
                if self._closed.is_set() or not self._reconnect(reason):
                    break
        except BaseException as error:  # raised again in the thread that takes frames
            with self._condition:
                self._error = error
        finally:
            self._decoder.close()
            with self._condition:
                self._ended = True
                self._condition.notify_all()

    def _read(self) -> str:
        """Read until the source fails; return why."""
        try:
            for frame in self._decoder.frames():
                if self._closed.is_set():
                    return "closed"
                self._put(frame)
        except SourceError as error:
            return str(error)
        finally:
            self._decoder.close()
        return f"{self._shown} has ended"

    def _put(self, frame: Any) -> None:
        number, self.number = self.number, self.number + 1
        if number % self._options.every:
            return
        with self._condition:
            if self._closed.is_set():
                return
            self.dropped += self._slot is not None
            self._slot = Captured(frame=frame, number=number, arrived=time.monotonic(), decoder=self._decoder)
            self._condition.notify_all()

    def _reconnect(self, reason: str) -> bool:
        """Open the source again, with growing pauses; return whether it goes on.

        Raises:
            SourceError: it was offline for too long.
        """
        lost, pause = time.monotonic(), self._options.retry_s
        _log.warning("%s; connecting again", reason)
        while not self._closed.wait(pause):
            try:
                self._decoder = self._reopen()
            except SourceError as error:
                reason = str(error)
            else:
                if not self._decoder.live:  # a playlist that was live has become a recording
                    return False
                self.reconnects += 1
                return True
            offline = time.monotonic() - lost
            if offline >= self._options.max_offline_s:
                raise SourceError(f"{self._shown} has been offline for {offline:.0f} s: {reason}")
            pause = min(2 * pause, self._options.max_retry_s)
        return False
