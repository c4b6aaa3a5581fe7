"""A server in a thread of the test's process, with workers that only pretend, and what speaks to it."""

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
from splitreg.serving.config import ServeConfig
from splitreg.serving.pool import Fleet
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


def pictures(count, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (40 + 9 * i, 60, 3), np.uint8) for i in range(count)]


class StubFleet(Fleet):
    """A fleet without processes: an answer is its packet's length; ``delay`` seconds a batch."""

    delay = 0.0
    broken = False
    bulk = 0

    def __init__(self, config, metrics, on_lost):
        super().__init__(config, metrics, on_lost)
        self.batches = []

    async def start(self):
        name = {"name": "stub", "heads": {"cls": {}, "seg": {}}}
        self.models = {f"{MODEL:08x}": {"id": f"{MODEL:08x}", **name}}
        self._tasks = [asyncio.create_task(self._pretend()) for _ in range(self._config.workers)]
        self.ready, self.nursed = self._config.workers, False

    async def _pretend(self):
        while True:
            batch = await self.engine.take()
            self.batches.append(batch)
            if type(self).delay:
                await asyncio.sleep(type(self).delay)
            self.engine.learn(batch[0].group, sum(job.images for job in batch), max(type(self).delay, 1e-6))
            for job in batch:
                if type(self).broken:
                    self.engine.fail(job, WorkerLost("broken"))
                    continue
                told = [{head: {"bytes": len(job.packets[0])} for head in job.heads} for _ in range(job.images)]
                blob = json.dumps(told).encode() + b" " * type(self).bulk
                self.engine.finish(job, blob, type(self).delay)


def stub(**given):
    """A class of stub fleets of its own, so that a test may change its delay."""
    return type("OwnStub", (StubFleet,), given)


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
    def fleet(self):
        return self.service._fleet

    def connection(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def socket(self, timeout=20):
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout)

    def ask(self, method="POST", path=protocol.INFER, body=None, headers=(), connection=None, kind=protocol.PACKET):
        """Return status, headers and body (parsed where it is JSON)."""
        given = {"Content-Type": kind} if body is not None else {}
        if self.token:
            given["Authorization"] = f"Bearer {self.token}"
        own = connection or self.connection()
        try:
            own.request(method, path, body, {**given, **dict(headers)})
            answer = own.getresponse()
            data = answer.read()
        finally:
            if connection is None:
                own.close()
        is_json = answer.headers.get_content_type() == protocol.JSON
        return answer.status, answer.headers, json.loads(data) if is_json and data else data

    def refused(self, status, error, /, **request):
        """Ask, and check that it is refused like that; return the error and the headers."""
        found, headers, body = self.ask(**request)
        assert (found, body["error"]["type"]) == (status, error), body
        return body["error"], headers

    def stream(self, query="", **more):
        from websockets.sync.client import connect

        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        headers |= more.pop("headers", {})
        url = f"ws://127.0.0.1:{self.port}{protocol.STREAM}{query}"
        return connect(url, additional_headers=headers, compression=None, max_size=None, close_timeout=1, **more)


@contextlib.contextmanager
def running(make_fleet=StubFleet, token=None, **limits):
    """Serve from a thread of this process."""
    config = ServeConfig(**{"bundles": ("b",), "port": 0, "rate_per_s": 0.0, "threads": 1,
                            "tokens": (token,) if token else (), **limits})  # fmt: skip
    listener = listen(config)
    started, box = threading.Event(), {}

    async def main():
        box["stop"], box["loop"] = asyncio.Event(), asyncio.get_running_loop()
        service = box["service"] = Service(config, make_fleet)
        server = make_server(service, listener)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await service.start()
            while not server.started:
                await asyncio.sleep(0.005)
            started.set()
            await box["stop"].wait()
        except BaseException as error:
            box["error"] = error
            started.set()
        server.should_exit = True
        await serving
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
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def children(pid):
    """Processes that a process started."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(number) for number in file.read().split()]
