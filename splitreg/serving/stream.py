"""``GET /v1/stream``: packets in, answers out as they are ready, over one WebSocket."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.websockets import WebSocket, WebSocketDisconnect

from splitreg.errors import BadRequest, ForeignPacket, SplitregError
from splitreg.wire import dump_json, error_body, status_of
from splitreg.wire.protocol import ANSWERS, DEADLINE, read_request, write_answer

if TYPE_CHECKING:
    from splitreg.serving.service import Options, Service

_GOING_AWAY, _UNSUPPORTED, _POLICY = 1001, 1003, 1008


async def stream(service: Service, socket: WebSocket, options: Options, client: str) -> None:
    """Hold a stream until either side ends it."""
    held = _Stream(service, socket, options, client)
    await socket.accept()
    service.streams.add(held.close_when_empty)
    service.metrics.streams.inc()
    try:
        await held.run()
    finally:
        service.streams.discard(held.close_when_empty)
        service.metrics.streams.dec()


class _Stream:
    """One connection: a bounded number of packets in flight; beyond it, it is not read."""

    def __init__(self, service: Service, socket: WebSocket, options: Options, client: str) -> None:
        self._service, self._socket, self._options, self._client = service, socket, options, client
        self._places = asyncio.Semaphore(service.config.stream_in_flight)
        self._asking: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._running: asyncio.Task[None] | None = None
        self._unread = False

    def close_when_empty(self) -> None:
        """Say goodbye as soon as nothing is in flight."""
        if not self._asking and self._closing is None:
            self._closing = asyncio.create_task(self._close(_GOING_AWAY, "this server stops"))

    async def run(self) -> None:
        """Read packets until the end."""
        self._running = asyncio.current_task()
        try:
            while True:
                await self._places.acquire()  # before reading: this is the back-pressure
                async with asyncio.timeout(self._service.config.stream_idle_seconds):
                    message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                data = message.get("bytes")
                if data is None:
                    return await self._close(_UNSUPPORTED, "messages are binary: 8 bytes of number, then a packet")
                try:
                    number, packet = read_request(data)
                except BadRequest as error:
                    return await self._close(_POLICY, str(error))
                task = asyncio.create_task(self._answer(number, packet))
                self._asking.add(task)
                task.add_done_callback(self._answered)
        except TimeoutError:
            await self._close(_GOING_AWAY, "no packet came for a long time")
        except asyncio.CancelledError:
            if not self._unread:
                raise
        finally:
            for task in list(self._asking):
                task.cancel()

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._asking.discard(task)
        self._places.release()
        if self._service.draining:
            self.close_when_empty()

    async def _answer(self, number: int, packet: bytes) -> None:
        arrived, binary = asyncio.get_running_loop().time(), self._options.form.media == ANSWERS
        status, body, error = 200, b"", b""
        try:
            self._service.rate.take(self._client, arrived)
            deadline = self._service.deadline(self._socket.headers.get(DEADLINE), arrived)
            with self._service.held() as hold:
                hold(len(packet))
                found = await self._service.ask([packet], self._options, arrived=arrived, deadline=deadline)
            body = found.blob
        except SplitregError as refusal:
            self._service.metrics.refusals.labels(type(refusal).__name__).inc()
            told = error_body(refusal)
            if isinstance(refusal, ForeignPacket):
                told["error"]["served"] = [
                    {"id": model["id"], "name": model["name"]} for model in self._service.models.values()
                ]
            status, error = status_of(refusal), dump_json(told)
        with suppress(WebSocketDisconnect, RuntimeError):  # it is gone, or closing
            try:
                async with asyncio.timeout(self._service.config.write_seconds):
                    if binary:
                        await self._socket.send_bytes(write_answer(number, status, error or body))
                    else:
                        inner = error[1:-1] if error else b'"answers":' + body
                        await self._socket.send_text(f'{{"request":{number},{inner.decode()}}}')
            except TimeoutError:  # who does not read cannot be told
                self._unread = True
                if self._running is not None:
                    self._running.cancel()

    async def _close(self, code: int, reason: str) -> None:
        with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            async with asyncio.timeout(self._service.config.write_seconds):
                await self._socket.close(code, reason[:120])
