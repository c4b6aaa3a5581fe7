"""The HTTP protocol of client and server: routes, headers, media types, errors, messages."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from splitreg import errors
from splitreg.coding import MAX_PACKET_BYTES
from splitreg.errors import BadRequest, CorruptAnswer, CorruptPacket, ServiceError, SplitregError

INFER, STREAM, MODELS, RELOAD = "/v1/infer", "/v1/stream", "/v1/models", "/v1/reload"
HEALTHZ, READYZ, METRICS, PAGE = "/healthz", "/readyz", "/metrics", "/"

#: Media types of a body: one packet; several, each after its length (4 bytes, little-endian).
PACKET, PACKETS = "application/vnd.splitreg.packet", "application/vnd.splitreg.packets"
#: Media types of an answer: exact arrays (``splitreg.wire.pack``), JSON, or few bytes
#: (``splitreg.wire.compact``).
ANSWERS, JSON = "application/vnd.splitreg.answers", "application/json"
COMPACT = "application/vnd.splitreg.compact"

DEADLINE, IDEMPOTENCY = "X-Splitreg-Deadline-Ms", "Idempotency-Key"
QUEUE_MS, COMPUTE_MS = "X-Splitreg-Queue-Ms", "X-Splitreg-Compute-Ms"

#: Error -> HTTP status; the first class in an error's MRO that is listed counts.
STATUSES: dict[type[SplitregError], int] = {
    errors.ForeignPacket: 409,
    errors.KeyFrameNeeded: 409,
    errors.CodingError: 400,
    errors.RecipeError: 400,
    errors.BadRequest: 400,
    errors.ImageError: 400,
    errors.Unauthorized: 401,
    errors.SlowRequest: 408,
    errors.TooLarge: 413,
    errors.KeyReused: 422,
    errors.RateLimited: 429,
    errors.Unavailable: 503,
    errors.DeadlinePassed: 504,
    errors.WorkerLost: 500,
}
#: Statuses a client may retry; 504, and a connection lost before the answer, only with an
#: idempotency key.
RETRIABLE = frozenset({408, 429, 503})
RETRIABLE_WITH_KEY = RETRIABLE | {504}

_LENGTH = struct.Struct("<I")
_REQUEST, _ANSWER = struct.Struct("<Q"), struct.Struct("<QH")
_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


def status_of(error: SplitregError) -> int:
    """Return the HTTP status of an error; 500 if it is the server's fault."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def error_body(error: SplitregError, **more: Any) -> dict[str, Any]:
    """Return the JSON body of an error: ``{"error": {"type", "message", ...}}``.

    Args:
        error: ``type`` is its class name, ``message`` its text.
        more: further fields.
    """
    after = error.retry_after_s if isinstance(error, ServiceError) else None
    fields = {"type": type(error).__name__, "message": str(error), **more}
    return {"error": fields if after is None else {**fields, "retry_after_s": round(after, 3)}}


def error_from(status: int | None, body: Any, retry_after: str | None = None) -> SplitregError:
    """Return the error that a server sent, as its own class if that class is known here.

    Args:
        status: of the HTTP response or the stream's message. The class is ignored if its status
            differs; None accepts any class.
        body: the parsed JSON; a proxy may send anything instead.
        retry_after: the header ``Retry-After``, in seconds.
    """
    fields = body.get("error") if isinstance(body, dict) else None
    fields = fields if isinstance(fields, dict) else {}
    name, message = str(fields.get("type")), str(fields.get("message", f"the server answered {status}"))[:2000]
    after = _seconds(fields.get("retry_after_s", retry_after))
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, SplitregError)) or (
        status is not None and STATUSES.get(kind, status) != status
    ):
        kind = next((kind for kind, its in STATUSES.items() if its == status and issubclass(kind, ServiceError)), None)
        kind = kind or ServiceError
    if issubclass(kind, ServiceError):
        return kind(message, retry_after_s=after)
    try:
        return kind(message)
    except TypeError:  # classes that take more than a message are never sent by a server
        return ServiceError(message, retry_after_s=after)


def check_key(key: str) -> str:
    """Return a valid idempotency key.

    Raises:
        BadRequest: it is not 1 to 64 letters, digits, "_" and "-".
    """
    if not _KEY.fullmatch(key):
        raise BadRequest(f'{IDEMPOTENCY} must be 1 to 64 letters, digits, "_" and "-", got {key[:80]!r}')
    return key


def join_packets(packets: Iterable[bytes]) -> bytes:
    """Return a body of several packets, each after its length."""
    return b"".join(_LENGTH.pack(len(packet)) + packet for packet in packets)


def split_packets(body: bytes) -> Iterator[bytes]:
    """Yield the packets of a body from ``join_packets``.

    Raises:
        CorruptPacket: the body is truncated, or a packet exceeds the limit.
    """
    start = 0
    while start < len(body):
        if len(body) - start < _LENGTH.size:
            raise CorruptPacket(f"the body is truncated: it ends within the length field at byte {start}")
        (length,) = _LENGTH.unpack_from(body, start)
        start += _LENGTH.size
        if length > min(MAX_PACKET_BYTES, len(body) - start):
            raise CorruptPacket(
                f"the packet at byte {start} should have {length} bytes; {len(body) - start} are left, "
                f"and the limit is {MAX_PACKET_BYTES}"
            )
        yield body[start : start + length]
        start += length


def write_request(number: int, packet: bytes) -> bytes:
    """Return a stream message to the server: number (8 bytes, little-endian), then a packet."""
    return _REQUEST.pack(number) + packet


def read_request(message: bytes) -> tuple[int, bytes]:
    """Return the request number and the packet of a message from ``write_request``.

    Raises:
        BadRequest: too short for a request number.
    """
    if len(message) < _REQUEST.size:
        raise BadRequest(f"a message must begin with a request number of 8 bytes, got {len(message)} bytes")
    return _REQUEST.unpack_from(message)[0], message[_REQUEST.size :]


def write_answer(number: int, status: int, blob: bytes) -> bytes:
    """Return a binary stream message to the client.

    Args:
        number: of the request; 8 bytes, little-endian.
        status: 200, or the status of the error; 2 bytes.
        blob: the answers of ``pack``, or the JSON of ``error_body``.
    """
    return _ANSWER.pack(number, status) + blob


def read_answer(message: bytes) -> tuple[int, int, bytes]:
    """Return number, status and blob of a message from ``write_answer``.

    Raises:
        CorruptAnswer: too short for number and status.
    """
    if len(message) < _ANSWER.size:
        raise CorruptAnswer(f"a message must have at least {_ANSWER.size} bytes, got {len(message)}")
    number, status = _ANSWER.unpack_from(message)
    return number, status, message[_ANSWER.size :]


def _seconds(value: Any) -> float | None:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return seconds if 0 <= seconds < 1e6 else None
