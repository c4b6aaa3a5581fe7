"""Recorded links: when a packet could be delivered, in the format of mahimahi."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import BenchError
from splitreg.link_emulator import LinkTrace

#: Bytes that each line of a trace delivers.
OPPORTUNITY_BYTES = 1504


class RecordedLink:
    """A recorded link in one direction; it repeats at its end.

    Source of the format: Netravali et al. 2015, "Mahimahi" (USENIX ATC).

    Args:
        times_ms: milliseconds from the start, not falling; one per 1,504 bytes that could be delivered.

    Raises:
        BenchError: there is no time, or they fall.
    """

    def __init__(self, times_ms: Sequence[int]) -> None:
        try:
            times = LinkTrace(times_ms).times_ms
        except ValueError as cause:
            raise BenchError(str(cause)) from cause
        self.times_s: NDArray[np.float64] = np.asarray(times, np.float64) / 1000

    @classmethod
    def read(cls, path: Path) -> RecordedLink:
        """Read a file with one whole number of milliseconds per line.

        Raises:
            BenchError: it cannot be read or is no trace.
        """
        try:
            return cls(LinkTrace.read(path).times_ms)
        except (OSError, ValueError) as cause:
            raise BenchError(f"cannot read the trace {path}: {cause}") from cause

    @property
    def bps(self) -> float:
        """Mean bits per second."""
        return float(8 * OPPORTUNITY_BYTES * len(self.times_s) / self.times_s[-1])

    def transfer_s(self, size: float, start_s: float) -> float:
        """Return the seconds until ``size`` bytes are delivered, from ``start_s`` of the trace on."""
        period, count = float(self.times_s[-1]), len(self.times_s)
        start = start_s % period
        needed = max(1, int(np.ceil(size / OPPORTUNITY_BYTES)))
        last = int(np.searchsorted(self.times_s, start)) + needed - 1
        return float(self.times_s[last % count] + period * (last // count) - start)

    def typical_s(self, size: float, quantile: float = 0.5, starts: int = 200) -> float:
        """Return a quantile of the seconds for ``size`` bytes over evenly spaced starts."""
        offsets = np.linspace(0, float(self.times_s[-1]), starts, endpoint=False)
        return float(np.quantile([self.transfer_s(size, float(offset)) for offset in offsets], quantile))
