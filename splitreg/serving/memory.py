"""How many bytes of requests and of answers are in memory, over all connections."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable
from typing import Protocol, Self

from splitreg.errors import Unavailable

#: Seconds after which a client may retry if there was no room for its bytes.
_RETRY_SECONDS = 1.0
#: glibc: blocks of at least this many bytes go back to the system when they are freed.
_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES = -3, 256 * 1024


def return_freed_memory() -> None:
    """Let this process return large blocks when they are freed; glibc would keep them for reuse."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)


class Gauge(Protocol):
    """The part of a Prometheus gauge that is used."""

    def set(self, value: float, /) -> None:
        """Set the value."""


class MemoryBudget:
    """A limit on bytes, shared by all connections.

    At the limit the largest holder gives way: a smaller one gets its room, and a holder that needs
    more than any other has is refused. So a few large holders cannot keep out small ones.

    Args:
        name: of the bytes, for errors.
        limit: in bytes.
        gauge: shows the bytes.
    """

    def __init__(self, name: str, limit: int, gauge: Gauge) -> None:
        self._name, self._limit, self._gauge = name, limit, gauge
        self._holders: set[Hold] = set()
        self._total = 0

    @property
    def total(self) -> int:
        """Bytes in memory."""
        return self._total

    def hold(self, drop: Callable[[], None] | None = None) -> Hold:
        """Return a holder without bytes.

        Args:
            drop: makes the holder give up its bytes at once, because others need the room; None
                if it must be kept.
        """
        return Hold(self, drop)

    def _change(self, holder: Hold, count: int) -> None:
        if count > 0 and self._total + count > self._limit:
            self._make_room(holder, count)
        self._total += count
        holder.bytes += count
        if holder.bytes:
            self._holders.add(holder)
        else:
            self._holders.discard(holder)
        self._gauge.set(self._total)

    def _make_room(self, holder: Hold, count: int) -> None:
        while self._total + count > self._limit:
            others = (other for other in self._holders if other.drop is not None and other is not holder)
            largest = max(others, key=lambda other: other.bytes, default=None)
            if largest is None or largest.bytes <= holder.bytes + count:
                raise Unavailable(
                    f"{self._name} have {self._total} of at most {self._limit} bytes; retry later",
                    retry_after_s=_RETRY_SECONDS,
                )
            drop, largest.drop = largest.drop, None
            largest.release()
            if drop is not None:
                drop()


class Hold:
    """The bytes of one request or answer; see ``MemoryBudget.hold``. A context manager.

    Attributes:
        bytes: in memory.
        drop: see ``MemoryBudget.hold``; it may change while the bytes are held.
    """

    __slots__ = ("_budget", "bytes", "drop")

    def __init__(self, budget: MemoryBudget, drop: Callable[[], None] | None) -> None:
        self._budget = budget
        self.bytes = 0
        self.drop = drop

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def set(self, count: int) -> None:
        """Hold this many bytes from now on.

        Raises:
            Unavailable: there is no room.
        """
        self._budget._change(self, count - self.bytes)

    def add(self, count: int) -> None:
        """Hold this many more bytes.

        Raises:
            Unavailable: there is no room.
        """
        self._budget._change(self, count)

    def release(self) -> None:
        """Hold nothing."""
        if self.bytes:
            self._budget._change(self, -self.bytes)
