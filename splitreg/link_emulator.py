"""Emulates a slow link: a loopback TCP proxy with bandwidth, delay, jitter, losses and outages.

::

    with Link(("127.0.0.1", 8000), PRESETS["4g"], seed=1) as link:
        client = Client(link.url, ...)
        link.down()   # outage: nothing arrives
        link.up()

All connections share the bandwidth, like devices behind one modem. A lost segment arrives late, as
after a retransmission of TCP; no data is missing or reordered. The first byte of a connection waits for
the round trip of the handshake. The slow start of TCP is not emulated, so that long transfers are
faster than on a real link.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import itertools
import math
import random
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

#: Bytes per segment, those of TCP over Ethernet.
SEGMENT_BYTES = 1460
#: Bytes that may arrive at a time of a trace.
OPPORTUNITY_BYTES = 1500
#: Seconds until TCP's first retransmission (TCP_RTO_MIN of Linux); they double each time.
_RETRANSMIT_S = 0.2
_MAX_RETRANSMITS = 6
#: Largest number of segments in flight per connection and direction; then the sender waits.
_MAX_IN_FLIGHT = 256


class LinkTrace:
    """Recorded times at which a link could deliver 1,500 bytes; the recording repeats.

    The format is that of Mahimahi (Netravali et al., USENIX ATC 2015): one line per opportunity, in
    milliseconds from the start, in order; a number that repeats stands for several in that millisecond.

    Args:
        times_ms: at least one, the last above 0.

    Raises:
        ValueError: the times are not in order, or there are none.
    """

    def __init__(self, times_ms: Sequence[int]) -> None:
        self.times_ms = tuple(times_ms)
        if not self.times_ms or self.times_ms[-1] <= 0 or self.times_ms[0] < 0:
            raise ValueError("a trace needs times from 0, the last above 0")
        if any(later < earlier for earlier, later in itertools.pairwise(self.times_ms)):
            raise ValueError("the times of a trace must be in order")

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a file with one number per line.

        Raises:
            ValueError: it is not a trace.
        """
        lines = Path(path).read_text(encoding="ascii", errors="replace").split()
        if not all(line.isdecimal() for line in lines):
            raise ValueError(f"{path} is not a trace: a line is not a whole number of milliseconds")
        try:
            return cls([int(line) for line in lines])
        except ValueError as cause:
            raise ValueError(f"{path} is not a trace: {cause}") from cause

    def opportunity(self, number: int) -> float:
        """Return the time of an opportunity in seconds, counted over all repetitions."""
        rounds, index = divmod(number, len(self.times_ms))
        return (rounds * self.times_ms[-1] + self.times_ms[index]) / 1000

    @property
    def bps(self) -> float:
        """Mean bits per second."""
        return 8000 * OPPORTUNITY_BYTES * len(self.times_ms) / self.times_ms[-1]

    def transfer_s(self, size: float, start_s: float) -> float:
        """Return the seconds until ``size`` bytes are delivered that are sent at ``start_s``."""
        last = self.first_after(start_s) + max(1, math.ceil(size / OPPORTUNITY_BYTES)) - 1
        return self.opportunity(last) - start_s

    def typical_s(self, size: float, quantile: float = 0.5, starts: int = 200) -> float:
        """Return a quantile of the seconds for ``size`` bytes over evenly spaced starts."""
        offsets = (self.times_ms[-1] / 1000 * start / starts for start in range(starts))
        times = sorted(self.transfer_s(size, offset) for offset in offsets)
        return times[round(quantile * (starts - 1))]

    def first_after(self, time_s: float) -> int:
        """Return the number of the first opportunity at or after a time."""
        rounds, rest = divmod(time_s * 1000, self.times_ms[-1])
        return int(rounds) * len(self.times_ms) + bisect.bisect_left(self.times_ms, rest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Properties of a link.

    Args:
        up_bps: bits per second from client to server.
        down_bps: bits per second from server to client.
        delay_s: seconds of delay, one way.
        jitter_s: mean of the additional delay per segment, in seconds (exponentially distributed).
        loss: probability that a segment is lost and retransmitted.
        outages: (start, length) in seconds since the start of the link, in which nothing arrives.
        up_trace: takes the place of ``up_bps``.
        down_trace: takes the place of ``down_bps``.
    """

    up_bps: float
    down_bps: float
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    outages: Sequence[tuple[float, float]] = ()
    up_trace: LinkTrace | None = None
    down_trace: LinkTrace | None = None

    def __post_init__(self) -> None:
        if not (self.up_bps > 0 and self.down_bps > 0):
            raise ValueError(f"up_bps and down_bps must be above 0, got {self.up_bps} and {self.down_bps}")
        if not (self.delay_s >= 0 and self.jitter_s >= 0 and 0 <= self.loss < 1):
            raise ValueError(
                f"delay_s and jitter_s must be 0 or more, and loss 0 or more and below 1; got {self.delay_s}, "
                f"{self.jitter_s}, {self.loss}"
            )


#: 37.5 kbit/s and 54 Mbit/s are from papers on split computing; the other values are typical ones.
PRESETS: Mapping[str, Profile] = {
    "lora": Profile(up_bps=37_500, down_bps=37_500, delay_s=0.02, jitter_s=0.005, loss=0.01),
    "lte-m": Profile(up_bps=375_000, down_bps=300_000, delay_s=0.05, jitter_s=0.015, loss=0.005),
    "4g": Profile(up_bps=10e6, down_bps=30e6, delay_s=0.025, jitter_s=0.005, loss=0.002),
    "wifi": Profile(up_bps=54e6, down_bps=54e6, delay_s=0.0015, jitter_s=0.0005, loss=0.001),
}


class Lane:
    """One direction of a link as arithmetic, without clock or socket.

    Args:
        bps: bits per second.
        profile: delay, jitter and loss.
        seed: of the random numbers.
        trace: when the lane can deliver; None: at ``bps``.

    Attributes:
        free_s: time at which the lane is free.
        retransmits: number of retransmitted segments.
    """

    def __init__(self, bps: float, profile: Profile, seed: int, trace: LinkTrace | None = None) -> None:
        self.bps, self.trace = bps, trace
        self.profile = profile
        self.free_s = 0.0
        self.retransmits = 0
        self._random = random.Random(seed)
        self._opportunity, self._room = -1, 0  # of the trace, and the bytes that are left of it

    def arrival(self, now_s: float, size: int) -> float:
        """Send ``size`` bytes at ``now_s``, occupying the lane; return the time of their arrival."""
        sending = size * 8 / self.bps if self.trace is None else 0.0
        self.free_s = max(now_s, self.free_s) + sending
        if self.trace is not None:
            self.free_s = self._deliver(self.trace, self.free_s, size)
        arrived = self.free_s + self.profile.delay_s
        if self.profile.jitter_s:
            arrived += self._random.expovariate(1 / self.profile.jitter_s)
        wait = max(_RETRANSMIT_S, 4 * self.profile.delay_s)
        for _ in range(_MAX_RETRANSMITS):
            if self._random.random() >= self.profile.loss:
                break
            self.retransmits += 1
            self.free_s += sending
            arrived += wait + sending
            wait *= 2
        return arrived

    def _deliver(self, trace: LinkTrace, begin_s: float, size: int) -> float:
        """Use opportunities of the trace; return the time of the last one."""
        first = trace.first_after(begin_s)
        if first > self._opportunity:
            self._opportunity, self._room = first, OPPORTUNITY_BYTES
        while size > self._room:
            size -= self._room
            self._opportunity, self._room = self._opportunity + 1, OPPORTUNITY_BYTES
        self._room -= size
        return trace.opportunity(self._opportunity)


@dataclass(slots=True)
class Counts:
    """Traffic: bytes that arrived ``up`` and ``down``, ``connections``, ``retransmits``."""

    up: int = 0
    down: int = 0
    connections: int = 0
    retransmits: int = 0


@dataclass(eq=False)
class _Connection:
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    dead: bool = False


class Link:
    """A proxy on a loopback port, in its own thread; a context manager.

    Args:
        target: (host, port) of the server.
        profile: properties of the link.
        seed: of the random numbers; segment n of a direction has the same delay in every run.
    """

    def __init__(self, target: tuple[str, int], profile: Profile, *, seed: int = 0) -> None:
        self.target = target
        self.profile = profile
        self.port = 0
        self.counts = Counts()
        self._lanes = (
            Lane(profile.up_bps, profile, 2 * seed, profile.up_trace),
            Lane(profile.down_bps, profile, 2 * seed + 1, profile.down_trace),
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="link", daemon=True)
        self._ready = threading.Event()
        self._connections: set[_Connection] = set()
        self._passing = asyncio.Event()  # cleared during an outage
        self._refusing = False
        self._stopped = asyncio.Event()

    @property
    def url(self) -> str:
        """URL of the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *exception: object) -> None:
        self._call(self._stopped.set)
        self._thread.join()

    def down(self, *, refuse: bool = False) -> None:
        """Start an outage: nothing arrives until ``up``.

        Args:
            refuse: reset all connections, including new ones; otherwise, data that is sent during the
                outage arrives after it.
        """
        self._call(self._down, refuse)

    def up(self) -> None:
        """End the outage."""
        self._call(self._up)

    def half_open(self) -> None:
        """Let open connections stall forever, without closing them; new ones work."""
        self._call(self._for_each, _kill)

    def reset(self) -> None:
        """Reset open connections; new ones work."""
        self._call(self._for_each, _abort)

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
            self._for_each(_abort)

    def _up(self) -> None:
        self._refusing = False
        self._passing.set()

    def _for_each(self, function: Callable[[_Connection], None]) -> None:
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
        self._for_each(_abort)
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
            server_reader, server_writer = await asyncio.open_connection(*self.target)
            connection.writers.append(server_writer)
            await asyncio.gather(
                self._pump(connection, reader, server_writer, 0, handshake_s),
                self._pump(connection, server_reader, writer, 1, 0.0),
            )
            ended = True
        except (OSError, asyncio.CancelledError):
            pass  # no server, a broken connection, or the end of the link
        finally:
            self._connections.discard(connection)
            if not ended:
                _abort(connection)
            for stream in connection.writers:
                stream.close()

    async def _pump(
        self,
        connection: _Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        lane: int,
        start_s: float,
    ) -> None:
        """Read at once and deliver at the time of arrival; the end of the stream counts as one byte."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MAX_IN_FLIGHT)
        delivery = asyncio.create_task(self._deliver(connection, queue, writer, lane))
        try:
            last_s, data = start_s, b"?"
            while data:
                data = await reader.read(SEGMENT_BYTES)
                if not delivery.done():
                    now_s = max(self._loop.time(), start_s)
                    last_s = max(last_s, self._lanes[lane].arrival(now_s, len(data) or 1))  # in order
                    self.counts.retransmits = sum(lane.retransmits for lane in self._lanes)
                    await queue.put((last_s, data))
            await delivery
        finally:
            delivery.cancel()

    async def _deliver(
        self,
        connection: _Connection,
        queue: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
        lane: int,
    ) -> None:
        while True:
            arrives_s, data = await queue.get()
            await asyncio.sleep(arrives_s - self._loop.time())
            await self._passing.wait()
            if connection.dead:
                await asyncio.Event().wait()  # until the end of the link
            if not data:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                return
            writer.write(data)
            try:
                await writer.drain()
            except OSError:
                _abort(connection)  # also reset the other end
                return
            if lane == 0:
                self.counts.up += len(data)
            else:
                self.counts.down += len(data)


def _abort(connection: _Connection) -> None:
    for writer in connection.writers:
        end = writer.get_extra_info("socket")
        if end is not None and end.fileno() >= 0:  # the other end sees a reset
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


def _kill(connection: _Connection) -> None:
    connection.dead = True
