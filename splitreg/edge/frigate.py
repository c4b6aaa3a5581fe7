"""A detector for Frigate: takes its images, sends packets to a far server, and returns boxes.

Frigate has two protocols for detectors outside of its process, and both are spoken here:

- ``zmq``: a REP socket. A request has two frames, JSON ``{"shape", "dtype"}`` and the bytes of the
  array; the reply is one frame, 20 rows of six float32: class, score, y0, x0, y1, x1 as shares of the
  image's sides. Rows of zeros are no objects.
- ``deepstack``: HTTP, ``POST /v1/vision/detection`` with an image file in a multipart form; the reply
  is JSON with pixels.

Frigate waits a fifth of a second at most. A request that is not answered in time gets no objects, so
that a slow link never blocks Frigate.
"""

from __future__ import annotations

import contextlib
import email.parser
import email.policy
import http.server
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.edge.client import Client
from splitreg.edge.half import EdgeHalf
from splitreg.edge.options import ClientOptions
from splitreg.errors import BadRequest, ImageError, MissingExtra, RecipeError, SplitregError
from splitreg.files import parse_json
from splitreg.imaging import ImageLike
from splitreg.predictions import Detections

#: Rows and columns of an answer over ZeroMQ.
ROWS, COLUMNS = 20, 6
#: Largest body of an HTTP request, and largest side of an array.
MAX_BODY, MAX_SIDE = 16 * 2**20, 4096
#: Largest number of classes of a label map.
MAX_LABELS = 10_000
#: Path of DeepStack's detection.
DETECTION = "/v1/vision/detection"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrigateOptions:
    """How a bridge detects.

    Args:
        head: name of the head with boxes.
        min_score: objects with a lower score are left out.
        timeout_s: seconds from Frigate's request to the reply; Frigate's own limit is 0.2 for ZeroMQ
            and 0.1 for DeepStack unless its configuration says otherwise.
        rate: 0 (fewest bytes) to 1 (most), for a model with several rates.
        labels: class names in the order of Frigate's label map; None: the order of the head.

    Raises:
        RecipeError: a value is out of range.
    """

    head: str = "det"
    min_score: float = 0.3
    timeout_s: float = 0.18
    rate: float | None = None
    labels: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if not self.timeout_s > 0:
            raise RecipeError(f"timeout_s must be above 0, got {self.timeout_s}")


@dataclass(slots=True)
class BridgeReport:
    """What happened to requests.

    Args:
        answered: with the server's objects, which may be none.
        failed: answered without objects: too late, unreachable, or refused.
        received_bytes: of images from Frigate.
        sent_bytes: of packets to the server.
    """

    answered: int = 0
    failed: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


class FrigateBridge:
    """Detects objects in Frigate's images by a far server.

    Args:
        url: of the splitreg server.
        encoder: the edge half.
        token: the server's token; None: the variable SPLITREG_TOKEN, if set.
        options: head, time limit and more.

    Raises:
        RecipeError: an invalid URL, token or option.
    """

    def __init__(
        self, url: str, encoder: EdgeHalf, *, token: str | None = None, options: FrigateOptions | None = None
    ) -> None:
        self.options = options or FrigateOptions()
        limits = ClientOptions(
            min_score=self.options.min_score, compact=True, deadline_s=self.options.timeout_s,
            attempt_s=self.options.timeout_s,
        )  # fmt: skip
        self.report = BridgeReport()
        self._client = Client(url, encoder, heads=[self.options.head], token=token, options=limits)
        self._lock = threading.Lock()
        self._last_error = ""

    def close(self) -> None:
        """Close the connection to the server."""
        self._client.close()

    def detect(self, image: ImageLike, received_bytes: int = 0) -> Detections | None:
        """Return the objects of an image; None if there is no answer in time.

        Args:
            image: (H, W, 3) uint8 RGB, or the bytes of an image file.
            received_bytes: of the request, for the report.
        """
        with self._lock:  # a client serves one thread
            self.report.received_bytes += received_bytes
            try:
                answer = self._client.send(image, rate=self.options.rate)
                prediction = answer.predictions[self.options.head]
                if not isinstance(prediction, Detections):
                    raise RecipeError(
                        f"head {self.options.head!r} has no boxes; it returns {type(prediction).__name__}"
                    )
            except SplitregError as error:
                self.report.failed += 1
                self._complain(str(error))
                return None
            self.report.answered += 1
            self.report.sent_bytes += answer.packet_bytes
            self._last_error = ""
        return prediction.above(self.options.min_score)

    def rows(self, detections: Detections | None, size: tuple[int, int]) -> NDArray[np.float32]:
        """Return the (20, 6) array of Frigate: class, score, y0, x0, y1, x1 as shares of ``size``."""
        rows = np.zeros((ROWS, COLUMNS), np.float32)
        if detections is None:
            return rows
        height, width = size
        indexes = self._indexes(detections)
        known = [i for i in range(len(detections.scores)) if int(detections.labels[i]) in indexes]
        for row, i in zip(rows, known[:ROWS], strict=False):
            x0, y0, x1, y1 = detections.boxes[i]
            place = y0 / height, x0 / width, y1 / height, x1 / width
            row[:] = indexes[int(detections.labels[i])], detections.scores[i], *place
        return rows

    def _indexes(self, detections: Detections) -> dict[int, int]:
        """Return the head's class -> Frigate's."""
        if self.options.labels is None:
            return {i: i for i in range(len(detections.names))}
        names = [name.lower() for name in self.options.labels]
        pairs = ((i, name.lower()) for i, name in enumerate(detections.names))
        return {i: names.index(name) for i, name in pairs if name in names}

    def _complain(self, message: str) -> None:
        """Print an error, once until another one occurs."""
        if message != self._last_error:
            self._last_error = message
            sys.stderr.write(f"no objects: {message}\n")


def read_tensor(header: Mapping[str, Any], data: bytes) -> NDArray[np.uint8]:
    """Return the image of a request: (1, H, W, 3) or (1, 3, H, W), uint8 or float32 of 0 to 1 or 255.

    Raises:
        BadRequest: another shape or type, or the bytes do not fit.
    """
    shape, dtype = header.get("shape"), header.get("dtype")
    if dtype not in ("uint8", "float32") or not isinstance(shape, list):
        raise BadRequest(
            f"dtype must be uint8 or float32, and shape a list; got {str(dtype)[:40]!r}, {str(shape)[:80]}"
        )
    if not all(isinstance(n, int) and 1 <= n <= MAX_SIDE for n in shape) or len(shape) not in (3, 4):
        raise BadRequest(f"shape must be [1, height, width, 3] or [1, 3, height, width], got {str(shape)[:80]}")
    sizes = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
    if len(sizes) != 3 or 3 not in (sizes[0], sizes[2]):
        raise BadRequest(f"shape must be [1, height, width, 3] or [1, 3, height, width], got {shape}")
    if len(data) != int(np.prod(sizes)) * np.dtype(dtype).itemsize:
        raise BadRequest(f"{len(data)} bytes are not an array of {shape} {dtype}")
    array = np.frombuffer(data, dtype).reshape(sizes)
    if sizes[2] != 3:
        array = array.transpose(1, 2, 0)
    if dtype == "float32":
        factor = 255 if float(array.max(initial=0)) <= 1 else 1
        array = np.clip(np.nan_to_num(array * factor), 0, 255).round().astype(np.uint8)
    return np.ascontiguousarray(array)


def serve_zmq(bridge: FrigateBridge, endpoint: str, stop: threading.Event | None = None) -> None:
    """Answer Frigate's detector ``zmq`` until stopped.

    Args:
        bridge: detects.
        endpoint: e.g. ``ipc:///tmp/cache/zmq_detector`` or ``tcp://127.0.0.1:5555``.
        stop: ends the loop within a fifth of a second.

    Raises:
        MissingExtra: pyzmq is not installed.
        RecipeError: the endpoint cannot be used.
    """
    try:
        import zmq
    except ModuleNotFoundError as cause:
        raise MissingExtra("Frigate's zmq detector needs pyzmq; pip install 'splitreg[frigate]'") from cause
    stop = stop or threading.Event()
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_BODY)
        socket.setsockopt(zmq.RCVTIMEO, 200)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as cause:
            raise RecipeError(f"cannot listen on {endpoint}: {cause}") from cause
        while not stop.is_set():
            with contextlib.suppress(zmq.Again):
                frames = socket.recv_multipart()
                socket.send(_reply(bridge, frames).tobytes())


def _reply(bridge: FrigateBridge, frames: Sequence[bytes]) -> NDArray[np.float32]:
    try:
        if len(frames) != 2:
            raise BadRequest(f"a request must have two frames, header and array; got {len(frames)}")
        header = parse_json(frames[0])
        image = read_tensor(header if isinstance(header, dict) else {}, frames[1])
    except (ValueError, SplitregError) as error:
        bridge.report.failed += 1
        sys.stderr.write(f"a request is not Frigate's: {error}\n")
        return np.zeros((ROWS, COLUMNS), np.float32)
    return bridge.rows(bridge.detect(image, len(frames[1])), (image.shape[0], image.shape[1]))


@contextlib.contextmanager
def deepstack_server(bridge: FrigateBridge, host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Answer Frigate's detector ``deepstack`` while the context is open; yields the port.

    Raises:
        RecipeError: the address cannot be used.
    """
    try:
        server = http.server.ThreadingHTTPServer((host, port), _handler(bridge))
    except OSError as cause:
        raise RecipeError(f"cannot listen on {host}:{port}: {cause.strerror or cause}") from cause
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _handler(bridge: FrigateBridge) -> type[http.server.BaseHTTPRequestHandler]:
    class _Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def do_POST(self) -> None:
            """Detect the objects of the image in a form."""
            length = self.headers.get("Content-Length", "")
            if self.path.split("?")[0] != DETECTION:
                return self._answer(404, {"success": False, "error": f"the only path is {DETECTION}"})
            if not (length.isascii() and length.isdigit() and int(length) <= MAX_BODY):
                self.close_connection = True
                return self._answer(413, {"success": False, "error": f"the body must have at most {MAX_BODY} bytes"})
            body = self.rfile.read(int(length))
            try:
                image = read_form(self.headers.get("Content-Type", ""), body)
                detections = bridge.detect(image, len(body))
            except (BadRequest, ImageError) as error:
                return self._answer(400, {"success": False, "error": str(error)})
            return self._answer(
                200, {"success": True, "predictions": [] if detections is None else _objects(detections)}
            )

        def _answer(self, status: int, fields: Mapping[str, Any]) -> None:
            data = json.dumps(fields).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing for each request."""

    return _Handler


def _objects(detections: Detections) -> list[dict[str, Any]]:
    return [
        {
            "label": detections.names[int(label)], "confidence": float(score),
            "x_min": int(x0), "y_min": int(y0), "x_max": int(np.ceil(x1)), "y_max": int(np.ceil(y1)),
        }
        for (x0, y0, x1, y1), score, label in zip(detections.boxes, detections.scores, detections.labels, strict=True)
    ]  # fmt: skip


def read_form(content_type: str, body: bytes) -> bytes:
    """Return the field ``image`` of a multipart form.

    Raises:
        BadRequest: there is none.
    """
    head = f"Content-Type: {content_type}\r\nMIME-Version: 1.0\r\n\r\n".encode("latin-1", "replace")
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    for part in message.iter_parts() if message.is_multipart() else ():
        if part.get_param("name", header="content-disposition") == "image":
            data = part.get_payload(decode=True)
            if isinstance(data, bytes) and data:
                return data
    raise BadRequest("the body must be a multipart form with an image file in the field 'image'")


def read_labels(path: Path) -> list[str]:
    """Return the names of a label map: each line is a name, or each line is an index and a name.

    Raises:
        RecipeError: the file cannot be read, or an index is there twice or too large.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as cause:
        raise RecipeError(f"cannot read the label map {path}: {cause}") from cause
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    rows = [re.fullmatch(r"([0-9]+)[\s:,]+(.+)", line) for line in lines]
    if not all(rows):  # "3 wheeler" among names without indexes is a name
        return lines
    names: dict[int, str] = {}
    for row in filter(None, rows):
        if len(row[1]) > len(str(MAX_LABELS)) or int(row[1]) >= MAX_LABELS or int(row[1]) in names:
            raise RecipeError(
                f"the label map {path} has the index {row[1][:20]} twice, or it is not below {MAX_LABELS}: {row[0][:60]!r}"
            )
        names[int(row[1])] = row[2]
    return [names.get(index, "") for index in range(max(names, default=-1) + 1)]


#: Protocol -> what its default address is.
PROTOCOLS: Mapping[str, str] = {"zmq": "ipc:///tmp/cache/zmq_detector", "deepstack": "127.0.0.1:5000"}


def run(bridge: FrigateBridge, protocol: str, address: str, on_ready: Callable[[str], None]) -> None:
    """Serve a protocol until Ctrl-C.

    Raises:
        RecipeError: the address cannot be used.
        MissingExtra: pyzmq is not installed.
    """
    try:
        if protocol == "zmq":
            on_ready(address)
            serve_zmq(bridge, address)
        else:
            host, _, port = address.rpartition(":")
            if not port.isdigit():
                raise RecipeError(f"the address must be HOST:PORT, got {address!r}")
            with deepstack_server(bridge, host or "127.0.0.1", int(port)) as used:
                on_ready(f"http://{host or '127.0.0.1'}:{used}{DETECTION}")
                threading.Event().wait()
    finally:
        bridge.close()
