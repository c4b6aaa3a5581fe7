"""WebSockets on a connection: ``websockets`` parses frames, an ASGI application has the messages."""

from __future__ import annotations

import asyncio
import base64
import binascii
import codecs
import hashlib
import os
from collections import deque
from typing import TYPE_CHECKING

from starlette.types import Message, Scope
from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from splitreg.errors import BadRequest, SplitregError, TooLarge
from splitreg.serving.http.connection import SLICE_BYTES
from splitreg.serving.http.responses import response_head
from splitreg.serving.routing_errors import Malformed

if TYPE_CHECKING:
    from splitreg.serving.http.connection import Connection

_VERSION = b"13"
_KEY_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
#: Seconds between pings, until the client must have answered one, and until it must have answered
#: a close frame.
_PING_SECONDS, _PONG_SECONDS, _CLOSE_SECONDS = 30.0, 30.0, 10.0
#: Longer messages are sent in fragments of this size.
_FRAGMENT_BYTES = 64 * 1024
#: Bytes that are parsed at a time within a long frame.
_LONG_SLICE_BYTES = 8 * 1024
#: Bytes of a message of a stream besides its packet.
_REQUEST_NUMBER_BYTES = 8
#: Close codes of RFC 6455, 7.4.1, and of its registry.
_NO_CODE, _ABNORMAL, _INVALID_TEXT, _POLICY_VIOLATION, _TRY_LATER = 1005, 1006, 1007, 1008, 1013


def check_handshake(scope: Scope) -> bytes:
    """Check a request that opens a WebSocket (RFC 6455, 4.2.1), and return its key.

    Raises:
        Malformed: it is invalid, or has a body, which could not be told from frames.
    """
    fields: dict[bytes, bytes] = dict(scope["headers"])
    if scope["method"] != "GET":
        raise Malformed(400, f"a WebSocket is opened with GET, got {scope['method']}")
    if b"transfer-encoding" in fields or fields.get(b"content-length", b"0").strip(b"0"):
        raise Malformed(400, "a request that opens a WebSocket may not have a body")
    if fields.get(b"sec-websocket-version") != _VERSION:
        versions = (("Sec-WebSocket-Version", "13"),)
        raise Malformed(426, "Sec-WebSocket-Version must be 13", headers=versions)
    key = fields.get(b"sec-websocket-key", b"")
    try:
        valid = len(base64.b64decode(key, validate=True)) == 16
    except binascii.Error:
        valid = False
    if not valid or sum(name == b"sec-websocket-key" for name, _ in scope["headers"]) > 1:
        raise Malformed(400, "Sec-WebSocket-Key must be 16 bytes in base64")
    return key


class WebSocket:
    """Exchanges messages with the application: the next one is read when it has taken the last.

    Args:
        connection: whose bytes these are.
        scope: of the request that opened it.
        key: of its handshake.
    """

    def __init__(self, connection: Connection, scope: Scope, key: bytes) -> None:
        self._connection = connection
        self._key = key
        config = connection.server.config
        self._frames = Protocol(Side.SERVER, max_size=config.max_body_bytes + _REQUEST_NUMBER_BYTES)
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._parts: bytearray | None = None  # of a message in several frames
        self._is_text = False
        self._unparsed = 0  # bytes of a frame that is not complete
        self._messages: deque[Message] = deque([{"type": "websocket.connect"}])
        self._disconnect: Message | None = None
        self._event = asyncio.Event()
        self._accepted = self._close_sent = False
        self._denial: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._sending = asyncio.Lock()
        self._ping: bytes | None = None
        self._deadline = float("inf")
        self.scope: Scope = {
            **scope, "type": "websocket", "scheme": "wss" if scope["scheme"] == "https" else "ws",
            "subprotocols": [], "extensions": {"websocket.http.response": {}},
        }  # fmt: skip
        connection.server.run(connection, self)

    @property
    def readable(self) -> bool:
        """See ``Handler``: a client that does not read its answers and pongs is not read."""
        return self._accepted and not self._messages and self._connection.writable

    @property
    def slice_bytes(self) -> int:
        """See ``Handler``: more within a long frame."""
        return _LONG_SLICE_BYTES if self._unparsed > SLICE_BYTES else SLICE_BYTES

    @property
    def kept(self) -> int:
        """See ``Handler``."""
        waiting = sum(len(message.get("bytes") or message.get("text", "")) for message in self._messages)
        return self._unparsed + len(self._parts or b"") + waiting

    def feed(self, data: bytes) -> None:
        """See ``Handler``."""
        self._unparsed += len(data)
        self._frames.receive_data(data)
        for frame in self._frames.events_received():
            if not isinstance(frame, Frame) or (self._disconnect is not None and frame.opcode != Opcode.CLOSE):
                continue
            try:
                self._on_frame(frame)
            except UnicodeDecodeError:
                return self._fail(_INVALID_TEXT, BadRequest("a text message was not UTF-8"))
            except SplitregError as error:
                return self._fail(_POLICY_VIOLATION, error)
        problem = self._frames.parser_exc
        if problem is not None:
            kind = TooLarge if isinstance(problem, PayloadTooBig) else BadRequest
            return self._fail(None, kind(f"invalid WebSocket frame: {problem}"))
        self._flush()

    def tick(self, now: float) -> None:
        """See ``Handler``: ping, and close the connection if the client has not answered."""
        if now < self._deadline:
            return
        if self._close_sent or self._ping is not None:
            return self._connection.abort()
        self._ping = os.urandom(4)
        self._deadline = now + _PONG_SECONDS
        self._frames.send_ping(self._ping)
        self._flush()

    def fail(self, error: SplitregError) -> None:
        """See ``Handler``."""
        self._fail(_TRY_LATER, error)

    def lost(self) -> None:
        """See ``Handler``."""
        self._end(_ABNORMAL)

    def _on_frame(self, frame: Frame) -> None:
        size = len(frame.data)
        header = 6 + (0 if size < 126 else 2 if size < 65536 else 8)
        self._unparsed -= header + size
        is_data = frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)
        if not self._connection.count(header + size, size if is_data else 0):
            raise BadRequest("too many control frames or small fragments; send fewer")
        if frame.opcode == Opcode.PONG and bytes(frame.data) == self._ping:
            self._ping, self._deadline = None, self._connection.loop.time() + _PING_SECONDS
        elif frame.opcode == Opcode.CLOSE:
            code = self._frames.close_rcvd.code if self._frames.close_rcvd else _NO_CODE
            self._end(code)
        elif is_data:
            self._on_data(frame)

    def _on_data(self, frame: Frame) -> None:
        if frame.opcode != Opcode.CONT:
            self._is_text = frame.opcode == Opcode.TEXT
        if self._is_text:
            self._utf8.decode(frame.data, frame.fin)
        if frame.opcode != Opcode.CONT and frame.fin:
            data = bytes(frame.data)
        else:
            self._parts = bytearray() if self._parts is None else self._parts
            self._parts += frame.data
            if not frame.fin:
                return
            data, self._parts = bytes(self._parts), None
        message = {"text": data.decode()} if self._is_text else {"bytes": data}
        self._messages.append({"type": "websocket.receive", **message})
        self._event.set()

    def _flush(self) -> None:
        """Write the frames that are due; an empty one asks to close the connection."""
        for data in self._frames.data_to_send():
            if data:
                self._connection.write(data)
            else:
                self._connection.finish()

    def _fail(self, code: int | None, error: SplitregError) -> None:
        """Close the stream because of what the client sent."""
        self._connection.server.refused(self._connection, error)
        if code is not None:
            self._frames.fail(code, str(error)[:120])
        self._flush()
        self._end(_ABNORMAL)
        self._connection.finish()

    def _end(self, code: int) -> None:
        if self._disconnect is None:
            self._disconnect = {"type": "websocket.disconnect", "code": code}
        self._event.set()

    # ASGI

    async def receive(self) -> Message:
        """See ASGI."""
        while not self._messages:
            if self._disconnect is not None:
                return self._disconnect
            self._event.clear()
            await self._event.wait()
        message = self._messages.popleft()
        if not self._messages:
            self._connection.resume()
        return message

    async def send(self, message: Message) -> None:
        """See ASGI."""
        kind = message["type"]
        if self._disconnect is not None:
            return
        if kind == "websocket.accept":
            self._accept(list(message.get("headers", [])))
        elif kind == "websocket.http.response.start":
            self._denial = message["status"], [*message["headers"], (b"connection", b"close")]
        elif kind == "websocket.http.response.body":
            await self._deny(message.get("body", b""))
        elif kind == "websocket.close":
            if not self._accepted:
                self._denial = 403, [(b"content-length", b"0"), (b"connection", b"close")]
                return await self._deny(b"")
            self._frames.send_close(message.get("code", 1000), message.get("reason") or "")
            self._flush()
            self._close_sent, self._deadline = True, self._connection.loop.time() + _CLOSE_SECONDS
            self._end(message.get("code", 1000))
            self._messages.clear()
            self._connection.resume()
        else:
            await self._send_message(message)

    async def _send_message(self, message: Message) -> None:
        """Send a message; a long one in fragments, so that pongs are not kept waiting."""
        data = message.get("bytes")
        is_text = data is None
        data = message["text"].encode() if data is None else data
        async with self._sending:
            for start in range(0, len(data) or 1, _FRAGMENT_BYTES):
                if self._disconnect is not None:
                    return
                part, last = data[start : start + _FRAGMENT_BYTES], start + _FRAGMENT_BYTES >= len(data)
                if start:
                    self._frames.send_continuation(part, last)
                elif is_text:
                    self._frames.send_text(part, last)
                else:
                    self._frames.send_binary(part, last)
                self._flush()
                await self._connection.drain()

    def returned(self) -> None:
        """The application has returned."""
        if self._disconnect is None:
            self._connection.abort()

    def _accept(self, headers: list[tuple[bytes, bytes]]) -> None:
        digest = hashlib.sha1(self._key + _KEY_SUFFIX, usedforsecurity=False).digest()
        headers += [
            (b"upgrade", b"websocket"), (b"connection", b"Upgrade"),
            (b"sec-websocket-accept", base64.b64encode(digest)),
        ]  # fmt: skip
        self._connection.write(response_head(101, headers))
        self._accepted, self._deadline = True, self._connection.loop.time() + _PING_SECONDS
        self._connection.resume()

    async def _deny(self, body: bytes) -> None:
        """Send an HTTP response instead of opening the WebSocket."""
        assert self._denial is not None
        self._connection.write(response_head(*self._denial))
        await self._connection.send(body)
        self._end(_ABNORMAL)
        self._connection.finish()
