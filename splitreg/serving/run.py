"""The server process: its socket, its signals and its shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable

from splitreg.errors import RecipeError, SplitregError
from splitreg.serving.app import App
from splitreg.serving.backend import CreateBackend
from splitreg.serving.config import ServeConfig
from splitreg.serving.http import HttpServer
from splitreg.serving.local import LocalBackend
from splitreg.serving.logs import log, open_log
from splitreg.serving.memory import return_freed_memory
from splitreg.serving.service import Service
from splitreg.serving.tracing import traced

#: Part of ``drain_seconds`` that is left for closing connections.
_CLOSING_SECONDS = 2.0
_BACKLOG = 2048
#: TCP keep-alive, inherited by accepted connections: a silent peer is noticed within two minutes.
_KEEP_ALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 120_000}


def serve(config: ServeConfig, on_ready: Callable[[str], None], create_backend: CreateBackend = LocalBackend) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reloads bundles, tokens and certificate.

    Args:
        config: bundles, address, authentication and limits.
        on_ready: called with the URL once requests are accepted.
        create_backend: creates what computes the answers; by default worker processes on this
            machine.

    Raises:
        SplitregError: the bundles cannot be loaded, or the address cannot be used.
    """
    dropped: list[Callable[[], None]] = []  # the service's counter, once there is one

    def on_drop() -> None:
        for count in dropped:
            count()

    handler = open_log(config, on_drop)
    return_freed_memory()
    try:
        asyncio.run(_serve(config, on_ready, create_backend, dropped))
    finally:
        handler.close()


def make_server(service: Service, listener: socket.socket) -> HttpServer:
    """Return the HTTP server of a service.

    Raises:
        RecipeError: the certificate or its key cannot be used; the listener is closed.
    """
    config = service.config
    app = App(service)
    if config.page:
        from splitreg.serving.page import add_page  # needs the edge runtime

        add_page(app)
    try:
        server = HttpServer(traced(app), config, service.metrics, service.request_bytes, listener)
    except (OSError, ssl.SSLError) as cause:
        listener.close()
        raise _certificate_error(config, cause) from cause

    def reload_certificate() -> None:
        try:
            server.reload_certificate()
        except (OSError, ssl.SSLError) as cause:
            raise _certificate_error(config, cause) from cause

    service.on_reload.append(reload_certificate)
    return server


def _certificate_error(config: ServeConfig, cause: Exception) -> RecipeError:
    return RecipeError(f"cannot use the certificate {config.tls_cert} with its key: {cause}")


async def _serve(
    config: ServeConfig,
    on_ready: Callable[[str], None],
    create_backend: CreateBackend,
    on_drop: list[Callable[[], None]],
) -> None:
    listener = listen(config)
    service = Service(config, create_backend)
    on_drop.append(service.metrics.dropped_lines.inc)
    server = make_server(service, listener)
    if server.max_connections < config.max_connections:
        log(
            "open file limit is too low", logging.WARNING, max_connections=config.max_connections,
            used=server.max_connections,
        )  # fmt: skip
    stop = asyncio.Event()
    _handle_signals(service, stop)
    loop = asyncio.get_running_loop()
    url = _url(config, listener)
    server.start()
    starting = asyncio.create_task(service.start())
    stopping = asyncio.create_task(stop.wait())
    seconds_left = 0.0
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            log("ready", url=url, models=list(service.models))
            on_ready(url)
            await stopping
            log("draining")
            end = loop.time() + config.drain_seconds
            await service.drain(max(0.0, config.drain_seconds - _CLOSING_SECONDS))
            seconds_left = end - loop.time()
    finally:
        starting.cancel()
        stopping.cancel()
        await server.close(max(seconds_left, _CLOSING_SECONDS))
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
