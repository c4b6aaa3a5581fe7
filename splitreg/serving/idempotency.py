"""Results by idempotency key: a request that a client repeats is not computed again."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from dataclasses import dataclass

from splitreg.errors import KeyReused
from splitreg.serving.config import ServeConfig
from splitreg.serving.jobs import Job, JobResult

#: Entries that one request checks for expiry, so that no request pays for all of them.
_CHECKED_PER_REQUEST = 32


@dataclass(slots=True)
class _Entry:
    digest: bytes
    job: Job
    since: float
    size: int = 0


class IdempotencyCache:
    """Jobs in progress and the newest results, by idempotency key.

    Args:
        config: the limits are ``idempotency_answers``, ``idempotency_bytes`` and
            ``idempotency_seconds``.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the stored results."""
        return self._bytes

    def find(self, key: str, digest: bytes) -> Job | None:
        """Return the job with this key, in progress or finished, or None.

        Raises:
            KeyReused: the key was used for another request.
        """
        self._trim(asyncio.get_running_loop().time())
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.digest != digest:
            raise KeyReused(
                "this idempotency key was used for a request with another body or query; "
                "use a new key for a new request"
            )
        return entry.job

    def store(self, key: str, digest: bytes, job: Job) -> None:
        """Store an accepted job; its result is kept when it finishes, an error is not."""
        self._entries[key] = _Entry(digest, job, asyncio.get_running_loop().time())
        job.done.add_done_callback(lambda done: self._on_done(key, job, done))

    def _on_done(self, key: str, job: Job, done: asyncio.Future[JobResult]) -> None:
        entry = self._entries.get(key)
        if entry is None or entry.job is not job:
            return
        if done.cancelled() or done.exception() is not None:
            del self._entries[key]
            return
        job.packets = ()  # the digest identifies them
        entry.size = len(done.result().blob)
        self._bytes += entry.size
        self._trim(asyncio.get_running_loop().time())

    def _trim(self, now: float) -> None:
        """Remove the oldest results while a limit is exceeded; jobs in progress stay."""
        for key in list(itertools.islice(self._entries, _CHECKED_PER_REQUEST)):
            entry = self._entries[key]
            if not (
                len(self._entries) > self._config.idempotency_answers
                or self._bytes > self._config.idempotency_bytes
                or now - entry.since > self._config.idempotency_seconds
            ):
                break
            if entry.job.done.done():
                self._bytes -= entry.size
                del self._entries[key]
