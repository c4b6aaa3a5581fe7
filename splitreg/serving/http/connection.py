"""One connection: how much of it is read, processed and written per turn of the event loop."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from splitreg.errors import SplitregError, Unavailable

if TYPE_CHECKING:
    from starlette.types import Message, Scope

    from splitreg.serving.config import ServeConfig
    from splitreg.serving.memory import MemoryBudget

#: Bytes that are read from a connection per turn of the event loop.
READ_BYTES = 32 * 1024
#: Bytes that are parsed at a time, if they may contain many small requests, chunks or frames.
SLICE_BYTES = 1024
#: Seconds of one turn that may be spent on the bytes of one connection.
_TURN_SECONDS = 0.002
#: Bytes that are written at a time, and that may wait for the kernel before writing pauses.
_PIECE_BYTES, _MAX_UNSENT_BYTES = 64 * 1024, 64 * 1024
#: Bytes of framing (chunk sizes, frame headers, control frames) that a connection may send ahead
#: of its payload; four bytes of payload pay for one byte of framing, and so does time.
_MAX_FRAMING_BYTES, _PAYLOAD_PER_FRAMING, _FRAMING_PER_SECOND = 2 * 1024, 4, 64
#: After the last response a connection is read for this many seconds and bytes, so that the client
#: sees the response instead of a reset connection.
LINGER_SECONDS, _LINGER_BYTES = 2.0, 1 << 20


class Handler(Protocol):
    """What understands the bytes of a connection: ``Http1``, and ``WebSocket`` after an upgrade."""

    @property
    def readable(self) -> bool:
        """Whether it takes more bytes now."""

    @property
    def slice_bytes(self) -> int:
        """Bytes that it takes at a time: as many as cost little time."""

    @property
    def kept(self) -> int:
        """Bytes that it keeps."""

    def feed(self, data: bytes) -> None:
        """Process bytes; called only while ``readable``."""

    def fail(self, error: SplitregError) -> None:
        """End the connection, and tell the client why."""

    def tick(self, now: float) -> None:
        """Check timeouts; called several times per second."""

    def lost(self) -> None:
        """The connection is closed."""


class Exchange(Protocol):
    """A request or a WebSocket."""

    @property
    def scope(self) -> Scope:
        """See ASGI."""

    async def receive(self) -> Message:
        """See ASGI."""

    async def send(self, message: Message) -> None:
        """See ASGI."""

    def returned(self) -> None:
        """The application has returned, whether it has answered or not."""


class ConnectionOwner(Protocol):
    """The side of ``HttpServer`` that its connections use."""

    config: ServeConfig
    loop: asyncio.AbstractEventLoop
    read_buffer: memoryview
    request_bytes: MemoryBudget
    scheme: str

    def create_handler(self, connection: Connection) -> Handler:
        """Return what understands the bytes of a new connection."""

    def run(self, connection: Connection, exchange: Exchange) -> None:
        """Run the application for a request or a WebSocket."""

    def wait(self, connection: Connection) -> None:
        """Note that a connection waits for its next request."""

    def finish(self, connection: Connection) -> None:
        """Note that a connection has sent its last response."""

    def refused(self, connection: Connection, error: SplitregError) -> bytes:
        """Count and log what is refused before the application; return the response."""

    def opened(self, connection: Connection) -> None:
        """Note a new connection."""

    def closed(self, connection: Connection) -> None:
        """Note that a connection was closed."""


class Connection(asyncio.BufferedProtocol):
    """Reads, throttles and writes one connection; a ``Handler`` understands its bytes.

    Args:
        server: that accepted it.
        address: of the client, without the port.
        refusal: why all its requests are refused with 503; empty if they are not.

    Attributes:
        handler: processes what is read.
        client: address of the client, without the port.
        refusal: see above.
        unread: bytes that were read and not yet processed; they count as bytes of requests.
        connecting: whether asyncio has its socket.
        opened: whether it was established, which includes a TLS handshake.
        closing: whether it is being closed.
    """

    def __init__(self, server: ConnectionOwner, address: str, refusal: str) -> None:
        self.server = server
        self.client = address
        self.refusal = refusal
        self.loop = server.loop
        self.unread = bytearray()
        self.transport: asyncio.Transport
        self.connecting = self.opened = self.closing = False
        self._held = server.request_bytes.hold(self._drop)
        self._framing = _FramingBudget()
        self._scheduled = False
        self._abort_at = float("inf")
        self._discarded = 0
        self._can_write = asyncio.Event()
        self._can_write.set()
        self.handler: Handler = server.create_handler(self)

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.BaseProtocol``."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.opened = True
        transport.set_write_buffer_limits(_MAX_UNSENT_BYTES)
        if hasattr(transport, "set_read_buffer_limits"):  # of TLS
            transport.set_read_buffer_limits(READ_BYTES)
        self.server.opened(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """See ``asyncio.BufferedProtocol``: one buffer for all connections, emptied at once."""
        return self.server.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See ``asyncio.BufferedProtocol``."""
        if self.closing:
            self._discarded += nbytes
            if self._discarded > _LINGER_BYTES:
                self.abort()
            return
        self.unread += self.server.read_buffer[:nbytes]
        self._process()

    def eof_received(self) -> None:
        """See ``asyncio.Protocol``: a client that sends no more has gone."""
        self.close()

    def pause_writing(self) -> None:
        """See ``asyncio.BaseProtocol``."""
        self._can_write.clear()

    def resume_writing(self) -> None:
        """See ``asyncio.BaseProtocol``."""
        self._can_write.set()
        self.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.BaseProtocol``."""
        self.closing = True
        self._held.release()
        self._can_write.set()
        self.handler.lost()
        self.server.closed(self)

    # the handler's side

    @property
    def writable(self) -> bool:
        """Whether the client reads what it is sent."""
        return self._can_write.is_set()

    def count(self, received: int, payload: int) -> bool:
        """Count bytes that were parsed.

        Args:
            received: all bytes.
            payload: those of bodies and messages among them.

        Returns:
            Whether the rest, the framing, is in proportion.
        """
        return self._framing.spend(received - payload, payload)

    def resume(self) -> None:
        """Read on; call it when the handler keeps less than before, or is readable again."""
        if self.closing:
            return
        self._count_kept()
        if self.unread and not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._process)

    def write(self, data: bytes | memoryview) -> None:
        """Write a few bytes without waiting."""
        if not self.transport.is_closing():
            self.transport.write(data)

    async def drain(self) -> None:
        """Wait until the client has read most of what was written; let others have their turn."""
        await asyncio.sleep(0)
        await self._can_write.wait()

    async def send(self, data: bytes) -> None:
        """Write bytes as fast as the client reads them."""
        view = memoryview(data)
        for start in range(0, len(data), _PIECE_BYTES):
            if start:
                await self.drain()
            self.write(view[start : start + _PIECE_BYTES])
        await self._can_write.wait()

    def refuse(self, error: SplitregError) -> None:
        """Answer with an error and close the connection."""
        self.write(self.server.refused(self, error))
        self.finish()

    def finish(self) -> None:
        """Close the connection once all is sent; until the client closes it, discard what it sends."""
        if not self.closing:
            self._begin_closing()
            self.server.finish(self)
            if self.transport.can_write_eof():
                self.transport.write_eof()
            self.transport.resume_reading()

    def close(self) -> None:
        """Close the connection once all is sent; what the client sends is not read any more."""
        self._begin_closing()
        self.transport.close()

    def _begin_closing(self) -> None:
        unsent = self.transport.get_write_buffer_size() > 0
        seconds = self.server.config.write_timeout_seconds if unsent else LINGER_SECONDS
        self._abort_at = min(self._abort_at, self.loop.time() + seconds)
        self.closing = True
        self.unread.clear()
        self._held.release()

    def abort(self) -> None:
        """Close the connection at once."""
        self.closing = True
        self.transport.abort()

    def tick(self, now: float) -> None:
        """Check timeouts; called several times per second."""
        if now > self._abort_at:
            self.abort()
        elif not self.closing:
            self.handler.tick(now)

    def _process(self) -> None:
        """Let the handler have what was read, for a limited time, then give others their turn."""
        self._scheduled = False
        if self.closing:
            return
        end = time.monotonic() + _TURN_SECONDS
        while self.unread and self.handler.readable and not self.closing:
            count = self.handler.slice_bytes
            data = bytes(self.unread[:count])
            del self.unread[:count]
            self.handler.feed(data)
            if time.monotonic() > end:
                break
        if self.closing:
            return
        self._count_kept()
        if self.closing:
            return
        if self.unread:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()
        if self.unread and self.handler.readable:
            self.resume()

    def _count_kept(self) -> None:
        kept = self.handler.kept + len(self.unread)
        if kept != self._held.bytes:
            try:
                self._held.set(kept)
            except Unavailable as error:
                self.handler.fail(error)

    def _drop(self) -> None:
        self.handler.fail(Unavailable("smaller requests need the memory; retry later", retry_after_s=1.0))


class _FramingBudget:
    """A token bucket of bytes of framing, filled by payload and by time."""

    __slots__ = ("_left", "_updated")

    def __init__(self) -> None:
        self._left: float = _MAX_FRAMING_BYTES
        self._updated = time.monotonic()

    def spend(self, framing: int, payload: int) -> bool:
        """Count bytes; return whether the framing was paid for."""
        now = time.monotonic()
        self._left += payload / _PAYLOAD_PER_FRAMING + (now - self._updated) * _FRAMING_PER_SECOND
        self._left = min(self._left, _MAX_FRAMING_BYTES) - framing
        self._updated = now
        return self._left >= 0
