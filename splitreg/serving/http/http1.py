"""HTTP/1.1 on a connection: ``httptools`` parses requests, an ASGI application answers them."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import httptools
from starlette.types import Message, Scope

from splitreg.errors import SlowRequest, SplitregError, TooLarge, Unavailable
from splitreg.serving.http.connection import SLICE_BYTES
from splitreg.serving.http.responses import response_head
from splitreg.serving.http.websocket import WebSocket, check_handshake
from splitreg.serving.routing_errors import Malformed

if TYPE_CHECKING:
    from splitreg.serving.http.connection import Connection

#: Bytes of a request line with its headers; number of headers, and of trailers.
_MAX_HEAD_BYTES, _MAX_HEADERS = 16 * 1024, 100
#: Bytes of a body that wait for the application; then the connection is not read.
_MAX_WAITING_BYTES = 64 * 1024
#: A body with at most this many bytes is read to its end after an early response, so that the
#: connection can be used again.
_SMALL_BODY_BYTES = 64 * 1024
#: A response body with at most this many bytes is sent together with its head.
_MAX_JOINED_BYTES = 16 * 1024
#: Seconds after which a client may retry if there are too many connections.
_RETRY_SECONDS = 5.0
#: RFC 9112, 3.2.2: a target with scheme and authority, as sent to a proxy.
_ABSOLUTE = re.compile(rb"https?://([^/?]*)", re.IGNORECASE)
#: RFC 3986, 3.2.2: a name or an IPv4 address, or an IPv6 address, and an optional port.
_HOST = re.compile(
    rb"(?:(?:[\w.~!$&'()*+,;=-]|%[0-9a-f]{2})+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?", re.IGNORECASE | re.ASCII
)
#: Headers that may occur once, and those that may not follow a body (RFC 9110, 5.3 and 6.5.1).
_SINGLE = {b"host", b"content-length", b"content-type", b"authorization"}
_NEVER_TRAILERS = {*_SINGLE, b"transfer-encoding"}
#: Methods of proxies, Icecast and RTSP (which also has OPTIONS, and version 1.0).
_OTHER_METHODS = {
    "CONNECT", "SOURCE", "DESCRIBE", "ANNOUNCE", "SETUP", "PLAY", "PAUSE", "TEARDOWN", "GET_PARAMETER", "SET_PARAMETER",
    "REDIRECT", "RECORD", "FLUSH",
}  # fmt: skip
_UPGRADE = {b"connection", b"upgrade", b"http2-settings"}

Header = tuple[bytes, bytes]


class Http1:
    """Parses requests and runs the application for one after the other.

    Args:
        connection: whose bytes these are.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._config = connection.server.config
        self._parser = self._new_parser()
        self._head_bytes = 0
        self._url = b""
        self._headers: list[Header] = []
        self._trailers = 0
        #: Accepted requests; the first one runs.
        self._requests: deque[Request] = deque()
        #: The request whose body is being received.
        self._receiving: Request | None = None
        #: What is wrong with the bytes after the last accepted request.
        self._error: SplitregError | None = None
        self._replaying = False
        self._idle = True
        self._deadline = connection.loop.time() + self._config.header_timeout_seconds

    @property
    def readable(self) -> bool:
        """See ``Handler``: a request is read when the one before is answered."""
        if self._error is not None:
            return False
        if self._receiving is not None:
            return len(self._receiving.body) < _MAX_WAITING_BYTES
        return not self._requests

    @property
    def slice_bytes(self) -> int:
        """See ``Handler``: the rest of a body without chunks costs little."""
        return SLICE_BYTES if self._receiving is None else max(SLICE_BYTES, self._receiving.expected)

    @property
    def kept(self) -> int:
        """See ``Handler``."""
        return sum(len(request.body) for request in self._requests)

    def feed(self, data: bytes) -> None:
        """See ``Handler``."""
        if self._idle:
            self._idle = False
            self._deadline = self._connection.loop.time() + self._config.header_timeout_seconds
        request = self._receiving
        before = 0 if request is None else request.received
        try:
            self._feed(data)
            if self._receiving is None and self._requests == deque():
                self._head_bytes += len(data)
                self._check_size(self._head_bytes)
            if request is not None and request.chunked:
                if not self._connection.count(len(data), request.received - before):
                    raise Malformed(400, "the body has too little content for its chunk headers; use larger chunks")
        except SplitregError as error:
            self.fail(error)

    def tick(self, now: float) -> None:
        """See ``Handler``."""
        waiting = not self._requests or (self._requests[0].answered and self._receiving is not None)
        if not waiting or now < self._deadline:
            return
        if self._idle or self._requests:
            self._connection.close()
        else:
            seconds = self._config.header_timeout_seconds
            self.fail(SlowRequest(f"the headers were not received within {seconds:g} s"))
            self._connection.close()

    def lost(self) -> None:
        """See ``Handler``."""
        for request in self._requests:
            request.disconnect()

    # httptools' side

    def on_message_begin(self) -> None:
        """A request begins."""
        if not self._replaying:
            self._url, self._headers, self._head_bytes, self._trailers = b"", [], 0, 0

    def on_url(self, url: bytes) -> None:
        """A part of the request target."""
        if not self._replaying:
            self._url += url
            self._check_size(len(self._url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which is ignored."""
        if self._receiving is not None and not self._replaying:
            self._trailers += 1
            if name.lower() in _NEVER_TRAILERS:
                raise Malformed(400, f"{name.decode()} may not be a trailer")
        elif not self._replaying:
            self._headers.append((name.lower(), value))
        if len(self._headers) > _MAX_HEADERS or self._trailers > _MAX_HEADERS:
            raise Malformed(431, f"a request may have at most {_MAX_HEADERS} headers, got more")

    def on_headers_complete(self) -> None:
        """All headers of a request."""
        if self._replaying:
            return
        request = Request(self._connection, self._scope(), self._on_answered)
        if self._connection.refusal:
            raise Unavailable(self._connection.refusal, retry_after_s=_RETRY_SECONDS)
        self._receiving = request
        if not self._parser.should_upgrade():
            self._accept(request)

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        if self._receiving is not None:
            self._receiving.append(body)

    def on_message_complete(self) -> None:
        """The end of a body."""
        if self._receiving is not None and not (self._parser.should_upgrade() and not self._replaying):
            request, self._receiving = self._receiving, None
            request.complete()
            if request.answered:
                self._on_answered(request)

    def _feed(self, data: bytes) -> None:
        """Parse bytes.

        Raises:
            SplitregError: they are refused.
        """
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserCallbackError as error:
            if isinstance(error.__context__, SplitregError):
                raise error.__context__ from None
            raise
        except httptools.HttpParserError as error:
            if "overflow" in str(error):  # of Content-Length or a chunk's size, beyond 64 bits
                limit = self._config.max_body_bytes
                raise TooLarge(f"a request body may have at most {limit} bytes, got more") from error
            raise Malformed(400, f"this is not HTTP/1.1: {error}") from error

    def _new_parser(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # such data is not processed
        return parser

    def _scope(self) -> Scope:
        """Return the ASGI scope of the request whose headers were received.

        Raises:
            Malformed: HTTP requires to refuse it.
        """
        version, headers = self._parser.get_http_version(), self._headers
        method = self._parser.get_method().decode()
        if version not in ("1.0", "1.1"):
            raise Malformed(505, f"HTTP versions 1.0 and 1.1 are supported, got {version}")
        fields: dict[bytes, bytes] = {}
        for name, value in headers:
            if name in fields and name in _SINGLE:
                raise Malformed(400, f"a request may have one {name.decode()} header, got several")
            fields[name] = fields[name] + b"," + value if name in fields else value
        absolute = _ABSOLUTE.match(self._url)
        if absolute is not None:  # replaces the header
            headers[:] = [(b"host", absolute[1]), *(header for header in headers if header[0] != b"host")]
        host = absolute[1] if absolute is not None else fields.get(b"host")
        if host is None and version == "1.1":
            raise Malformed(400, "a request must have a Host header")
        if host is not None and not _HOST.fullmatch(host):
            raise Malformed(400, f"Host must be a name or an address with an optional port, got {host[:80]!r}")
        coding = fields.get(b"transfer-encoding", b"").strip().lower()
        if coding and (coding != b"chunked" or version == "1.0"):
            raise Malformed(501 if version == "1.1" else 400, f"Transfer-Encoding must be chunked, got {coding[:40]!r}")
        if fields.get(b"expect", b"100-continue").lower() != b"100-continue":
            raise Malformed(417, f"Expect must be 100-continue, got {fields[b'expect'][:40]!r}")
        target = self._url if absolute is None else self._url[absolute.end() :] or b"/"
        if method in _OTHER_METHODS or (method, version) == ("OPTIONS", "1.0"):
            raise Malformed(501, f"method {method} is not supported")
        if target[:1] not in (b"/", b"?") and (target, method) != (b"*", "OPTIONS"):
            raise Malformed(400, f"the target of a request must be a path, got {target[:80]!r}")
        raw_path, _, query = target.partition(b"#")[0].partition(b"?")
        return {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": version,
            "method": method, "scheme": self._connection.server.scheme, "path": unquote(raw_path.decode("ascii")) or "/",
            "raw_path": raw_path or b"/", "query_string": query, "root_path": "", "headers": headers,
            "client": (self._connection.client, 0), "state": {"abort": self._connection.abort},
        }  # fmt: skip

    def _upgrade(self, rest: bytes) -> None:
        """Continue as a WebSocket; ignore every other upgrade (RFC 9110, 7.8)."""
        request, self._receiving = self._receiving, None
        assert request is not None
        if request.has_token(b"upgrade", b"websocket") and request.scope["http_version"] == "1.1":
            key = check_handshake(request.scope)
            if self._requests:
                raise Malformed(400, "a WebSocket may not be opened while a request on the connection is not answered")
            connection = self._connection
            connection.unread[:0] = rest
            connection.handler = WebSocket(connection, request.scope, key)
            return
        lines = [b"%s %s HTTP/1.1" % (request.scope["method"].encode(), self._url)]
        lines += [b"%s: %s" % header for header in self._headers if header[0] not in _UPGRADE]
        self._accept(request)
        self._receiving, self._replaying, self._parser = request, True, self._new_parser()
        self._parser.feed_data(b"\r\n".join([*lines, b"", b""]))
        self._replaying = False
        self._feed(rest)

    # requests and responses

    def _accept(self, request: Request) -> None:
        self._requests.append(request)
        if len(self._requests) == 1:
            self._connection.server.run(self._connection, request)

    def _on_answered(self, request: Request) -> None:
        """Continue after the response to a request, once its body is received."""
        connection = self._connection
        if request.closes:
            connection.finish()
        elif request is not self._receiving:
            self._requests.popleft()
            now = connection.loop.time()
            if self._requests:
                connection.server.run(connection, self._requests[0])
            elif self._error is not None:
                self.fail(self._error)
            else:
                self._idle, self._deadline = True, now + self._config.keep_alive_seconds
                connection.server.wait(connection)
                connection.resume()
        else:
            self._deadline = connection.loop.time() + self._config.header_timeout_seconds

    def fail(self, error: SplitregError) -> None:
        """See ``Handler``; responses to earlier requests come first."""
        self._error = error
        request, self._receiving = self._receiving, None
        if request is not None and request in self._requests:
            self._requests.remove(request)
            request.disconnect()
            if request.started:
                return self._connection.abort()
        if not self._requests:
            self._connection.refuse(error)

    def _check_size(self, count: int) -> None:
        if count > _MAX_HEAD_BYTES:
            raise Malformed(431, f"a request line with its headers may have at most {_MAX_HEAD_BYTES} bytes, got more")


class Request:
    """One request and its response, as ASGI's ``receive`` and ``send``.

    Args:
        connection: where it came from.
        scope: of ASGI.
        on_answered: called after the response.

    Attributes:
        body: bytes that were received and not yet taken by the application.
        received: number of bytes of the body that were received.
        chunked: whether the body has chunks.
        started: whether the response has begun.
        answered: whether the response was sent.
        closes: whether the connection closes after the response.
    """

    def __init__(self, connection: Connection, scope: Scope, on_answered: Any) -> None:
        self.scope = scope
        self.body = bytearray()
        self.received = 0
        self.started = self.answered = False
        self._connection = connection
        self._on_answered = on_answered
        self._complete = self._disconnected = False
        self._delivered = False
        self._event = asyncio.Event()
        self._head = b""
        self._fields = {name: value for name, value in scope["headers"]}
        self.chunked = b"transfer-encoding" in self._fields
        self._declared = 0 if self.chunked else int(self._fields.get(b"content-length", b"0"))
        self._expects_continue = b"expect" in self._fields and scope["http_version"] == "1.1"
        self.closes = scope["http_version"] == "1.0" or self.has_token(b"connection", b"close")

    @property
    def expected(self) -> int:
        """Bytes that are still to be received, as far as it is known."""
        return self._declared - self.received

    def has_token(self, name: bytes, token: bytes) -> bool:
        """Return whether a header that is a list contains a token."""
        values = (value for header, value in self.scope["headers"] if header == name)
        return any(token == part.strip().lower() for value in values for part in value.split(b","))

    def append(self, data: bytes) -> None:
        """Receive a part of the body; it is discarded once the response has begun."""
        self.received += len(data)
        if not self.started:
            self.body += data
            self._event.set()

    def complete(self) -> None:
        """Receive the end of the body."""
        self._complete = True
        self._event.set()

    def disconnect(self) -> None:
        """Tell the application that nobody waits for its response."""
        self._disconnected = True
        self._event.set()

    async def receive(self) -> Message:
        """See ASGI."""
        if self._expects_continue and not (self._complete or self.started or self.received):
            self._connection.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._expects_continue = False
        while not (self._disconnected or self.answered):
            if not self.started and (self.body or (self._complete and not self._delivered)):
                data, self._delivered = bytes(self.body), self._complete
                self.body.clear()
                self._connection.resume()
                return {"type": "http.request", "body": data, "more_body": not self._complete}
            self._event.clear()
            await self._event.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """See ASGI."""
        if self._disconnected:
            return
        if message["type"] == "http.response.start":
            self.started = True
            self.body.clear()
            self._connection.resume()
            headers = list(message["headers"])
            self.closes = self.closes or message["status"] == 408 or not self._reusable()
            if self.closes:
                headers.append((b"connection", b"close"))
            self._head = response_head(message["status"], headers)
            return
        data = message.get("body", b"") if self.scope["method"] != "HEAD" else b""
        if len(data) > _MAX_JOINED_BYTES:
            self._connection.write(self._head)
            await self._connection.send(data)
        else:
            await self._connection.send(self._head + data)
        self._head = b""
        if not message.get("more_body", False) and not self._disconnected:
            self.answered = True
            self._event.set()
            self._on_answered(self)

    def returned(self) -> None:
        """The application has returned."""
        if not (self.answered or self._disconnected):
            self._connection.abort()

    def _reusable(self) -> bool:
        """Return whether the rest of the body is small enough to be read after the response."""
        return self._complete or (not self.chunked and self._declared <= _SMALL_BODY_BYTES)
