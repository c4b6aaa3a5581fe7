"""``LivePage``: a small web server on this machine that shows the newest drawn frame and its figures."""

from __future__ import annotations

import io
import json
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import SplitregError
from splitreg.live.view import LiveFigures

#: Figures that the page draws.
_HISTORY = 300
#: Browsers at the same time.
_MAX_VIEWERS = 8
_READ_TIMEOUT_S, _FRAME_TIMEOUT_S = 10, 10
_BOUNDARY = "splitreg-frame"
_LOCAL = ("localhost", "127.0.0.1", "[::1]")


class LivePage:
    """Serves ``/`` (the page), ``/live.mjpeg`` (the frames) and ``/figures`` (JSON); a context manager.

    Only this machine can connect by default. Without a browser no frame is compressed.

    Args:
        port: of the server; 0 chooses a free one.
        host: address to listen on.

    Raises:
        SplitregError: the port is in use, or the address is not one of this machine.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._changed, self._compressing = threading.Condition(), threading.Lock()
        self._frame: NDArray[np.uint8] | None = None
        self._number = 0
        self._jpeg: tuple[int, bytes] = (0, b"")
        self._history: deque[LiveFigures] = deque(maxlen=_HISTORY)
        self._closed = False
        self._viewers = threading.Semaphore(_MAX_VIEWERS)
        handler = type("Handler", (_Handler,), {"page": self})
        try:
            self._server = ThreadingHTTPServer((host, port), handler)
        except (OSError, OverflowError) as cause:
            raise SplitregError(f"cannot serve the page on {host}:{port}: {cause}") from cause
        self._server.daemon_threads = True
        self.host = host
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def show(self, image: NDArray[np.uint8], figures: LiveFigures) -> None:
        """Replace the frame, an (H, W, 3) uint8 drawing."""
        with self._changed:
            self._frame, self._number = image, self._number + 1
            self._history.append(figures)
            self._changed.notify_all()

    def figures(self) -> list[dict[str, Any]]:
        """Return the figures of the last frames, oldest first."""
        with self._changed:
            return [each.to_json() for each in self._history]

    def jpeg_after(self, number: int) -> tuple[int, bytes] | None:
        """Wait for a frame after ``number``, and return its number and JPEG; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._number > number, timeout=_FRAME_TIMEOUT_S)
            if self._closed:
                return None
            frame, newest = self._frame, self._number
        if frame is None:
            return number, b""
        with self._compressing:  # not the other lock: showing the next frame must not wait
            if self._jpeg[0] < newest:
                from PIL import Image

                data = io.BytesIO()
                Image.fromarray(frame).save(data, "JPEG", quality=80)
                self._jpeg = newest, data.getvalue()
            return self._jpeg

    def viewer(self) -> threading.Semaphore:
        """Return the semaphore of viewers."""
        return self._viewers

    def close(self) -> None:
        """Stop the server."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    page: LivePage
    timeout = _READ_TIMEOUT_S
    server_version = "splitreg"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one request."""
        host = self.headers.get("Host", "")
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.page.host in ("127.0.0.1", "localhost", "::1") and name not in _LOCAL:
            self.send_error(403, "unknown host")  # a page of another site may have renamed this address
        elif self.path == "/":
            content = Path(__file__).with_name("page.html").read_bytes()
            self._answer("text/html; charset=utf-8", content)
        elif self.path == "/figures":
            self._answer("application/json", json.dumps(self.page.figures()).encode())
        elif self.path == "/live.mjpeg":
            self._frames()
        else:
            self.send_error(404)

    def _answer(self, kind: str, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        policy = "default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
        self.send_header("Content-Security-Policy", policy)
        self.end_headers()
        self.wfile.write(content)

    def _frames(self) -> None:
        if not self.page.viewer().acquire(blocking=False):
            self.send_error(503, f"{_MAX_VIEWERS} browsers are connected")
            return
        try:
            self.send_response(200)
            self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={_BOUNDARY}")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            number = 0
            while (frame := self.page.jpeg_after(number)) is not None:
                if frame[0] == number:
                    continue
                number, data = frame
                head = f"--{_BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
        except OSError:
            pass  # the browser has left
        finally:
            self.page.viewer().release()
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""
