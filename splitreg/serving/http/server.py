"""Accepts connections, limits their number, and closes them at the end."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from splitreg.errors import SplitregError
from splitreg.serving.config import ServeConfig
from splitreg.serving.http.connection import READ_BYTES, Connection, Exchange, Handler
from splitreg.serving.http.delays import ConnectionDelays
from splitreg.serving.http.http1 import Http1
from splitreg.serving.logs import log
from splitreg.serving.memory import MemoryBudget
from splitreg.serving.metrics import Metrics
from splitreg.serving.security import client_of, is_trusted_proxy

#: Connections that are accepted per turn of the event loop.
_ACCEPTS_PER_TURN = 16
#: File descriptors besides those of connections: workers, logs, files that are being read. If the
#: system allows few, half of them are kept.
_OTHER_FILES = 256
#: Connections beyond the limit that are told so with 503; further ones are closed at once. They
#: need file descriptors too, a part of the others.
_MAX_OVERFLOW, _OVERFLOW_SHARE = 32, 4
#: Seconds until connections are accepted again when the system has no file descriptor.
_PAUSE_SECONDS = 0.5
#: Seconds between checks of timeouts.
_TICK_SECONDS = 0.1
#: Seconds for a TLS connection to say goodbye.
_TLS_SHUTDOWN_SECONDS = 2.0
_NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Application(Protocol):
    """An ASGI application that also answers what is not a request."""

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """See ASGI."""

    def refuse(self, client: str, error: SplitregError) -> bytes:
        """Count and log a refused request or stream; return the response, empty for none."""


class HttpServer:
    """Serves an ASGI application on a socket.

    Args:
        app: answers requests.
        config: uses the limits of connections, and ``tls_cert`` and ``tls_key``.
        metrics: updated with connections.
        request_bytes: where bytes of requests count.
        listener: a listening socket.

    Raises:
        OSError: the certificate or its key cannot be read.
        ssl.SSLError: they are not valid.

    Attributes:
        max_connections: as configured, or fewer if the system allows fewer file descriptors.
        read_buffer: what is read from any connection goes here first.
        scheme: ``"http"`` or ``"https"``.
    """

    def __init__(
        self, app: Application, config: ServeConfig, metrics: Metrics, request_bytes: MemoryBudget,
        listener: socket.socket,
    ) -> None:  # fmt: skip
        self.app = app
        self.config = config
        self.request_bytes = request_bytes
        self.read_buffer = memoryview(bytearray(READ_BYTES))
        self.scheme = "https" if config.tls_cert else "http"
        descriptors, others = usable_descriptors(config.max_connections)
        self.max_connections = min(config.max_connections, descriptors)
        self._overflow = min(_MAX_OVERFLOW, others // _OVERFLOW_SHARE)
        self.loop: asyncio.AbstractEventLoop
        self._metrics = metrics
        self._listener = listener
        self._tls = self._load_certificate()
        self._connections: set[Connection] = set()
        #: Connections without a request -> since when; the one that waits longest comes first.
        self._waiting: dict[Connection, float] = {}
        #: Connections whose last response is sent.
        self._finishing: dict[Connection, None] = {}
        #: Task that opens a connection, which takes a TLS handshake -> its start and the client.
        self._opening: dict[asyncio.Task[None], tuple[float, str]] = {}
        self._clients: Counter[str] = Counter()
        self._delays = ConnectionDelays()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking: asyncio.Task[None] | None = None
        self._exhausted = False

    def start(self) -> None:
        """Accept connections on the running event loop."""
        self.loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        self.loop.add_reader(self._listener, self._accept)
        self._ticking = self.loop.create_task(self._tick())

    def reload_certificate(self) -> None:
        """Read the certificate again, for new connections.

        Raises:
            OSError: it cannot be read.
            ssl.SSLError: it is not valid.
        """
        self._tls = self._load_certificate()

    async def close(self, seconds: float) -> None:
        """Accept no more connections, send what is to be sent, and close all.

        Args:
            seconds: maximum time to wait for clients.
        """
        self.loop.remove_reader(self._listener)
        self._listener.close()
        for opening in list(self._opening):
            opening.cancel()
        for connection in list(self._connections):
            connection.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._connections:
                    await asyncio.sleep(_TICK_SECONDS / 5)
        for connection in list(self._connections):
            connection.abort()
        if self._ticking is not None:
            self._ticking.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._opening, return_exceptions=True)
        await asyncio.sleep(0)  # for callbacks of tasks

    # the connections' side

    def create_handler(self, connection: Connection) -> Handler:
        """Return what understands the bytes of a new connection."""
        return Http1(connection)

    def run(self, connection: Connection, exchange: Exchange) -> None:
        """Run the application for a request or a WebSocket."""
        self._waiting.pop(connection, None)
        task = self.loop.create_task(self._run(exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def wait(self, connection: Connection) -> None:
        """Note that a connection waits for its next request."""
        self._waiting[connection] = self.loop.time()

    def finish(self, connection: Connection) -> None:
        """Note that a connection has sent its last response."""
        self._waiting.pop(connection, None)
        self._finishing[connection] = None

    def refused(self, connection: Connection, error: SplitregError) -> bytes:
        """Count and log what is refused before the application; return the response."""
        limited = self.config.max_requests_per_s > 0
        if limited and not is_trusted_proxy(connection.client, self.config.trusted_proxies):
            self._delays.count(connection.client, self.loop.time())
        return self.app.refuse(connection.client, error)

    def opened(self, connection: Connection) -> None:
        """Note a new connection."""
        self._connections.add(connection)
        self.wait(connection)
        self._metrics.connections.set(len(self._connections))

    def closed(self, connection: Connection) -> None:
        """Note that a connection was closed."""
        if connection in self._connections:
            self._connections.discard(connection)
            self._waiting.pop(connection, None)
            self._finishing.pop(connection, None)
            self._forget(connection.client)
            self._metrics.connections.set(len(self._connections))

    async def _run(self, exchange: Exchange) -> None:
        try:
            await self.app(exchange.scope, exchange.receive, exchange.send)
        except Exception as error:
            log("unexpected error", logging.ERROR, exception=error)
        finally:
            exchange.returned()

    # accepting

    def _accept(self) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS:
                    raise
                return self._pause(error)
            self._exhausted = False
            sock.setblocking(False)
            if not self._open(sock, client_of(address[0])):
                return

    def _pause(self, error: OSError) -> None:
        """Without file descriptors, close what waits longest, and accept again later."""
        self._metrics.exhausted.inc()
        if not self._exhausted:
            log("no file descriptors left", logging.ERROR, connections=len(self._connections), reason=error.strerror)
        self._exhausted = True
        self._drop_waiting()
        self.loop.remove_reader(self._listener)
        self.loop.call_later(_PAUSE_SECONDS, self._resume)

    def _resume(self) -> None:
        if self._listener.fileno() >= 0:
            self.loop.add_reader(self._listener, self._accept)

    def _open(self, sock: socket.socket, client: str) -> bool:
        """Open a connection; return whether there is room for more, or one must be closed first."""
        refusal = self._refusal(client)
        if refusal and self._count() >= self.max_connections + self._overflow:
            self._metrics.refusals.labels("Unavailable").inc()
            sock.close()
            return False
        connection = Connection(self, client, refusal)
        task = self.loop.create_task(self._connect(connection, sock))
        self._clients[client] += 1
        self._opening[task] = self.loop.time(), client
        if self._tls is not None:
            self._metrics.handshakes.set(len(self._opening))
        task.add_done_callback(lambda task: self._on_open(connection, sock, task))
        return self._count() < self.max_connections

    def _count(self) -> int:
        return len(self._connections) + len(self._opening)

    def _refusal(self, client: str) -> str:
        """Make room for one more connection of a client; return why there is none."""
        limit = self.config.max_client_connections or max(1, self.max_connections // 2)
        if self._clients[client] >= limit and not is_trusted_proxy(client, self.config.trusted_proxies):
            if not self._drop_waiting(client):
                return f"{client} has {limit} connections, the limit per client; use one for many requests"
        if self._count() >= self.max_connections and not self._drop_waiting():
            return f"this server has {self.max_connections} connections, its limit; retry later"
        return ""

    async def _connect(self, connection: Connection, sock: socket.socket) -> None:
        if seconds := self._delays.seconds(connection.client, self.loop.time()):
            self._metrics.delayed_connections.inc()
            await asyncio.sleep(seconds)
        connection.connecting = True
        options: dict[str, Any] = {}
        if self._tls is not None:
            options = {
                "ssl": self._tls, "ssl_handshake_timeout": self.config.header_timeout_seconds,
                "ssl_shutdown_timeout": _TLS_SHUTDOWN_SECONDS,
            }  # fmt: skip
        try:
            await self.loop.connect_accepted_socket(lambda: connection, sock, **options)
        except OSError:  # ssl.SSLError and TimeoutError are among them
            self._metrics.refusals.labels("TlsHandshake").inc()

    def _on_open(self, connection: Connection, sock: socket.socket, task: asyncio.Task[None]) -> None:
        if not connection.connecting:  # cancelled before asyncio had the socket
            sock.close()
        if self._opening.pop(task, None) is not None and not connection.opened:
            self._forget(connection.client)
        if self._tls is not None:
            self._metrics.handshakes.set(len(self._opening))
        if not task.cancelled() and (error := task.exception()) is not None:
            log("unexpected error", logging.ERROR, exception=error)

    def _drop_waiting(self, client: str | None = None) -> bool:
        """Close a connection that is not in use: one that closes, or the one that has waited longest.

        Args:
            client: whose; None for any.

        Returns:
            Whether there was one.
        """
        opening = next((task for task, (_, its) in self._opening.items() if client in (None, its)), None)
        candidates = (one for dictionary in (self._finishing, self._waiting) for one in dictionary)
        connection = next((one for one in candidates if client in (None, one.client)), None)
        if connection in self._finishing:
            opening = None
        if opening is not None and (connection is None or self._opening[opening][0] < self._waiting[connection]):
            opening.cancel()
            self._forget(self._opening.pop(opening)[1])
        elif connection is not None:
            connection.abort()
            self.closed(connection)
        else:
            return False
        self._metrics.dropped_connections.inc()
        return True

    def _forget(self, client: str) -> None:
        self._clients[client] -= 1
        if not self._clients[client]:
            del self._clients[client]

    def _load_certificate(self) -> ssl.SSLContext | None:
        if self.config.tls_cert is None:
            return None
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.config.tls_cert, self.config.tls_key)
        context.set_alpn_protocols(["http/1.1"])
        return context

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            now = self.loop.time()
            for connection in list(self._connections):
                connection.tick(now)


def usable_descriptors(wanted: int) -> tuple[int, int]:
    """Raise the limit of open files towards ``wanted`` connections.

    Returns:
        How many connections it allows, and how many other files.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted + _OTHER_FILES:
        soft = wanted + _OTHER_FILES if hard == resource.RLIM_INFINITY else min(wanted + _OTHER_FILES, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return wanted, _OTHER_FILES
    others = min(_OTHER_FILES, soft // 2)
    return max(1, soft - others), others
