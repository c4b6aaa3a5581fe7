"""Limits of connections: a timeout for request headers, and a maximum number."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from splitreg.serving.config import ServeConfig

_TOO_MANY_BODY = b'{"error":{"type":"Unavailable","message":"too many connections; retry later","retry_after_s":5}}'
_TOO_MANY_RESPONSE = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s" % (len(_TOO_MANY_BODY), _TOO_MANY_BODY)
)


def limited_protocol(config: ServeConfig, metrics: Any) -> type[H11Protocol]:
    """Return uvicorn's HTTP protocol with the limits of a server.

    Args:
        config: uses ``header_timeout_seconds`` and ``max_connections``.
        metrics: updated with the number of connections.
    """

    class LimitedProtocol(H11Protocol):
        _header_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            metrics.connections.set(len(self.connections))
            if len(self.connections) > config.max_connections:
                transport.write(_TOO_MANY_RESPONSE)
                transport.close()
                return
            self._start_header_timer()

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before or self.transport.get_protocol() is not self:
                self._stop_header_timer()  # the headers are complete, or this became a WebSocket
            elif before is None or before.response_complete:
                self._start_header_timer()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_header_timer()
            super().connection_lost(exc)
            metrics.connections.set(len(self.connections))

        def _start_header_timer(self) -> None:
            if self._header_timer is None:
                self._header_timer = self.loop.call_later(config.header_timeout_seconds, self.transport.close)

        def _stop_header_timer(self) -> None:
            if self._header_timer is not None:
                self._header_timer.cancel()
                self._header_timer = None

    return LimitedProtocol
