"""HTTP from a device: one kept connection, TLS, a deadline for the whole exchange, and what each exchange took."""

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

#: Variable that holds the token where none is given.
TOKEN_VARIABLE = "SPLITREG_TOKEN"
_PIECE = 1 << 20
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back.

    Args:
        status: of HTTP.
        headers: names in lower case.
        body: whole.
        sent_bytes: of the request, headers included, before TLS.
        received_bytes: likewise of the reply.
        first_byte_s: seconds from the first byte sent to the first byte received.
        seconds: from the first byte sent to the last byte received.
        kept: whether the connection was open already.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    sent_bytes: int
    received_bytes: int
    first_byte_s: float
    seconds: float
    kept: bool


class Transport:
    """A connection to one server, opened when it is needed and kept between requests; for one thread at a time.

    Args:
        url: ``http://`` or ``https://``, host, port, and a path that all routes begin with.
        token: sent with every request; None: what the variable SPLITREG_TOKEN says, if anything.
        ca: PEM file of the authorities to trust; the system's by default.
        insecure: allow a token without TLS to another machine, and any certificate.

    Raises:
        RecipeError: the address or the file is not one, or the token would cross a network in the clear.
    """

    def __init__(
        self, url: str, *, token: str | None = None, ca: str | Path | None = None, insecure: bool = False
    ) -> None:
        self.url = url.rstrip("/")
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port
        except ValueError as cause:
            raise RecipeError(f"{url!r} is not the address of a server: {cause}") from cause
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or parts.username:
            raise RecipeError(f"{url!r} is not the address of a server; one is https://host:8080")
        self._host, self._port = host, port or (443 if parts.scheme == "https" else 80)
        self._path = parts.path
        self._tls = _trust(ca, insecure) if parts.scheme == "https" else None
        if ca is not None and self._tls is None:
            raise RecipeError(f"authorities to trust go with https, and the address is {url!r}")
        token = token if token is not None else os.environ.get(TOKEN_VARIABLE) or None
        if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
            raise RecipeError("a token is printable ASCII without spaces")
        if token and self._tls is None and not insecure and host not in _LOOPBACK:
            raise RecipeError(
                f"the token would go to {host} in the clear; use https, or say that this network may see it (insecure)"
            )
        self._fixed = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._connection: http.client.HTTPConnection | None = None
        self._wire: _Wire | None = None

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._wire = None

    def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, timeout_s: float
    ) -> Reply:
        """Send a request and read the whole reply.

        Args:
            method: of HTTP.
            path: of the route, with its query.
            body: sent with its length.
            headers: beside those of the connection.
            timeout_s: for connecting, sending and reading together.

        Raises:
            Unreachable: no connection, a broken one, silence, or what is not HTTP. The server may have read the request.
        """
        until = time.monotonic() + timeout_s
        kept = self._connection is not None
        try:
            try:
                return self._exchange(method, path, body, headers or {}, until, kept)
            except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                # The usual end of a connection that was idle for long: the server closed it. Once more, on a new one.
                self.close()
                if not kept:
                    raise
                return self._exchange(method, path, body, headers or {}, until, False)
        except ssl.SSLCertVerificationError as cause:  # nothing that passes
            self.close()
            raise RecipeError(
                f"the certificate of {self.url} is not trusted ({cause.verify_message}); name its authority's file (ca)"
            ) from cause
        except (OSError, http.client.HTTPException, ValueError, zlib.error) as cause:
            self.close()
            raise Unreachable(f"{_what(cause, timeout_s)}: {self.url}") from cause
        except BaseException:
            self.close()  # a reply may be half read
            raise

    def _exchange(
        self, method: str, path: str, body: bytes, headers: Mapping[str, str], until: float, kept: bool
    ) -> Reply:
        connection, wire = self._connected(until)
        wire.begin(until)
        # Few headers: each byte counts on a slow link, and http.client would add more.
        connection.putrequest(method, self._path + path, skip_accept_encoding=True)
        connection.putheader("Accept-Encoding", "gzip")  # a mask is a hundredth of its size then
        for name, value in {**self._fixed, **headers}.items():
            connection.putheader(name, value)
        if body or method == "POST":
            connection.putheader("Content-Length", str(len(body)))
        started = time.monotonic()
        connection.endheaders(body or None)
        response = connection.getresponse()
        data = _unpacked(_body(response), response.getheader("Content-Encoding", ""))
        ended = time.monotonic()
        if response.will_close:
            self.close()
        return Reply(
            status=response.status, headers={name.lower(): value for name, value in response.getheaders()}, body=data,
            sent_bytes=wire.sent, received_bytes=wire.received, first_byte_s=wire.first - started,
            seconds=ended - started, kept=kept,
        )  # fmt: skip

    def _connected(self, until: float) -> tuple[http.client.HTTPConnection, _Wire]:
        if self._connection is None or self._wire is None:
            raw = socket.create_connection((self._host, self._port), timeout=_left(until))
            try:
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    raw.settimeout(_left(until))
                    raw = self._tls.wrap_socket(raw, server_hostname=self._host)
            except BaseException:
                raw.close()
                raise
            self._connection = http.client.HTTPConnection(self._host, self._port)
            self._wire = _Wire(raw)
            self._connection.sock = self._wire  # all that http.client uses of a socket
        return self._connection, self._wire


class _Wire:
    """What ``http.client`` uses of a socket, with one deadline for all that is sent and read, and counts."""

    def __init__(self, raw: socket.socket) -> None:
        self.raw = raw
        self.begin(0.0)

    def begin(self, until: float) -> None:
        self.until, self.sent, self.received, self.first = until, 0, 0, 0.0

    def sendall(self, data: bytes) -> None:
        self.raw.settimeout(_left(self.until))
        self.raw.sendall(data)
        self.sent += len(data)

    def makefile(self, _mode: str) -> io.BufferedReader:
        # The socket stays open until its readers are closed: http.client closes it first where the server will.
        return io.BufferedReader(_Reading(self, self.raw.makefile("rb", buffering=0)))

    def close(self) -> None:
        self.raw.close()


class _Reading(io.RawIOBase):
    """One reply; http.client closes it when it is read, and the connection stays."""

    def __init__(self, wire: _Wire, file: socket.SocketIO) -> None:
        self.wire, self.file = wire, file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wire = self.wire
        wire.raw.settimeout(_left(wire.until))
        count = wire.raw.recv_into(buffer)
        wire.first = wire.first or time.monotonic()
        wire.received += count
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


def _body(response: http.client.HTTPResponse) -> bytes:
    """Read a body piece by piece: memory is for what has come, not for what a header claims."""
    pieces, size = [], 0
    while piece := response.read(_PIECE):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise http.client.HTTPException(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    if response.length:  # http.client says nothing when the connection ends early
        raise http.client.IncompleteRead(b"", response.length)
    return b"".join(pieces)


def _unpacked(data: bytes, encoding: str) -> bytes:
    if encoding.lower() in ("", "identity"):
        return data
    if encoding.lower() != "gzip":
        raise http.client.HTTPException(f"an answer in {encoding[:40]!r}, which was not asked for")
    gunzip = zlib.decompressobj(wbits=31)
    whole = gunzip.decompress(data, MAX_ANSWER_BYTES + 1)
    if not gunzip.eof or len(whole) > MAX_ANSWER_BYTES:
        raise http.client.HTTPException(f"an answer that is cut short, or of more than {MAX_ANSWER_BYTES} bytes")
    return whole


def read_token(path: str | Path) -> str:
    """Return the token in a file.

    Raises:
        RecipeError: there is no such file, or it is empty.
    """
    try:
        token = Path(path).read_text(encoding="ascii").strip()
    except (OSError, ValueError) as cause:
        raise RecipeError(
            f"cannot read the token in {path}: {getattr(cause, 'strerror', None) or 'not ASCII'}"
        ) from cause
    if not token:
        raise RecipeError(f"the file {path} holds no token")
    return token


def _trust(ca: str | Path | None, insecure: bool) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if ca is None else str(ca))
    except OSError as cause:  # ssl.SSLError is one
        raise RecipeError(f"{ca} is not a PEM file of certificates: {cause.strerror or cause}") from cause
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


def _what(cause: Exception, timeout_s: float) -> str:
    if isinstance(cause, TimeoutError):
        return f"no answer within {timeout_s:.3g} s"
    if isinstance(cause, ConnectionRefusedError):
        return "nobody listens there"
    if isinstance(
        cause, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError | http.client.IncompleteRead
    ):
        return "the connection broke"
    return f"no answer ({getattr(cause, 'strerror', None) or cause or type(cause).__name__})"
