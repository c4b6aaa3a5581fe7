"""Estimate of a link from its own transfers: seconds = round trip + bytes / throughput."""

from __future__ import annotations

import itertools
import statistics
from collections import deque

#: Two transfers contribute a slope if the larger has at least this many times the bytes.
_MIN_SIZE_RATIO = 1.5
#: After this many transfers in a row that are off by this factor, older ones are forgotten.
_MAX_SURPRISES, _SURPRISE_FACTOR = 3, 2.0
#: Seconds per byte of a link whose throughput has no visible limit.
_MIN_SLOPE = 1e-12


class LinkEstimate:
    """A robust line through the latest transfers.

    The throughput is the median of the slopes between transfers of different sizes (Theil 1950, Sen
    1968), so that nearly a third of them may be outliers; the round trip is the median of what
    remains. After three transfers in a row that took less than half or more than twice the expected
    time, only these three are kept.

    Args:
        window: number of transfers that are kept.

    Attributes:
        rtt_s: seconds of a transfer of no bytes; None before the first transfer.
        bytes_per_s: throughput; None until there are transfers of different sizes.
    """

    def __init__(self, window: int = 24) -> None:
        self._transfers: deque[tuple[int, float]] = deque(maxlen=window)  # bytes, seconds
        self._surprises = 0
        self.rtt_s: float | None = None
        self.bytes_per_s: float | None = None

    def add(self, size: int, seconds: float) -> None:
        """Add a transfer.

        Args:
            size: bytes that crossed the link in these seconds, headers included.
            seconds: from the first byte sent to the first byte of the answer, without the server's
                own time.
        """
        seconds = max(seconds, 1e-6)
        expected = self.seconds(size)
        surprising = (
            expected is not None
            and not expected / _SURPRISE_FACTOR < seconds < expected * _SURPRISE_FACTOR
        )  # fmt: skip
        self._surprises = self._surprises + 1 if surprising else 0
        self._transfers.append((size, seconds))
        if self._surprises >= _MAX_SURPRISES:
            latest = list(self._transfers)[-_MAX_SURPRISES:]
            self._transfers.clear()
            self._transfers.extend(latest)
            self._surprises = 0
        self._fit()

    def seconds(self, size: int) -> float | None:
        """Return the expected seconds of a transfer of ``size`` bytes; None if not known yet."""
        if self.rtt_s is None or self.bytes_per_s is None:
            return None
        return self.rtt_s + size / self.bytes_per_s

    def size(self, seconds: float, *, certainty: float = 0.8) -> int | None:
        """Return the bytes that are usually transferred in time (0: none); None if not known yet.

        Args:
            seconds: for the transfer alone.
            certainty: share of the kept transfers whose delay beyond the line fits the margin.
        """
        if self.rtt_s is None or self.bytes_per_s is None:
            return None
        delays = sorted(
            duration - self.rtt_s - size / self.bytes_per_s for size, duration in self._transfers
        )  # fmt: skip
        margin = max(0.0, delays[min(len(delays) - 1, int(certainty * len(delays)))])
        return max(0, int((seconds - self.rtt_s - margin) * self.bytes_per_s))

    def _fit(self) -> None:
        transfers = self._transfers
        slopes = [
            (b[1] - a[1]) / (b[0] - a[0])
            for a, b in itertools.combinations(sorted(transfers), 2)
            if b[0] >= _MIN_SIZE_RATIO * max(a[0], 1)
        ]
        slope = statistics.median(slopes) if slopes else 0.0
        if slope > 0 or self.rtt_s is None or self.bytes_per_s is None:
            if slopes:
                self.bytes_per_s = 1 / max(slope, _MIN_SLOPE)
            per_byte = 0.0 if self.bytes_per_s is None else 1 / self.bytes_per_s
            self.rtt_s = max(0.0, statistics.median(took - size * per_byte for size, took in transfers))
        else:  # equal sizes do not separate round trip and throughput: scale both
            scale = statistics.median(
                took / (self.rtt_s + size / self.bytes_per_s) for size, took in transfers
            )  # fmt: skip
            self.bytes_per_s /= scale
            self.rtt_s *= scale
