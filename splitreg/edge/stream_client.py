"""``StreamClient``: send the frames of a camera over one WebSocket, and get their predictions."""

from __future__ import annotations

import contextlib
import logging
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from splitreg import imaging
from splitreg.edge.answer_reading import answer_fields, enlarge, write_query
from splitreg.edge.stream import EdgeStream, StreamOptions
from splitreg.edge.stream_control import Budget, MotionGate, StreamController
from splitreg.edge.transport import Transport
from splitreg.errors import (
    CorruptAnswer,
    DeadlinePassed,
    KeyFrameNeeded,
    MissingExtra,
    RecipeError,
    ServiceError,
    SplitregError,
    Unauthorized,
    Unreachable,
)
from splitreg.files import parse_json
from splitreg.imaging import ImageLike
from splitreg.predictions import Prediction
from splitreg.wire.compact import CompactReader
from splitreg.wire.protocol import STREAM, error_from, read_answer, write_request

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

    from splitreg.edge.half import EdgeHalf

_log = logging.getLogger(__name__)
_INITIAL_PAUSE_S, _MAX_PAUSE_S = 0.25, 10.0
_CLOSE_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamClientOptions:
    """How a stream is sent.

    Args:
        stream: how frames are coded.
        budget: of bytes, time and frames.
        motion: grey values (of 255) by which a part of the image must change for a frame to be sent;
            the answer is repeated otherwise. None sends all frames.
        min_score: detections with a lower score are not returned.
        resolution: of masks and other maps, one of ``imaging.RESOLUTIONS``.
        max_in_flight: frames without an answer; at the limit no frame is taken from the source.
        deadline_s: seconds without an answer after which the connection is given up.
        patience_s: seconds without a connection after which the stream ends; None: never.
        ca: PEM file of trusted certificate authorities; the system's by default.
        insecure: allow a token over plain HTTP to another host, and any certificate.

    Raises:
        RecipeError: a value is out of range.
    """

    stream: StreamOptions = field(default_factory=StreamOptions)
    budget: Budget = field(default_factory=Budget)
    motion: float | None = None
    min_score: float = 0.3
    resolution: str = "network"
    max_in_flight: int = 4
    deadline_s: float = 10.0
    patience_s: float | None = 60.0
    ca: str | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if not self.deadline_s > 0 or self.max_in_flight < 1 or not 0 <= self.min_score <= 1:
            raise RecipeError(
                "deadline_s must be above 0, max_in_flight at least 1 and min_score 0 to 1; got "
                f"{self.deadline_s}, {self.max_in_flight} and {self.min_score}"
            )
        if self.resolution not in imaging.RESOLUTIONS:
            raise RecipeError(f"resolution must be one of {', '.join(imaging.RESOLUTIONS)}, got {self.resolution!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameAnswer:
    """The answer to one frame.

    Args:
        name: of the frame.
        predictions: head -> prediction in pixels of the original image.
        packet_bytes: size of the packet; 0 for a repeated answer.
        answer_bytes: size of the answer.
        key: whether the frame was coded alone.
        repeated: no motion: this is the answer to an earlier frame.
        total_ms: from image to predictions.
    """

    name: str
    predictions: Mapping[str, Prediction]
    packet_bytes: int = 0
    answer_bytes: int = 0
    key: bool = False
    repeated: bool = False
    total_ms: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return everything but the exact arrays as plain data."""
        return {
            "name": self.name, "packet_bytes": self.packet_bytes, "answer_bytes": self.answer_bytes, "key": self.key,
            "repeated": self.repeated, "total_ms": round(self.total_ms, 2),
            "predictions": {head: prediction.to_json() for head, prediction in self.predictions.items()},
        }  # fmt: skip


@dataclass(slots=True, kw_only=True)
class StreamReport:
    """What happened to the frames that were taken from the source.

    Args:
        answered: with predictions.
        repeated: not sent because nothing moved.
        lost: sent, but not answered: the connection or the server failed.
        keys: coded alone.
        connections: that were opened.
        sent_bytes: of packets.
        received_bytes: of answers.
        seconds: from the first frame to the end.
    """

    answered: int = 0
    repeated: int = 0
    lost: int = 0
    keys: int = 0
    connections: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    name: str
    began: float
    size: int
    key: bool


class StreamClient:
    """Sends frames to one server; use it from one thread.

    Frames are taken from the source only when one can be sent: a source that gives its newest frame
    (``splitreg.edge.frames`` of a camera) drops the others before they are encoded. A lost connection
    is opened again, and begins with a key frame.

    Args:
        url: of the server, ``http://`` or ``https://``.
        encoder: the edge half.
        heads: names of heads; None: all.
        token: None: the variable SPLITREG_TOKEN, if set.
        options: how the stream is sent.

    Raises:
        RecipeError: an invalid URL, token or option.
        MissingExtra: ``websockets`` is not installed.
    """

    def __init__(
        self,
        url: str,
        encoder: EdgeHalf,
        *,
        heads: tuple[str, ...] | None = None,
        token: str | None = None,
        options: StreamClientOptions | None = None,
    ) -> None:
        try:
            import websockets.sync.client  # noqa: F401
        except ImportError as cause:
            raise MissingExtra("streams need websockets; install it with: pip install 'splitreg[stream]'") from cause
        self.options = options or StreamClientOptions()
        self.report = StreamReport()
        self._transport = Transport(url, token=token, ca=self.options.ca, insecure=self.options.insecure)
        self._encoder, self._heads = encoder, heads
        rate = self.options.stream.rate
        several = encoder.coding.has_rates
        self._controller = StreamController(self.options.budget, 0.5 if rate is None and several else rate)
        self._gate = None if self.options.motion is None else MotionGate(self.options.motion)
        self._stream: EdgeStream | None = None
        self._socket: ClientConnection | None = None
        self._context = contextlib.ExitStack()  # of the socket
        self._reader = CompactReader()
        # shared with the thread that receives, under the condition:
        self._changed = threading.Condition()
        self._in_flight: dict[int, _Sent] = {}
        self._answers: deque[FrameAnswer] = deque()
        self._error: SplitregError | None = None
        self._need_key, self._not_before = False, 0.0
        self._number, self._last = 0, FrameAnswer(name="", predictions={})

    def run(self, frames: Iterable[tuple[str, ImageLike]], on_answer: Callable[[FrameAnswer], None]) -> StreamReport:
        """Send frames until the source ends.

        Args:
            frames: names and images.
            on_answer: called with every answer, in this thread.

        Raises:
            Unreachable: no connection for ``patience_s``.
            ServiceError: the server refuses the client, for instance ``Unauthorized``.
            ForeignPacket: the server does not have this model.
        """
        began = time.monotonic()
        try:
            for name, image in frames:
                self._send(name, image, on_answer)
                self._wait(on_answer)
            self._wait(on_answer, until_empty=True)
        finally:
            self.close()
            self.report.seconds = time.monotonic() - began
        return self.report

    def close(self) -> None:
        """Close the connection."""
        self._context.close()
        self._socket = None

    def _send(self, name: str, image: ImageLike, on_answer: Callable[[FrameAnswer], None]) -> None:
        began = time.monotonic()
        pixels = imaging.read(image)
        if self._gate is not None and not self._gate.moved(pixels):
            self._wait(on_answer, until_empty=True)  # to repeat the answer to the last frame, not an older one
            if self._last.predictions and not self._need_key:
                self.report.repeated += 1
                on_answer(FrameAnswer(name=name, predictions=self._last.predictions, repeated=True))
                return
        if self._stream is not None and self._stream.format is not None:
            if self._stream.format.original != pixels.shape[:2]:  # the source has another size now
                self._wait(on_answer, until_empty=True)
                self._stream = None
                self.close()
        key = self._need_key or self._socket is None
        packet = self._encode(pixels, key=key)
        while not self._transmit(name, packet, began):
            packet = self._encode(pixels, key=True)
        if self._gate is not None:
            self._gate.sent()

    def _encode(self, pixels: NDArray[np.uint8], *, key: bool) -> bytes:
        if self._stream is None:
            self._stream = self._encoder.stream(self.options.stream, number=time.monotonic_ns() % 2**31)
        return self._stream.encode(pixels, rate=self._controller.rate, key=key)

    def _transmit(self, name: str, packet: bytes, began: float) -> bool:
        """Send a packet, over a new connection if there is none; False if it must be a key frame now."""
        assert self._stream is not None
        assert self._stream.encoder is not None and self._stream.encoder.last is not None
        key = self._stream.encoder.last.key
        if self._socket is None:
            self._connect()
            if not key:
                return False
        socket = self._socket
        if socket is None:  # lost again
            return False
        with self._changed:
            self._need_key = False
            self._number += 1
            self._in_flight[self._number] = _Sent(name=name, began=began, size=len(packet), key=key)
        try:
            socket.send(write_request(self._number, packet))
        except Exception:  # closed, for whatever reason; this frame is sent again
            with self._changed:
                if self._in_flight.pop(self._number, None) is None:
                    self.report.lost -= 1  # the receiving thread saw the end first, and counted it
            self._drop_connection()
            return False
        self.report.keys += key
        self.report.sent_bytes += len(packet)
        self._controller.sent(len(packet), time.monotonic(), key=key)
        return True

    def _wait(self, on_answer: Callable[[FrameAnswer], None], *, until_empty: bool = False) -> None:
        """Deliver answers until another frame may be sent."""
        while True:
            with self._changed:
                answers = list(self._answers)
                self._answers.clear()
                error, waiting = self._error, len(self._in_flight)
                oldest = min((sent.began for sent in self._in_flight.values()), default=None)
            for answer in answers:
                self._controller.answered(answer.total_ms / 1000)
                on_answer(answer)
            if error is not None:
                raise error
            now = time.monotonic()
            if oldest is not None and now - oldest > self.options.deadline_s:
                self._drop_connection()
                continue
            pause = max(self._controller.wait_s(now), self._not_before - now)
            full = waiting >= (1 if until_empty else self.options.max_in_flight)
            full = full or (oldest is not None and self._controller.overdue(now - oldest))
            if not full and (until_empty or pause <= (0 if waiting else self._controller.probe_s)):
                if until_empty or waiting or self._probe():
                    return
                continue
            with self._changed:
                if not self._answers and self._error is None:
                    self._changed.wait(0.25 if full else min(0.25, pause))

    def _probe(self) -> bool:
        """Return whether the link is likely to deliver a frame now; send a ping to find out, if need be."""
        from websockets.exceptions import ConnectionClosed

        socket = self._socket
        if socket is None or self._controller.steady:
            return True
        began = time.monotonic()
        try:
            answered = socket.ping()
            while not answered.wait(0.25):
                if self._socket is not socket:  # it ended, and the next frame opens another one
                    return True
                if time.monotonic() - began > self.options.deadline_s:
                    raise TimeoutError
        except (ConnectionClosed, OSError):  # TimeoutError is an OSError
            self._drop_connection()
            return True
        return self._controller.probed(time.monotonic() - began)

    def _connect(self) -> None:
        """Open the WebSocket; try again until ``patience_s`` is over."""
        began, pause = time.monotonic(), _INITIAL_PAUSE_S
        while True:
            try:
                self._socket = self._open()
                break
            except (OSError, TimeoutError, ServiceError) as cause:
                if isinstance(cause, Unauthorized):
                    raise
                left = None if self.options.patience_s is None else self.options.patience_s - (time.monotonic() - began)
                if left is not None and left <= pause:
                    raise Unreachable(f"no connection to {self._transport.url}: {cause}") from cause
                if pause == _INITIAL_PAUSE_S:
                    until = "" if left is None else f" for {left:.0f} s"
                    _log.warning("no connection to %s: %s; trying again%s", self._transport.url, cause, until)
                time.sleep(pause)
                pause = min(_MAX_PAUSE_S, 2 * pause)
        self.report.connections += 1
        self._reader = CompactReader(self._reader.tables)
        assert self._stream is not None and self._stream.format is not None
        arguments = self._socket, self._reader, self._stream.format.original
        threading.Thread(target=self._receive, args=arguments, daemon=True).start()

    def _open(self) -> ClientConnection:
        from websockets.exceptions import InvalidHandshake, InvalidStatus
        from websockets.sync.client import connect

        try:
            context = connect(
                self._transport.websocket_url(STREAM) + "?" + self._query(),
                additional_headers=self._transport.headers,
                ssl=self._transport.tls,
                compression=None,
                max_size=None,
                open_timeout=self.options.deadline_s,
                close_timeout=_CLOSE_TIMEOUT_S,
                proxy=None,
            )
            return self._context.enter_context(context)
        except ssl.SSLCertVerificationError as cause:
            raise self._transport.untrusted(cause) from cause
        except InvalidStatus as refusal:
            response = refusal.response
            try:
                body = parse_json(response.body or b"")
            except ValueError:
                body = None
            raise error_from(response.status_code, body, response.headers.get("Retry-After")) from refusal
        except InvalidHandshake as cause:
            raise Unreachable(f"{self._transport.url} does not accept streams: {cause}") from cause

    def _query(self) -> str:
        assert self._stream is not None
        fields = answer_fields(self._heads, self.options.min_score, self.options.resolution)
        fields |= {"answers": "compact", "video": str(self._stream.format)}
        return write_query(fields, self._reader.tables)

    def _drop_connection(self) -> None:
        self.close()
        with self._changed:
            self.report.lost += len(self._in_flight)
            self._in_flight.clear()
            self._need_key = True

    def _receive(self, socket: ClientConnection, reader: CompactReader, original: tuple[int, int]) -> None:
        """Read answers to images of one size until the connection ends; runs in its own thread."""
        from websockets.exceptions import ConnectionClosed

        try:
            while True:
                message = socket.recv()
                if isinstance(message, bytes):
                    number, status, blob = read_answer(message)
                    predictions = self._restore(reader.read(blob), original) if status == 200 else {}
                    self._on_answer(number, status, blob, predictions)
        except (ConnectionClosed, OSError):
            pass
        except CorruptAnswer as error:
            with self._changed:
                self._error = error
        with self._changed:
            if socket is self._socket:  # not closed by this side
                self.report.lost += len(self._in_flight)
                self._in_flight.clear()
                self._socket = None
                self._need_key = True
            self._changed.notify_all()

    def _restore(self, received: Mapping[str, Prediction], original: tuple[int, int]) -> dict[str, Prediction]:
        """Return predictions in pixels of the original image."""
        return {head: enlarge(each, original, self.options.resolution) for head, each in received.items()}

    def _on_answer(self, number: int, status: int, blob: bytes, predictions: Mapping[str, Prediction]) -> None:
        now = time.monotonic()
        with self._changed:
            sent = self._in_flight.pop(number, None)
            if status != 200:
                self._on_error(status, blob)
            elif sent is not None:
                self._last = FrameAnswer(
                    name=sent.name, predictions=predictions, packet_bytes=sent.size, answer_bytes=len(blob), key=sent.key,
                    total_ms=1000 * (now - sent.began),
                )  # fmt: skip
                self._answers.append(self._last)
                self.report.answered += 1
                self.report.received_bytes += len(blob)
            self._changed.notify_all()

    def _on_error(self, status: int, blob: bytes) -> None:
        try:
            error = error_from(status, parse_json(blob))
        except ValueError:
            error = error_from(status, None)
        self.report.lost += 1
        if isinstance(error, KeyFrameNeeded):
            self._need_key = True
        elif isinstance(error, ServiceError | DeadlinePassed) and not isinstance(error, Unauthorized):
            pause = min(_MAX_PAUSE_S, getattr(error, "retry_after_s", None) or 0.0)
            self._not_before = time.monotonic() + pause  # the state is intact
        else:
            self._error = error
