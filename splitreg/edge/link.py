"""What a client knows of its link, from its own transfers: seconds = round trip + bytes / throughput."""

from __future__ import annotations

import itertools
import statistics
from collections import deque

#: Two transfers say something of the throughput if the larger has at least so many times the bytes of the smaller.
_LEVER = 1.5
#: So many transfers in a row that are this factor off mean that the link is another one.
_SURPRISES, _FACTOR = 3, 2.0
#: Seconds a byte of a link that shows no end of its throughput.
_LEAST_SLOPE = 1e-12


class LinkEstimate:
    """A robust line through the latest transfers.

    The throughput is the median of the slopes between transfers of different sizes (Theil 1950, Sen 1968), so that
    nearly a third of them may be outliers; the round trip is the median of what is left. After three transfers in a row
    that took twice, or half, of what was expected, only these three are remembered.

    Args:
        window: so many transfers are remembered.

    Attributes:
        rtt_s: seconds of a transfer of no bytes; None until there is a transfer.
        bytes_per_s: throughput; None until there are transfers of different sizes.
    """

    def __init__(self, window: int = 24) -> None:
        self._seen: deque[tuple[int, float]] = deque(maxlen=window)
        self._surprises = 0
        self.rtt_s: float | None = None
        self.bytes_per_s: float | None = None

    def add(self, size: int, seconds: float) -> None:
        """Take a transfer into account.

        Args:
            size: bytes that crossed the link in these seconds, headers included.
            seconds: from the first byte sent to the first byte of the answer, without the server's own time.
        """
        seconds = max(seconds, 1e-6)
        expected = self.seconds(size)
        surprising = expected is not None and not expected / _FACTOR < seconds < expected * _FACTOR
        self._surprises = self._surprises + 1 if surprising else 0
        self._seen.append((size, seconds))
        if self._surprises >= _SURPRISES:
            latest = list(self._seen)[-_SURPRISES:]
            self._seen.clear()
            self._seen.extend(latest)
            self._surprises = 0
        self._fit()

    def seconds(self, size: int) -> float | None:
        """Return the seconds that a transfer of so many bytes usually takes; None until that can be said."""
        if self.rtt_s is None or self.bytes_per_s is None:
            return None
        return self.rtt_s + size / self.bytes_per_s

    def size(self, seconds: float, *, certainty: float = 0.8) -> int | None:
        """Return the bytes that so many seconds usually suffice for (0: none); None until that can be said.

        Args:
            seconds: for the transfer alone.
            certainty: the share of the remembered transfers that were at most so much slower than the line says.
        """
        if self.rtt_s is None or self.bytes_per_s is None:
            return None
        late = sorted(took - self.rtt_s - size / self.bytes_per_s for size, took in self._seen)
        margin = max(0.0, late[min(len(late) - 1, int(certainty * len(late)))])
        return max(0, int((seconds - self.rtt_s - margin) * self.bytes_per_s))

    def _fit(self) -> None:
        slopes = [
            (b[1] - a[1]) / (b[0] - a[0])
            for a, b in itertools.combinations(sorted(self._seen), 2)
            if b[0] >= _LEVER * max(a[0], 1)
        ]
        slope = statistics.median(slopes) if slopes else 0.0
        if slope > 0 or self.rtt_s is None or self.bytes_per_s is None:
            if slopes:
                self.bytes_per_s = 1 / max(slope, _LEAST_SLOPE)
            per_byte = 0.0 if self.bytes_per_s is None else 1 / self.bytes_per_s
            self.rtt_s = max(0.0, statistics.median(took - size * per_byte for size, took in self._seen))
        else:  # they do not tell the round trip from the throughput: scale both by what they show
            scale = statistics.median(took / (self.rtt_s + size / self.bytes_per_s) for size, took in self._seen)
            self.bytes_per_s /= scale
            self.rtt_s *= scale
