"""Cameras and recordings over HTTP on loopback: MJPEG as cameras send it, and files."""

import functools
import http.server
import io
import threading
import time

import av
import numpy as np
from PIL import Image


def picture(value, size=(48, 64)):
    """Return an (H, W, 3) image of one grey value."""
    return np.full((*size, 3), value, np.uint8)


def jpeg(value):
    data = io.BytesIO()
    Image.fromarray(picture(value)).save(data, "JPEG")
    return data.getvalue()


def write_video(path, count=10, *, rate=10, codec="libx264", values=lambda i: 20 * i, **options):
    """Write a video whose frame i has the grey value ``values(i)``; the format follows the name."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width, stream.height = 64, 48
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.gop_size = 5
        for i in range(count):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(values(i)), format="rgb24")))
        container.mux(stream.encode())
    return path


class HttpCamera:
    """A server with the files of a folder and ``/mjpeg``: 20 frames per second, for ``frames`` frames per connection."""

    def __init__(self, folder, frames=10**9, port=0):
        self.connections = 0
        handler = functools.partial(_Handler, directory=str(folder))
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads, self._server.camera = True, self
        self.frames, self.closing = frames, threading.Event()
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, path="mjpeg"):
        return f"http://127.0.0.1:{self.port}/{path}"


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        if self.path != "/mjpeg":
            return super().do_GET()
        camera = self.server.camera
        camera.connections += 1
        self.send_response(200)
        self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
        self.end_headers()
        for i in range(camera.frames):
            if camera.closing.wait(0.05):
                return None
            data = jpeg(i % 200)
            try:
                self.wfile.write(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data))
                self.wfile.write(data + b"\r\n")
            except OSError:
                return None
        return None


def until(condition, seconds=20.0):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)
