"""The server process: its socket, its signals and its shutdown."""

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
from splitreg.serving.backend import CreateBackend
from splitreg.serving.config import ServeConfig
from splitreg.serving.connections import limited_protocol
from splitreg.serving.local import LocalBackend
from splitreg.serving.logs import log, open_log
from splitreg.serving.service import Service

#: Part of ``drain_seconds`` that is left for closing connections.
_CLOSING_SECONDS = 2.0
_MAX_HEADER_BYTES = 16 * 1024
#: Seconds between pings of a stream, and until its client must have answered.
_PING_SECONDS = 30.0
_BACKLOG = 2048
#: TCP keep-alive, inherited by accepted connections: a silent peer is noticed within two minutes.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 120_000}
#: File descriptors besides those of connections.
_OTHER_FILES = 256


def serve(config: ServeConfig, on_ready: Callable[[str], None], create_backend: CreateBackend = LocalBackend) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads the bundles.

    Args:
        config: bundles, address, authentication and limits.
        on_ready: called with the URL once requests are accepted.
        create_backend: creates what computes the answers; by default worker processes on this
            machine.

    Raises:
        SplitregError: the bundles cannot be loaded, or the address cannot be used.
    """
    open_log(config)
    asyncio.run(_serve(config, on_ready, create_backend))


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the service drains before the server stops."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def make_server(service: Service, listener: socket.socket) -> uvicorn.Server:
    """Return the HTTP server of a service.

    ``serve(sockets=[listener])`` runs it, ``should_exit = True`` stops it.

    Raises:
        RecipeError: the certificate or its key cannot be used; the listener is closed.
    """
    config = service.config
    app = App(service)
    if config.page:
        from splitreg.serving.page import add_page  # needs the edge runtime

        add_page(app)
    try:
        http = uvicorn.Config(
            app, http=limited_protocol(config, service.metrics), ws="websockets-sansio", lifespan="off",
            ws_max_size=config.max_body_bytes + 8, ws_per_message_deflate=False, ws_ping_interval=_PING_SECONDS,
            ws_ping_timeout=_PING_SECONDS, log_config=None, access_log=False, proxy_headers=False, server_header=False,
            timeout_keep_alive=max(1, round(config.keep_alive_seconds)),
            timeout_graceful_shutdown=round(_CLOSING_SECONDS), h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
            backlog=_BACKLOG, ssl_certfile=config.tls_cert, ssl_keyfile=config.tls_key,
        )  # fmt: skip
        http.load()
    except (OSError, ssl.SSLError) as cause:
        listener.close()
        raise RecipeError(f"cannot use the certificate {config.tls_cert} with its key: {cause}") from cause
    return _Server(http)


async def _serve(config: ServeConfig, on_ready: Callable[[str], None], create_backend: CreateBackend) -> None:
    _raise_file_limit(config.max_connections)
    listener = listen(config)
    service = Service(config, create_backend)
    server = make_server(service, listener)
    stop = asyncio.Event()
    _handle_signals(service, stop)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    starting = asyncio.create_task(service.start())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            url = _url(config, listener)
            log("ready", url=url, models=list(service.models))
            on_ready(url)
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


def _handle_signals(service: Service, stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    async def reload() -> None:
        with contextlib.suppress(SplitregError):  # it was logged
            await service.reload()

    def start_reload() -> None:
        task = asyncio.create_task(reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, start_reload)


def listen(config: ServeConfig) -> socket.socket:
    """Return a listening socket with TCP keep-alive.

    Raises:
        RecipeError: the address is in use, or does not belong to this machine.
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
        for option, value in _KEEP_ALIVE.items():
            if hasattr(socket, option):
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


def _raise_file_limit(connections: int) -> None:
    """Raise the limit of open files to one per connection, as far as the system allows."""
    wanted = connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        if limit < wanted:
            log("open file limit is too low", logging.WARNING, max_connections=connections, max_files=limit)
