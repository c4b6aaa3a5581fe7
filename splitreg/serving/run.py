"""The process: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Iterator

import uvicorn

from splitreg.errors import RecipeError, SplitregError
from splitreg.serving.app import App
from splitreg.serving.config import ServeConfig
from splitreg.serving.connections import guarded
from splitreg.serving.logs import log, open_log
from splitreg.serving.pool import Fleet
from splitreg.serving.service import MakeFleet, Service

#: Seconds of ``drain_seconds`` that are left to close connections.
_CLOSING_SECONDS = 2.0
_HEAD_BYTES = 16 * 1024
#: Seconds between pings of streams, and for their answers; of a silent peer's connection.
_PING_SECONDS = 30.0
_BACKLOG = 2048


def serve(config: ServeConfig, ready: Callable[[str], None], make_fleet: MakeFleet = Fleet) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads the bundles.

    Args:
        config: what, where and within which limits.
        ready: called with the URL when requests are taken.
        make_fleet: what computes; processes of this machine by default.

    Raises:
        SplitregError: the bundles cannot be loaded, or the address is taken.
    """
    open_log(config)
    asyncio.run(_serve(config, ready, make_fleet))


class _Server(uvicorn.Server):
    """uvicorn without its signals: stopping is the service's to do."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(service: Service, listener: socket.socket) -> uvicorn.Server:
    """Return the HTTP server of a service; ``serve(sockets=[listener])`` runs it, ``should_exit`` ends it.

    Raises:
        RecipeError: the certificate or its key cannot be used; the listener is closed.
    """
    config = service.config
    app = App(service)
    if config.page:
        from splitreg.serving.page import add_page  # with the device's runtime, which no other server needs

        add_page(app)
    try:
        http = uvicorn.Config(
            app, http=guarded(config, service.metrics), ws="websockets-sansio", lifespan="off",
            ws_max_size=config.body_bytes + 8, ws_per_message_deflate=False, ws_ping_interval=_PING_SECONDS,
            ws_ping_timeout=_PING_SECONDS, log_config=None, access_log=False, proxy_headers=False, server_header=False,
            timeout_keep_alive=max(1, round(config.idle_seconds)), timeout_graceful_shutdown=round(_CLOSING_SECONDS),
            h11_max_incomplete_event_size=_HEAD_BYTES, backlog=_BACKLOG, ssl_certfile=config.tls_cert,
            ssl_keyfile=config.tls_key,
        )  # fmt: skip
        http.load()
    except (OSError, ssl.SSLError) as cause:
        listener.close()
        raise RecipeError(f"cannot use the certificate {config.tls_cert} with its key: {cause}") from cause
    return _Server(http)


async def _serve(config: ServeConfig, ready: Callable[[str], None], make_fleet: MakeFleet) -> None:
    _allow_files(config.connections)
    listener = listen(config)
    service = Service(config, make_fleet)
    server = make_server(service, listener)
    stop = asyncio.Event()
    _catch_signals(service, stop)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    starting = asyncio.create_task(service.start())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            url = _url(config, listener)
            log("ready", url=url, models=list(service.models))
            ready(url)
            await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            log("draining")
            await service.drain(max(0.0, config.drain_seconds - _CLOSING_SECONDS))
    finally:
        starting.cancel()
        stopping.cancel()
        server.should_exit = True
        await serving
        await asyncio.gather(starting, return_exceptions=True)
        await service.stop()
        log("stopped")


def _catch_signals(service: Service, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    async def again() -> None:
        with contextlib.suppress(SplitregError):  # it is in the log, and the old bundles serve
            await service.reload()

    def reload() -> None:
        task = asyncio.create_task(again())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload)


def listen(config: ServeConfig) -> socket.socket:
    """Return a socket that listens, and whose connections end when the peer is gone without a word.

    Raises:
        RecipeError: the address is taken, or none of this machine.
    """
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, proto)
    except OSError as cause:
        raise RecipeError(f"cannot listen on {config.host}: {cause.strerror or cause}") from cause
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            ("TCP_KEEPIDLE", 60),
            ("TCP_KEEPINTVL", 15),
            ("TCP_KEEPCNT", 4),
            ("TCP_USER_TIMEOUT", 120_000),
        ):
            if hasattr(socket, option):  # connections inherit these
                listener.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as cause:
        listener.close()
        raise RecipeError(f"cannot listen on {config.host} port {config.port}: {cause.strerror or cause}") from cause
    return listener


def _url(config: ServeConfig, listener: socket.socket) -> str:
    port = listener.getsockname()[1]
    host = f"[{config.host}]" if ":" in config.host else config.host
    return f"{'https' if config.tls_cert else 'http'}://{host}:{port}"


def _allow_files(connections: int) -> None:
    """Let the process have a file for every connection, as far as the system allows."""
    wanted = connections + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        if most < wanted:
            log("few files", logging.WARNING, connections=connections, files=most)
