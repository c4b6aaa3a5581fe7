"""What a client gets for a picture: predictions, and where the time and the bytes went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from splitreg.errors import SplitregError
from splitreg.predictions import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Milliseconds from picture to predictions.

    Args:
        encode_ms: on this device, picture to packet; 0 for what came out of an outbox.
        link_ms: both ways, in the attempt that was answered.
        queue_ms: at the server, until a worker took the packet.
        compute_ms: at the server, packet to predictions.
        total_ms: all of it, with earlier attempts and the pauses between them.
    """

    encode_ms: float
    link_ms: float
    queue_ms: float
    compute_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer for one picture.

    Args:
        name: what the picture was called.
        key: idempotency key of its packet.
        predictions: head -> prediction in the pixels of the original picture; empty where there is an error.
        error: why there are none: the server refused the packet for its own sake, or it expired. Only from an outbox.
        packet_bytes: of the packet.
        sent_bytes: of the request that was answered, HTTP's headers included.
        received_bytes: of the answer, likewise.
        attempts: how often it was sent, as far as this process knows.
        times: where the time went.
    """

    name: str
    key: str
    predictions: Mapping[str, Prediction]
    error: SplitregError | None = None
    packet_bytes: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0
    attempts: int = 0
    times: Times

    @classmethod
    def of(
        cls,
        name: str,
        key: str,
        facts: Mapping[str, Any],
        predictions: Mapping[str, Prediction],
        error: SplitregError | None = None,
    ) -> Self:
        """Make an answer of the plain facts that a client collects and an outbox keeps."""
        parts = ("encode", "link", "queue", "compute", "total")
        return cls(
            name=name, key=key, predictions=predictions, error=error,
            times=Times(**{f"{part}_ms": 1000.0 * float(facts.get(f"{part}_s", 0.0)) for part in parts}),
            **{count: int(facts.get(count, 0)) for count in ("packet_bytes", "sent_bytes", "received_bytes", "attempts")},
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return plain data: everything but the exact arrays."""
        found: dict[str, Any] = {
            "name": self.name, "key": self.key, "packet_bytes": self.packet_bytes, "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes, "attempts": self.attempts,
            "times": {part: round(value, 2) for part, value in asdict(self.times).items()},
        }  # fmt: skip
        if self.error is not None:
            return {**found, "error": {"type": type(self.error).__name__, "message": str(self.error)}}
        return {**found, "predictions": {head: made.to_json() for head, made in self.predictions.items()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What became of an outbox: packets ``answered``, ``refused`` for their own sake, and ``left`` in it."""

    answered: int
    refused: int
    left: int
