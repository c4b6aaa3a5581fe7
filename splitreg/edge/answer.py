"""The answer to one image: predictions, and where the time and the bytes went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from splitreg.errors import SplitregError
from splitreg.predictions import Prediction

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Milliseconds from image to predictions.

    Args:
        encode_ms: on the device, from image to packet; 0 for a packet from an outbox.
        link_ms: in both directions, in the attempt that was answered.
        queue_ms: on the server, until a worker took the packet.
        compute_ms: on the server, from packet to predictions.
        total_ms: the sum, with earlier attempts and the pauses between them.
    """

    encode_ms: float
    link_ms: float
    queue_ms: float
    compute_ms: float
    total_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to one image.

    Args:
        name: name of the image.
        key: idempotency key of its packet.
        predictions: head -> prediction in pixels of the original image; empty if there is an error.
        error: the server refused this packet, or it expired; only for packets from an outbox.
        packet_bytes: size of the packet.
        sent_bytes: size of the answered request, HTTP headers included.
        received_bytes: size of the reply, HTTP headers included.
        attempts: number of attempts in this process.
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
        """Build an answer from the plain data that an outbox stores.

        Args:
            name: name of the image.
            key: idempotency key.
            facts: counts of bytes and attempts, and seconds as ``encode_s``, ``link_s``, ...
            predictions: head -> prediction.
            error: why there are none.
        """
        parts = ("encode", "link", "queue", "compute", "total")
        counts = ("packet_bytes", "sent_bytes", "received_bytes", "attempts")
        return cls(
            name=name, key=key, predictions=predictions, error=error,
            times=Times(**{f"{part}_ms": 1000.0 * float(facts.get(f"{part}_s", 0.0)) for part in parts}),
            **{count: int(facts.get(count, 0)) for count in counts},
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return everything but the exact arrays as plain data."""
        table: dict[str, Any] = {
            "name": self.name, "key": self.key, "packet_bytes": self.packet_bytes, "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes, "attempts": self.attempts,
            "times": {part: round(value, 2) for part, value in asdict(self.times).items()},
        }  # fmt: skip
        if self.error is not None:
            return {**table, "error": {"type": type(self.error).__name__, "message": str(self.error)}}
        return {**table, "predictions": {head: p.to_json() for head, p in self.predictions.items()}}


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """Result of draining an outbox: packets ``answered``, ``refused`` by the server, and ``left``."""

    answered: int
    refused: int
    left: int
