"""A server in a thread of the test process, with a stub backend, and clients for it."""

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from splitreg.coding import Packet
from splitreg.errors import WorkerLost
from splitreg.serving.batch_queue import BatchQueue
from splitreg.serving.config import ServeConfig
from splitreg.serving.run import listen, make_server
from splitreg.serving.service import Service
from splitreg.wire import protocol

MODEL = 0x1234ABCD


def packet(payload=b"abc", model=MODEL, original=(48, 64), others=()):
    streams = (payload,) * (1 + len(others))
    return Packet(model_id=model, original=original, coded=(32, 32), streams=streams, others=others).to_bytes()


def make_bundle(folder, channels=6, heads=("cls", "seg", "depth", "det")):
    import splitreg
    from splitreg.assembly import save

    labels = {"cls": 3, "seg": 4, "det": 2}
    model = splitreg.build(
        backbone="test_resnet",
        bottleneck={"name": "fp", "channels": channels, "hidden": 8, "from": "image"},
        codec="rans",
        heads=[{"name": name, **({"labels": labels[name]} if name in labels else {})} for name in heads],
        input={"size": [64, 96]},
    )
    return save(model, folder, overwrite=True)


def images(count, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (40 + 9 * i, 60, 3), np.uint8) for i in range(count)]


class StubBackend:
    """A backend without processes: the answer of a head is the length of the packet.

    A batch takes ``delay`` seconds, and waits until ``gate`` (a ``threading.Event``) is set. If ``dense``,
    answers have a byte per pixel of a mask.
    """

    delay = 0.0
    gate = None
    broken = False
    padding = 0
    dense = False

    def __init__(self, config, metrics):
        self.config, self.queue, self.batches = config, BatchQueue(config, metrics), []
        self.models, self.ready, self._tasks = {}, False, []

    def describe(self):
        return {f"{MODEL:08x}": {"id": f"{MODEL:08x}", "name": "stub", "heads": self.heads()}}

    def heads(self):
        return {"cls": {}, "seg": {"task": "segmentation"} if type(self).dense else {}}

    async def start(self):
        await self.reload()
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self.config.workers)]
        self.ready = True

    def submit(self, job):
        self.queue.submit(job)

    def cancel(self, job):
        self.queue.cancel(job)

    async def reload(self):
        self.models = self.describe()

    async def drain(self):
        while self.queue.busy:
            await asyncio.sleep(0.002)

    async def close(self):
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self):
        while True:
            batch = await self.queue.take()
            self.batches.append(batch)
            await asyncio.sleep(type(self).delay)
            while self.gate is not None and not self.gate.is_set():
                await asyncio.sleep(0.002)
            answers = [self._answer(job) for job in batch]
            self.queue.complete(batch, answers, elapsed_seconds=max(type(self).delay, 1e-6))

    def _answer(self, job):
        if type(self).broken:
            return WorkerLost("broken")
        images = [{head: {"bytes": len(job.packets[0])} for head in job.heads} for _ in range(job.images)]
        mask = min(job.pixels, self.config.max_mask_pixels) if type(self).dense and "seg" in job.heads else 0
        return json.dumps(images).encode() + b" " * (type(self).padding + mask)


def stub(**attributes):
    """A class of stub backends of its own, so that a test may change its attributes."""
    return type("OwnStub", (StubBackend,), attributes)


def gated():
    """A class of stub backends that compute nothing before the event is set, and the event."""
    gate = threading.Event()
    return stub(gate=gate), gate


@dataclass
class Running:
    service: Service
    port: int
    loop: asyncio.AbstractEventLoop
    tls: object = None
    token: str | None = None
    _more: dict = field(default_factory=dict)

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    @property
    def backend(self):
        return self.service.backend

    @property
    def idle(self):
        """Whether no request holds memory."""
        return self.service.request_bytes.total == 0

    def connection(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def socket(self, timeout=20):
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def ask(self, method="POST", path=protocol.INFER, body=None, headers=(), connection=None, kind=protocol.PACKET):
        """Send a request; return status, headers and body (parsed if it is JSON)."""
        own_headers = {"Content-Type": kind} if body is not None else {}
        if self.token:
            own_headers["Authorization"] = f"Bearer {self.token}"
        own = connection or self.connection()
        try:
            own.request(method, path, body, {**own_headers, **dict(headers)})
            answer = own.getresponse()
            data = answer.read()
        finally:
            if connection is None:
                own.close()
        is_json = answer.headers.get_content_type() == protocol.JSON
        return answer.status, answer.headers, json.loads(data) if is_json and data else data

    def refused(self, status, error, /, **request):
        """Send a request that must be refused with this status and error; return the error and the headers."""
        actual, headers, body = self.ask(**request)
        assert (actual, body["error"]["type"]) == (status, error), body
        return body["error"], headers

    def stream(self, query="", **more):
        from websockets.sync.client import connect

        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers |= more.pop("headers", {})
        url = f"ws://127.0.0.1:{self.port}{protocol.STREAM}{query}"
        return connect(url, additional_headers=headers, compression=None, max_size=None, close_timeout=1, **more)


@contextlib.contextmanager
def running(create_backend=StubBackend, token=None, **limits):
    """Serve from a thread of this process."""
    config = ServeConfig(**{"bundles": ("b",), "port": 0, "max_requests_per_s": 0.0, "threads": 1,
                            "tokens": (token,) if token else (), **limits})  # fmt: skip
    listener = listen(config)
    started, box = threading.Event(), {}

    async def main():
        box["stop"], box["loop"] = asyncio.Event(), asyncio.get_running_loop()
        service = box["service"] = Service(config, create_backend)
        server = make_server(service, listener)
        service.app = server.app
        server.start()
        try:
            await service.start()
            started.set()
            await box["stop"].wait()
        except BaseException as error:
            box["error"] = error
            started.set()
        await server.close(0)
        await service.stop()

    port = listener.getsockname()[1]
    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(240)
    if "error" in box:
        thread.join(20)
        raise box["error"]
    try:
        yield Running(box["service"], port, box["loop"], token=token)
    finally:
        box["loop"].call_soon_threadsafe(box["stop"].set)
        thread.join(60)
        assert not thread.is_alive()


def until(condition, seconds=40):
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not met in time"
        time.sleep(0.01)


def children(pid):
    """Process ids of a process's children."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(number) for number in file.read().split()]
