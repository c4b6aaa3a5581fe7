"""``GET /v1/stream``: packets in, answers out as they are ready, over one WebSocket."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace

from starlette.websockets import WebSocket, WebSocketDisconnect

from splitreg.errors import BadRequest, SplitregError
from splitreg.serving.answer_room import AnswerRoom
from splitreg.serving.query import RequestOptions
from splitreg.serving.service import Service
from splitreg.serving.tokens import Token
from splitreg.serving.video import VideoStream
from splitreg.wire import dump_json
from splitreg.wire.answers import unpack
from splitreg.wire.compact import CompactWriter
from splitreg.wire.protocol import ANSWERS, COMPACT, DEADLINE, read_request, write_answer

#: Close codes of RFC 6455.
_GOING_AWAY, _UNSUPPORTED, _POLICY_VIOLATION = 1001, 1003, 1008


@dataclass(frozen=True, slots=True)
class Caller:
    """Who has opened a stream: the address, for the rate limit, and the token."""

    client: str
    token: Token | None


async def serve_stream(
    service: Service, socket: WebSocket, options: RequestOptions, caller: Caller, video: VideoStream | None = None
) -> None:
    """Serve a stream until either side closes it.

    Args:
        service: answers the packets.
        socket: not accepted yet.
        options: heads and answer format, the same for all packets.
        caller: who has opened it.
        video: decodes the packets of a video stream; None: they are ordinary packets.
    """
    stream = _Stream(service, socket, options, caller, video)
    await socket.accept()
    service.streams.add(stream.close_when_empty)
    service.metrics.streams.inc()
    try:
        await stream.run()
    finally:
        service.streams.discard(stream.close_when_empty)
        service.metrics.streams.dec()


class _Stream:
    """One connection with a bounded number of packets in flight; at the limit it is not read."""

    def __init__(
        self, service: Service, socket: WebSocket, options: RequestOptions, caller: Caller, video: VideoStream | None
    ) -> None:
        self._service, self._socket, self._options, self._client = service, socket, options, caller.client
        self._token, self._video = caller.token, video
        self._compact: CompactWriter | None = None
        if options.answer_format.media == COMPACT:
            self._compact = CompactWriter(options.answer_format.known_tables)
            self._options = replace(options, answer_format=replace(options.answer_format, media=ANSWERS))
        self._in_order = asyncio.Lock()
        self._slots = asyncio.Semaphore(service.config.max_stream_in_flight)
        self._in_flight: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None

    def close_when_empty(self) -> None:
        """Close the stream unless packets are in flight."""
        if not self._in_flight and self._closing is None:
            self._closing = asyncio.create_task(self._close(_GOING_AWAY, "this server is shutting down"))

    async def run(self) -> None:
        """Read packets until the stream ends."""
        try:
            while True:
                await self._slots.acquire()  # before reading: this is the back-pressure
                async with asyncio.timeout(self._service.config.stream_idle_timeout_seconds):
                    message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                data = message.get("bytes")
                if data is None:
                    reason = "messages must be binary: a request number of 8 bytes, then a packet"
                    return await self._close(_UNSUPPORTED, reason)
                try:
                    number, packet = read_request(data)
                except BadRequest as error:
                    return await self._close(_POLICY_VIOLATION, str(error))
                task = asyncio.create_task(self._answer(number, self._to_packet(packet)))
                self._in_flight.add(task)
                task.add_done_callback(self._on_answered)
        except TimeoutError:
            await self._close(_GOING_AWAY, "no packet was received for stream_idle_timeout_seconds")
        finally:
            for task in list(self._in_flight):
                task.cancel()

    def _on_answered(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._slots.release()
        if self._service.draining:
            self.close_when_empty()

    def _to_packet(self, data: bytes) -> bytes | SplitregError:
        """Return the packet of a message; frames of a video are decoded in the order of their arrival."""
        if self._video is None:
            return data
        try:
            return self._video.to_packet(data)
        except SplitregError as error:
            return error

    async def _answer(self, number: int, packet: bytes | SplitregError) -> None:
        abort = self._socket.scope["state"]["abort"]
        with self._service.answer_bytes.hold(abort) as hold, self._service.answer_rooms.room(self._client) as room:
            try:
                if isinstance(packet, SplitregError):
                    raise packet
                blob = await self._infer(packet, room)
                hold.add(len(blob))
                if self._compact is not None:
                    return await self._answer_compactly(number, blob, self._compact)
                message = self._write(number, 200, blob)
            except SplitregError as error:
                status, body = self._service.error_response(error)
                message = self._write(number, status, dump_json(body))
            await self._send(message)

    async def _answer_compactly(self, number: int, blob: bytes, writer: CompactWriter) -> None:
        """Send a compact answer; each refers to the one before, so they are written as they are sent."""
        async with self._in_order:
            answer = await asyncio.to_thread(lambda: writer.write(unpack(blob)[0]))
            await self._send(write_answer(number, 200, answer))

    async def _send(self, message: bytes | str) -> None:
        try:
            async with asyncio.timeout(self._service.config.send_seconds(len(message))):
                if isinstance(message, bytes):
                    await self._socket.send_bytes(message)
                else:
                    await self._socket.send_text(message)
        except TimeoutError:  # the client does not read, so it cannot be sent an error either
            self._service.metrics.slow_readers.inc()
            self._socket.scope["state"]["abort"]()
        except (WebSocketDisconnect, RuntimeError):  # the stream is closed or closing
            pass

    def _write(self, number: int, status: int, blob: bytes) -> bytes | str:
        """Return the message with answers, or with the JSON of an error."""
        if self._options.answer_format.media == ANSWERS:
            return write_answer(number, status, blob)
        member = b'"answers":' + blob if status == 200 else blob[1:-1]
        return f'{{"request":{number},{member.decode()}}}'

    async def _infer(self, packet: bytes, room: AnswerRoom) -> bytes:
        arrived = asyncio.get_running_loop().time()
        self._service.rate_limit.take(self._client, arrived)
        self._service.tokens.take(self._token, arrived)
        deadline = self._service.parse_deadline(self._socket.headers.get(DEADLINE), arrived)
        with self._service.request_bytes.hold() as hold:
            hold.add(len(packet))
            result = await self._service.infer([packet], self._options, arrived=arrived, deadline=deadline, room=room)
        return result.blob

    async def _close(self, code: int, reason: str) -> None:
        with suppress(WebSocketDisconnect, RuntimeError, TimeoutError):
            async with asyncio.timeout(self._service.config.write_timeout_seconds):
                await self._socket.close(code, reason[:120])
