"""Latency of a client's requests: the packet size that meets a time budget."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

from splitreg.edge.link import LinkEstimate
from splitreg.edge.transport import Reply

#: Payload of a TCP segment over Ethernet: its last byte arrives with its first.
_SEGMENT_BYTES = 1460
#: Number of recent requests whose times are remembered.
_WINDOW = 9
#: Bytes beside the packet that are assumed until a reply has shown them.
_INITIAL_OVERHEAD_BYTES = 700


class LatencyEstimate:
    """The time of recent requests: on the device, on the link and on the server.

    Args:
        link: updated with every transfer on a connection that was open already.
    """

    def __init__(self, link: LinkEstimate) -> None:
        self.link = link
        self._encode_s: deque[float] = deque(maxlen=_WINDOW)
        self._server_s: deque[float] = deque(maxlen=_WINDOW)
        self._receive_s: deque[float] = deque(maxlen=_WINDOW)
        self._overhead_bytes = _INITIAL_OVERHEAD_BYTES

    def add_encode(self, seconds: float) -> None:
        """Add the time that one image took to encode."""
        self._encode_s.append(seconds)

    def add_probe(self, reply: Reply) -> None:
        """Add a request without a packet."""
        if reply.reused:  # a new connection's time includes the handshake
            self.link.add(_link_bytes(reply), reply.first_byte_s)

    def add_reply(self, reply: Reply, packet_bytes: int, server_s: float) -> None:
        """Add an answered request.

        Args:
            reply: of the server.
            packet_bytes: size of the packet that was sent.
            server_s: seconds that the server reports for itself.
        """
        self._server_s.append(server_s)
        self._receive_s.append(reply.seconds - reply.first_byte_s)
        self._overhead_bytes = _link_bytes(reply) - packet_bytes
        if reply.reused:
            self.link.add(_link_bytes(reply), reply.first_byte_s - server_s)

    def packet_bytes(self, budget_s: float) -> int | None:
        """Return the largest packet size that usually meets a budget.

        Args:
            budget_s: seconds from image to predictions.

        Returns:
            The size in bytes; None if no size does, or the link is not known yet.
        """
        times = (self._encode_s, self._server_s, self._receive_s)
        size = self.link.size(budget_s - sum(map(_quantile, times)))
        if size is None or size <= self._overhead_bytes:
            return None
        return size - self._overhead_bytes


def _link_bytes(reply: Reply) -> int:
    """Return the bytes that cross the link before the first byte of a reply is seen."""
    return reply.sent_bytes + min(reply.received_bytes, _SEGMENT_BYTES)


def _quantile(seconds: Collection[float]) -> float:
    """Return the 0.8 quantile: a budget is met by most images, not by half of them."""
    ordered = sorted(seconds)
    return ordered[int(0.8 * len(ordered))] if ordered else 0.0
