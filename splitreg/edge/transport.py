"""HTTP of a device: one reused connection, TLS, one deadline per exchange, and its measurements."""

from __future__ import annotations

import http.client
import io
import os
import socket
import ssl
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from splitreg.errors import RecipeError, Unreachable
from splitreg.wire.answers import MAX_ANSWER_BYTES

#: Environment variable of the token, if none is passed.
TOKEN_VARIABLE = "SPLITREG_TOKEN"
_CHUNK_BYTES = 1 << 20
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The reply of a server.

    Args:
        status: HTTP status code.
        headers: name in lower case -> value.
        body: the whole body, decompressed.
        sent_bytes: size of the request, headers included, before TLS.
        received_bytes: size of the reply, headers included, after TLS.
        first_byte_s: seconds from the first byte sent to the first byte received.
        seconds: seconds from the first byte sent to the last byte received.
        reused: whether the connection was open already.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent_bytes: int
    received_bytes: int
    first_byte_s: float
    seconds: float
    reused: bool


class Transport:
    """A connection to one server, opened on the first request and reused; for one thread at a time.

    Args:
        url: ``http://`` or ``https://``, host, port, and a path prefix of all routes.
        token: sent with every request; None: the variable SPLITREG_TOKEN, if set.
        ca: PEM file of trusted certificate authorities; the system's by default.
        insecure: allow a token over plain HTTP to another host, and any certificate.

    Raises:
        RecipeError: an invalid URL, token or PEM file, or the token would be sent unencrypted.
    """

    def __init__(
        self, url: str, *, token: str | None = None, ca: str | Path | None = None, insecure: bool = False
    ) -> None:
        self.url = url.rstrip("/")
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError as cause:
            raise RecipeError(f"invalid URL {url!r}: {cause}") from cause
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or parts.username:
            raise RecipeError(f"invalid URL {url!r}; expected for instance https://host:8080")
        self._host, self._port = host, port or (443 if parts.scheme == "https" else 80)
        self._path = parts.path
        self._tls = _tls_context(ca, insecure) if parts.scheme == "https" else None
        if ca is not None and self._tls is None:
            raise RecipeError(f"ca requires an https:// URL, got {url!r}")
        token = token if token is not None else os.environ.get(TOKEN_VARIABLE) or None
        if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
            raise RecipeError("a token must be printable ASCII without spaces")
        if token and self._tls is None and not insecure and host not in _LOOPBACK:
            raise RecipeError(f"the token would be sent to {host} unencrypted; use https, or allow it with insecure")
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._connection: http.client.HTTPConnection | None = None
        self._socket: _CountingSocket | None = None

    @property
    def headers(self) -> Mapping[str, str]:
        """Headers of every request."""
        return self._headers

    @property
    def tls(self) -> ssl.SSLContext | None:
        """How the server is verified; None for ``http://``."""
        return self._tls

    def websocket_url(self, path: str) -> str:
        """Return the ``ws://`` or ``wss://`` address of a route."""
        return "ws" + self.url.removeprefix("http") + path

    def untrusted(self, cause: ssl.SSLCertVerificationError) -> RecipeError:
        """Return the error of a certificate that is not trusted; a retry would not help."""
        return RecipeError(
            f"the certificate of {self.url} is not trusted ({cause.verify_message}); pass the PEM file of its authority "
            "as ca"
        )

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._socket = None

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, timeout_s: float
    ) -> Reply:
        """Send a request and read the whole reply.

        Args:
            method: HTTP method.
            path: route and query.
            body: of the request.
            headers: in addition to those of the connection.
            timeout_s: for connecting, sending and reading together.

        Raises:
            Unreachable: no connection, a broken one, a timeout, or a reply that is not HTTP. The
                server may have read the request.
            RecipeError: the server's certificate is not trusted.
        """
        deadline = time.monotonic() + timeout_s
        reused = self._connection is not None
        try:
            try:
                return self._exchange(method, path, body, headers or {}, deadline, reused)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # The server has closed an idle connection: try once more on a new one.
                self.close()
                if not reused:
                    raise
                return self._exchange(method, path, body, headers or {}, deadline, False)
        except ssl.SSLCertVerificationError as cause:  # a retry would not help
            self.close()
            raise self.untrusted(cause) from cause
        except (OSError, http.client.HTTPException, ValueError, zlib.error) as cause:
            self.close()
            raise Unreachable(f"{_reason(cause, timeout_s)}: {self.url}") from cause
        except BaseException:
            self.close()  # a reply may be half read
            raise

    def _exchange(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], deadline: float, reused: bool
    ) -> Reply:
        connection, sock = self._connect(deadline)
        sock.begin(deadline)
        # As few headers as possible: each byte counts on a slow link, and http.client would add more.
        connection.putrequest(method, self._path + path, skip_accept_encoding=True)
        connection.putheader("Accept-Encoding", "gzip")  # a mask shrinks to a hundredth
        for name, value in {**self._headers, **headers}.items():
            connection.putheader(name, value)
        if body or method == "POST":
            connection.putheader("Content-Length", str(len(body)))
        started = time.monotonic()
        connection.endheaders(body or None)
        response = connection.getresponse()
        data = _decompress(_body(response), response.getheader("Content-Encoding", ""))
        ended = time.monotonic()
        if response.will_close:
            self.close()
        return Reply(
            status=response.status, headers={name.lower(): value for name, value in response.getheaders()}, body=data,
            sent_bytes=sock.sent, received_bytes=sock.received, first_byte_s=sock.first - started,
            seconds=ended - started, reused=reused,
        )  # fmt: skip

    def _connect(self, deadline: float) -> tuple[http.client.HTTPConnection, _CountingSocket]:
        if self._connection is None or self._socket is None:
            raw = socket.create_connection((self._host, self._port), timeout=_left(deadline))
            try:
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    raw.settimeout(_left(deadline))
                    raw = self._tls.wrap_socket(raw, server_hostname=self._host)
            except BaseException:
                raw.close()
                raise
            self._connection = http.client.HTTPConnection(self._host, self._port)
            self._socket = _CountingSocket(raw)
            self._connection.sock = self._socket  # has what http.client uses of a socket
        return self._connection, self._socket


class _CountingSocket:
    """The part of a socket that ``http.client`` uses, with one deadline and byte counts."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw
        self.begin(0.0)

    def begin(self, deadline: float) -> None:
        self.deadline, self.sent, self.received, self.first = deadline, 0, 0, 0.0

    def sendall(self, data: bytes) -> None:
        self.raw.settimeout(_left(self.deadline))
        self.raw.sendall(data)
        self.sent += len(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        # http.client closes the socket before its reader if the server will close the connection.
        return io.BufferedReader(_ReplyStream(self, self.raw.makefile("rb", buffering=0)))

    def close(self) -> None:
        self.raw.close()


class _ReplyStream(io.RawIOBase):
    """The bytes of one reply; http.client closes it after reading, and the connection stays open."""

    def __init__(self, sock: _CountingSocket, file: socket.SocketIO) -> None:
        self.sock, self.file = sock, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        sock = self.sock
        sock.raw.settimeout(_left(sock.deadline))
        count = sock.raw.recv_into(buffer)
        sock.first = sock.first or time.monotonic()
        sock.received += count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


def _body(response: http.client.HTTPResponse) -> bytes:
    """Read a body in chunks, so that memory depends on the bytes received and not on a header."""
    chunks, size = [], 0
    while chunk := response.read(_CHUNK_BYTES):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise http.client.HTTPException(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
    if response.length:  # http.client does not report a connection that ends early
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(chunks)


def _decompress(data: bytes, encoding: str) -> bytes:
    if encoding.lower() in ("", "identity"):
        return data
    if encoding.lower() != "gzip":
        raise http.client.HTTPException(f"the answer has encoding {encoding[:40]!r}; gzip was requested")
    gunzip = zlib.decompressobj(wbits=31)
    whole = gunzip.decompress(data, MAX_ANSWER_BYTES + 1)
    if not gunzip.eof or len(whole) > MAX_ANSWER_BYTES:
        raise http.client.HTTPException(f"the answer is cut short, or has more than {MAX_ANSWER_BYTES} bytes")
    return whole


def read_token(path: str | Path) -> str:
    """Read the token in a file.

    Raises:
        RecipeError: there is no such file, it is empty or not ASCII.
    """
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as cause:
        raise RecipeError(
            f"cannot read the token in {path}: {getattr(cause, 'strerror', None) or 'not ASCII'}"
        ) from cause
    if not token:
        raise RecipeError(f"no token in {path}: the file is empty")
    return token


def _tls_context(ca: str | Path | None, insecure: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as cause:  # ssl.SSLError is one
        raise RecipeError(
            f"cannot read certificates from {ca} (ca): {cause.strerror or cause}; expected a PEM file"
        ) from cause
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _reason(cause: Exception, timeout_s: float) -> str:
    if isinstance(cause, TimeoutError):
        return f"timeout after {timeout_s:.3g} s"
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(
        cause, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError | http.client.IncompleteRead
    ):
        return "connection broken"
    return f"no answer ({getattr(cause, 'strerror', None) or cause or type(cause).__name__})"
