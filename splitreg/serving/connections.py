"""Connections that cost nothing: a head has to arrive in time, and there is a most of them."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from splitreg.serving.config import ServeConfig

_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)
_BODY = b'{"error":{"type":"Unavailable","message":"too many connections; come back","retry_after_s":5}}'


def guarded(config: ServeConfig, metrics: Any) -> type[H11Protocol]:
    """Return uvicorn's HTTP protocol with ``header_seconds`` and ``connections`` of a config."""

    class Guarded(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            metrics.connections.set(len(self.connections))
            if len(self.connections) > config.connections:
                transport.write(_FULL % (len(_BODY), _BODY))
                transport.close()
                return
            self._await_head()

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before or self.transport.get_protocol() is not self:
                self._head_came()  # a request's head is whole, or this is a stream now
            elif before is None or before.response_complete:
                self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._head_came()
            super().connection_lost(exc)
            metrics.connections.set(len(self.connections))

        def _await_head(self) -> None:
            if self._late is None:
                self._late = self.loop.call_later(config.header_seconds, self.transport.close)

        def _head_came(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Guarded
