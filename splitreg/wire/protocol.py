"""The service over HTTP, as both sides spell it: routes, headers, media types, errors and the framing of streams."""

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

#: One packet; several, each after its length (4 bytes, little-endian).
PACKET, PACKETS = "application/vnd.splitreg.packet", "application/vnd.splitreg.packets"
#: Exact answers (``splitreg.wire.pack``), and the same as JSON.
ANSWERS, JSON = "application/vnd.splitreg.answers", "application/json"

DEADLINE, IDEMPOTENCY = "X-Splitreg-Deadline-Ms", "Idempotency-Key"
QUEUE_MS, COMPUTE_MS = "X-Splitreg-Queue-Ms", "X-Splitreg-Compute-Ms"

#: Error -> HTTP status; of an error's classes the first that is here counts.
STATUSES: dict[type[SplitregError], int] = {
    errors.ForeignPacket: 409,
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
#: What a client may try again; 504, and an answer that never came, only with an idempotency key.
RETRIABLE = frozenset({408, 429, 503})
RETRIABLE_WITH_KEY = RETRIABLE | {504}

_LENGTH = struct.Struct("<I")
_REQUEST, _ANSWER = struct.Struct("<Q"), struct.Struct("<QH")
_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)


def status_of(error: SplitregError) -> int:
    """Return the HTTP status of an error; 500 for what is the server's own."""
    return next((STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES), 500)


def error_body(error: SplitregError, **more: Any) -> dict[str, Any]:
    """Return what is sent of an error: ``{"error": {"type", "message", ...}}``."""
    after = error.retry_after_s if isinstance(error, ServiceError) else None
    told = {"type": type(error).__name__, "message": str(error), **more}
    return {"error": told if after is None else {**told, "retry_after_s": round(after, 3)}}


def error_from(status: int | None, body: Any, retry_after: str | None = None) -> SplitregError:
    """Return the error that a server sent, of its own type where that is known here.

    Args:
        status: of the HTTP answer, or of the stream's; an error of another status is not believed. None believes any.
        body: the parsed JSON, or whatever came; a proxy in between may send anything.
        retry_after: the header ``Retry-After``, in seconds.
    """
    told = body.get("error") if isinstance(body, dict) else None
    told = told if isinstance(told, dict) else {}
    name, message = str(told.get("type")), str(told.get("message", f"the server answered {status}"))[:2000]
    after = _seconds(told.get("retry_after_s", retry_after))
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
    except TypeError:  # an error that is not made from a message alone does not come from a server
        return ServiceError(message, retry_after_s=after)


def check_key(key: str) -> str:
    """Return an idempotency key that is one.

    Raises:
        BadRequest: it is not 1 to 64 of letters, digits, "_" and "-".
    """
    if not _KEY.fullmatch(key):
        raise BadRequest(f'{IDEMPOTENCY} must be 1 to 64 letters, digits, "_" and "-"')
    return key


def join_packets(packets: Iterable[bytes]) -> bytes:
    """Return several packets as one body."""
    return b"".join(_LENGTH.pack(len(packet)) + packet for packet in packets)


def split_packets(body: bytes) -> Iterator[bytes]:
    """Give the packets of a body of several.

    Raises:
        CorruptPacket: it ends inside a packet, or claims one beyond the limit.
    """
    start = 0
    while start < len(body):
        if len(body) - start < _LENGTH.size:
            raise CorruptPacket(f"the packets end inside a length, at byte {start} of {len(body)}")
        (length,) = _LENGTH.unpack_from(body, start)
        start += _LENGTH.size
        if length > min(MAX_PACKET_BYTES, len(body) - start):
            raise CorruptPacket(f"a packet claims {length} bytes, {len(body) - start} are there")
        yield body[start : start + length]
        start += length


def write_request(number: int, packet: bytes) -> bytes:
    """Return a stream's message to the server: the request's number (64 bits), then the packet."""
    return _REQUEST.pack(number) + packet


def read_request(message: bytes) -> tuple[int, bytes]:
    """Return the number and the packet of ``write_request``.

    Raises:
        BadRequest: too short to have a number.
    """
    if len(message) < _REQUEST.size:
        raise BadRequest(f"a message of {len(message)} bytes; it must begin with the request's number, 8 bytes")
    return _REQUEST.unpack_from(message)[0], message[_REQUEST.size :]


def write_answer(number: int, status: int, blob: bytes) -> bytes:
    """Return a stream's binary message to the client: number, status (16 bits), then answers or the error's JSON."""
    return _ANSWER.pack(number, status) + blob


def read_answer(message: bytes) -> tuple[int, int, bytes]:
    """Return the number, the status and the blob of ``write_answer``.

    Raises:
        CorruptAnswer: too short to have them.
    """
    if len(message) < _ANSWER.size:
        raise CorruptAnswer(f"a message of {len(message)} bytes; an answer begins with {_ANSWER.size}")
    number, status = _ANSWER.unpack_from(message)
    return number, status, message[_ANSWER.size :]


def _seconds(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if 0 <= found < 1e6 else None
