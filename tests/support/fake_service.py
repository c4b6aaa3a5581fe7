"""A service for tests: follows the protocol with the standard library, and fails on request."""

import gzip
import hashlib
import json
import threading
import time
from collections import Counter, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from splitreg.coding import Packet
from splitreg.edge import EdgeHalf
from splitreg.errors import OverBudget, RecipeError
from splitreg.predictions import Classification
from splitreg.wire import pack
from splitreg.wire.protocol import ANSWERS, COMPUTE_MS, IDEMPOTENCY, QUEUE_MS


def classify(packet):
    """Return the predictions of the service for a packet."""
    return {"cls": Classification(probabilities=expected_probabilities(packet), names=tuple("abcd"))}


def make_packet(stream=b"abc", model_id=7):
    """Return a packet."""
    return Packet(model_id=model_id, original=(60, 80), coded=(48, 64), streams=(stream,)).to_bytes()


def expected_probabilities(packet):
    """Return the answer of the service to a packet; every packet has another one."""
    digest = np.frombuffer(hashlib.sha256(packet).digest(), np.uint8)[:4].astype(np.float32) + 1
    return digest / digest.sum()


class FakeEncoder(EdgeHalf):
    """Encodes bytes as images; a packet has 100 to 4100 bytes of payload, depending on the rate."""

    def __init__(self):
        self.encoded = []

    def _analyse(self, pixels):
        raise NotImplementedError

    def encode(self, images, *, batch=False, rate=None, budget_bytes=None):
        if rate is not None and not 0 <= rate <= 1:
            raise RecipeError("not a rate")
        size = 100 + round(4000 * (0.5 if rate is None else rate))
        if budget_bytes is not None:
            size = min(budget_bytes - 20, 4100)
            if size < 100:
                raise OverBudget("too little")
        self.encoded.append(size)
        return [make_packet((bytes(images) * size)[:size])]


class FakeService:
    """Serves on a loopback port; a context manager.

    ``script`` has the reactions to the next requests, in order: ``(status, headers)``, ``(status, headers, body)``,
    ``"close"``, ``"late-close"`` (after computing), ``"cut"`` (half an answer), ``"hang"``, ``"trickle"``, or seconds to wait.
    """

    def __init__(self, tls=None):
        self.script, self.requests, self.computed, self.memory = deque(), [], Counter(), {}
        self.order, self.connections, self.closing, self.lock = [], 0, threading.Event(), threading.Lock()
        self.queue_ms, self.compute_ms, self.gzip = 0.0, 0.0, False
        self.predict = classify
        self.http = _Server(("127.0.0.1", 0), _Handler)
        self.http.service = self
        if tls is not None:
            self.http.socket = tls.wrap_socket(self.http.socket, server_side=True)
        self.address = self.http.server_address
        self.url = f"http{'s' * (tls is not None)}://127.0.0.1:{self.address[1]}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_):
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer is one segment

    def setup(self):
        super().setup()
        self.server.service.connections += 1

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.answer(200, {}, b"ok")

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def do_POST(self):
        service = self.server.service
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with service.lock:
            service.requests.append((self.path, dict(self.headers), body))
            what = service.script.popleft() if service.script else "ok"
        if isinstance(what, tuple):
            status, headers, *rest = what
            default = json.dumps({"error": {"type": "X", "message": f"scripted {status}"}}).encode()
            self.answer(status, headers, rest[0] if rest else default)
            return
        if what == "close":
            self.close_connection = True
            return
        if what == "hang":
            service.closing.wait()
            return
        if isinstance(what, float):
            time.sleep(what)
        key = self.headers[IDEMPOTENCY]
        with service.lock:
            if key not in service.memory:
                service.computed[key] += 1
                service.order.append(body)
                service.memory[key] = pack([service.predict(body)])
            blob = service.memory[key]
        if what == "late-close":
            self.close_connection = True
            return
        if what in ("cut", "trickle"):
            self.send_response(200)
            self.send_header("Content-Length", str(len(blob)))
            self.end_headers()
            self.wfile.write(blob[: len(blob) // 2])
            self.wfile.flush()
            while what == "trickle" and not service.closing.wait(0.05):
                self.wfile.write(b" ")
                self.wfile.flush()
            self.close_connection = True
            return
        headers = {"Content-Type": ANSWERS, QUEUE_MS: str(service.queue_ms), COMPUTE_MS: str(service.compute_ms)}
        if service.gzip and "gzip" in self.headers["Accept-Encoding"]:
            headers, blob = {**headers, "Content-Encoding": "gzip"}, gzip.compress(blob)
        self.answer(200, headers, blob)
