"""A bad link for tests: a loopback TCP proxy with a bandwidth, a delay, jitter, losses and outages, all seeded.

::

    with Link(("127.0.0.1", 8000), PRESETS["4g"], seed=1) as link:
        client = Client(link.url, ...)
        link.down()   # silence: nothing arrives, nobody is told
        link.up()

All connections share the two lanes, as devices behind one modem do. A lost segment arrives late, as TCP's repetition makes
it; nothing is ever missing or out of order. A connection's first byte waits for the handshake's round trip. TCP's slow
start is not emulated, so that long transfers look better here than they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

#: Bytes that travel together, TCP's over Ethernet.
SEGMENT_BYTES = 1460
#: TCP repeats what was not acknowledged after at least so many seconds (Linux' TCP_RTO_MIN), twice as many each time.
_REPEAT_S = 0.2
_REPEATS = 6
#: Segments of a connection that are under way in a direction; beyond that the sender waits.
_UNDER_WAY = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a link is like.

    Args:
        up_bps: bits a second from client to server.
        down_bps: bits a second from server to client.
        delay_s: seconds that a bit travels, one way.
        jitter_s: mean of the further seconds of a segment (exponentially distributed).
        loss: probability that a segment must be repeated.
        outages: (start, length) in seconds since the link began, in which nothing arrives.
    """

    up_bps: float
    down_bps: float
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    outages: Sequence[tuple[float, float]] = ()

    def __post_init__(self) -> None:
        if not (self.up_bps > 0 and self.down_bps > 0):
            raise ValueError("a link carries more than 0 bits a second")
        if not (self.delay_s >= 0 and self.jitter_s >= 0 and 0 <= self.loss < 1):
            raise ValueError("delay and jitter are seconds from 0, a loss is a probability below 1")


#: 37.5 kbps and 54 Mbps are the rates of the split-computing papers; the other figures are usual ones, not measured here.
PRESETS: Mapping[str, Profile] = {
    "lora": Profile(up_bps=37_500, down_bps=37_500, delay_s=0.02, jitter_s=0.005, loss=0.01),
    "lte-m": Profile(up_bps=375_000, down_bps=300_000, delay_s=0.05, jitter_s=0.015, loss=0.005),
    "4g": Profile(up_bps=10e6, down_bps=30e6, delay_s=0.025, jitter_s=0.005, loss=0.002),
    "wifi": Profile(up_bps=54e6, down_bps=54e6, delay_s=0.0015, jitter_s=0.0005, loss=0.001),
}


class Lane:
    """One direction as arithmetic, without clock or socket: when does a segment that is sent now arrive?

    Args:
        bps: bits a second.
        profile: delay, jitter and loss.
        seed: of what is random.
    """

    def __init__(self, bps: float, profile: Profile, seed: int) -> None:
        self.bps = bps
        self.profile = profile
        self.free_s = 0.0
        self.repeated = 0
        self._random = random.Random(seed)

    def arrival(self, now_s: float, size: int) -> float:
        """Return when ``size`` bytes that are ready at ``now_s`` have arrived, and occupy the lane until they are sent."""
        sending = size * 8 / self.bps
        self.free_s = max(now_s, self.free_s) + sending
        arrived = self.free_s + self.profile.delay_s
        if self.profile.jitter_s:
            arrived += self._random.expovariate(1 / self.profile.jitter_s)
        wait = max(_REPEAT_S, 4 * self.profile.delay_s)
        for _ in range(_REPEATS):
            if self._random.random() >= self.profile.loss:
                break
            self.repeated += 1
            self.free_s += sending
            arrived += wait + sending
            wait *= 2
        return arrived


@dataclass(slots=True)
class Counts:
    """What has passed: ``up`` and ``down`` in bytes (arrived), ``connections``, ``repeated`` segments."""

    up: int = 0
    down: int = 0
    connections: int = 0
    repeated: int = 0


@dataclass(eq=False)
class _Connection:
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    dead: bool = False


class Link:
    """A proxy on a loopback port, in a thread of its own; a context manager.

    Args:
        target: (host, port) of the server.
        profile: what the link is like.
        seed: of its randomness; the n-th segment of a direction fares alike in every run.
    """

    def __init__(self, target: tuple[str, int], profile: Profile, *, seed: int = 0) -> None:
        self.target = target
        self.profile = profile
        self.port = 0
        self.counts = Counts()
        self._lanes = (Lane(profile.up_bps, profile, 2 * seed), Lane(profile.down_bps, profile, 2 * seed + 1))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._ready = threading.Event()
        self._connections: set[_Connection] = set()
        self._passing = asyncio.Event()  # cleared during an outage
        self._refusing = False
        self._stopped = asyncio.Event()

    @property
    def url(self) -> str:
        """Where the server seems to be."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exception: object) -> None:
        self._call(self._stopped.set)
        self._thread.join()

    def down(self, *, refuse: bool = False) -> None:
        """Begin an outage: nothing arrives until ``up``.

        Args:
            refuse: reset all connections, and those that come; otherwise there is only silence, and what was sent in it
                arrives afterwards.
        """
        self._call(self._down, refuse)

    def up(self) -> None:
        """End the outage."""
        self._call(self._up)

    def half_open(self) -> None:
        """Let the connections of now be silent for ever, without telling either end; new ones work."""
        self._call(self._each, _kill)

    def reset(self) -> None:
        """Break the connections of now; new ones work."""
        self._call(self._each, _abort)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        done = threading.Event()

        def run() -> None:
            function(*arguments)
            done.set()

        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(run)
            done.wait()

    def _down(self, refuse: bool) -> None:
        self._refusing = refuse
        self._passing.clear()
        if refuse:
            self._each(_abort)

    def _up(self) -> None:
        self._refusing = False
        self._passing.set()

    def _each(self, function: Callable[[_Connection], None]) -> None:
        for connection in list(self._connections):
            function(connection)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main())
        self._loop.close()

    async def _main(self) -> None:
        self._passing.set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        outages = [asyncio.create_task(self._outage(*when)) for when in self.profile.outages]
        self._ready.set()
        await self._stopped.wait()
        server.close()
        self._each(_abort)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*outages, *others, return_exceptions=True)

    async def _outage(self, start_s: float, length_s: float) -> None:
        await asyncio.sleep(start_s)
        self._down(False)
        await asyncio.sleep(length_s)
        self._up()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection([writer])
        if self._refusing:
            _abort(connection)
            return
        self.counts.connections += 1
        self._connections.add(connection)
        handshake_s = self._loop.time() + 2 * self.profile.delay_s
        ended = False
        try:
            there_reader, there_writer = await asyncio.open_connection(*self.target)
            connection.writers.append(there_writer)
            await asyncio.gather(
                self._pump(connection, reader, there_writer, 0, handshake_s),
                self._pump(connection, there_reader, writer, 1, 0.0),
            )
            ended = True
        except (OSError, asyncio.CancelledError):
            pass  # the server is away, either end broke the connection, or the link is taken away
        finally:
            self._connections.discard(connection)
            if not ended:
                _abort(connection)
            for one in connection.writers:
                one.close()

    async def _pump(
        self,
        connection: _Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        way: int,
        begin_s: float,
    ) -> None:
        """Read at once, deliver when it has arrived; an end of the stream travels like a byte."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDER_WAY)
        delivery = asyncio.create_task(self._deliver(connection, queue, writer, way))
        try:
            last_s, data = begin_s, b"?"
            while data:
                data = await reader.read(SEGMENT_BYTES)
                if not delivery.done():
                    now_s = max(self._loop.time(), begin_s)
                    last_s = max(last_s, self._lanes[way].arrival(now_s, len(data) or 1))  # in order
                    self.counts.repeated = sum(lane.repeated for lane in self._lanes)
                    await queue.put((last_s, data))
            await delivery
        finally:
            delivery.cancel()

    async def _deliver(
        self, connection: _Connection, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, way: int
    ) -> None:
        while True:
            arrives_s, data = await queue.get()
            await asyncio.sleep(arrives_s - self._loop.time())
            await self._passing.wait()
            if connection.dead:
                await asyncio.Event().wait()  # until the link is taken away
            if not data:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            writer.write(data)
            try:
                await writer.drain()
            except OSError:
                _abort(connection)  # the other end shall see it too
                return
            if way == 0:
                self.counts.up += len(data)
            else:
                self.counts.down += len(data)


def _abort(connection: _Connection) -> None:
    for writer in connection.writers:
        end = writer.get_extra_info("socket")
        if end is not None and end.fileno() >= 0:  # a close that the other end sees as a reset
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


def _kill(connection: _Connection) -> None:
    connection.dead = True
