"""Delays of new connections of clients that keep sending what cannot be parsed."""

from __future__ import annotations

#: Refusals that a client may cause at once, and per second, without a delay.
_FREE_REFUSALS, _FREE_PER_SECOND = 10, 1.0
#: Seconds of delay per further refusal, and at most.
_SECONDS_PER_REFUSAL, _MAX_SECONDS = 0.1, 2.0
#: Clients that are remembered; the one refused longest ago is forgotten first.
_MAX_CLIENTS = 4096


class ConnectionDelays:
    """How long new connections of each client wait before they are read.

    A client that opens a connection for each malformed request costs as much as it likes, since closing
    the connection does not stop it. Its next connections wait the longer, the more were refused lately.
    """

    def __init__(self) -> None:
        self._refusals: dict[str, tuple[float, float]] = {}

    def count(self, client: str, now: float) -> None:
        """Count a refusal.

        Args:
            client: address.
            now: seconds of a monotonic clock.
        """
        level = self._level(client, now)
        self._refusals.pop(client, None)  # to the end of the order
        self._refusals[client] = level + 1, now
        if len(self._refusals) > _MAX_CLIENTS:
            del self._refusals[next(iter(self._refusals))]

    def seconds(self, client: str, now: float) -> float:
        """Return the delay of a new connection."""
        excess = self._level(client, now) - _FREE_REFUSALS
        return min(_MAX_SECONDS, max(0.0, excess * _SECONDS_PER_REFUSAL))

    def _level(self, client: str, now: float) -> float:
        level, updated = self._refusals.get(client, (0.0, now))
        return max(0.0, level - (now - updated) * _FREE_PER_SECOND)
