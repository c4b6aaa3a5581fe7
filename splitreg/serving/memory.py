"""Answers by idempotency key: a request that is sent again is not computed again."""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from dataclasses import dataclass

from splitreg.errors import KeyReused
from splitreg.serving.config import ServeConfig
from splitreg.serving.engine import Answer, Job

#: Of the oldest entries so many are looked at each time, so that no request pays for all.
_LOOKED_AT = 32


@dataclass(slots=True)
class _Entry:
    digest: bytes
    job: Job
    since: float
    size: int = 0


class Memory:
    """Jobs in flight and the newest answers, by key.

    Args:
        config: ``memory_answers``, ``memory_bytes`` and ``memory_seconds`` bound what is kept.
    """

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: str, digest: bytes) -> Job | None:
        """Return the job of a key, in flight or answered.

        Raises:
            KeyReused: the key was used with another request.
        """
        self._trim(asyncio.get_running_loop().time())
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.digest != digest:
            raise KeyReused(
                "this idempotency key was used with another body or query; make a new one for a new request"
            )
        return entry.job

    def keep(self, key: str, digest: bytes, job: Job) -> None:
        """Remember a job that was accepted; its answer stays, an error does not."""
        self._entries[key] = _Entry(digest, job, asyncio.get_running_loop().time())
        job.done.add_done_callback(lambda done: self._settle(key, job, done))

    def _settle(self, key: str, job: Job, done: asyncio.Future[Answer]) -> None:
        entry = self._entries.get(key)
        if entry is None or entry.job is not job:
            return
        if done.cancelled() or done.exception() is not None:
            del self._entries[key]
            return
        job.packets = ()  # the digest stands for them
        entry.size = len(done.result().blob)
        self._bytes += entry.size
        self._trim(asyncio.get_running_loop().time())

    def _trim(self, now: float) -> None:
        """Forget the oldest answers while there are too many; what is in flight stays."""
        for key in list(itertools.islice(self._entries, _LOOKED_AT)):
            entry = self._entries[key]
            if not (
                len(self._entries) > self._config.memory_answers
                or self._bytes > self._config.memory_bytes
                or now - entry.since > self._config.memory_seconds
            ):
                break
            if entry.job.done.done():
                self._bytes -= entry.size
                del self._entries[key]
