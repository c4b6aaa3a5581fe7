"""The backend of worker processes on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from splitreg.errors import SplitregError, Unavailable
from splitreg.serving.backend import record_reload
from splitreg.serving.config import ServeConfig
from splitreg.serving.jobs import Job
from splitreg.serving.local.pool import WorkerPool
from splitreg.serving.metrics import Metrics

#: Seconds between attempts to load the bundles again after the manager process died.
_RELOAD_PAUSE = 5.0
_POLL_SECONDS = 0.02


class LocalBackend:
    """Computes in worker processes on this machine.

    A reload starts a second pool of workers and switches to it; the first one answers the jobs it
    has accepted and is closed. If a manager process dies, the bundles are reloaded.

    Args:
        config: bundles, heads, workers and limits.
        metrics: updated with workers, batches and reloads.
    """

    def __init__(self, config: ServeConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._pool = self._create_pool()
        self._retiring: dict[WorkerPool, asyncio.Task[None]] = {}
        self._recoveries: set[asyncio.Task[None]] = set()
        self._reload_lock = asyncio.Lock()

    @property
    def models(self) -> Mapping[str, dict[str, Any]]:
        """See ``Backend``."""
        return self._pool.models

    @property
    def ready(self) -> bool:
        """See ``Backend``."""
        return self._pool.responsive_workers > 0

    @property
    def pool(self) -> WorkerPool:
        """The pool that gets new jobs."""
        return self._pool

    @property
    def retiring(self) -> int:
        """Number of pools that were replaced and still answer jobs."""
        return len(self._retiring)

    async def start(self) -> None:
        """See ``Backend``."""
        await self._pool.start()

    def submit(self, job: Job) -> None:
        """See ``Backend``."""
        self._pool.queue.submit(job)

    def cancel(self, job: Job) -> None:
        """See ``Backend``."""
        for pool in (self._pool, *self._retiring):
            pool.queue.cancel(job)

    async def reload(self) -> None:
        """See ``Backend``."""
        async with self._reload_lock:
            with record_reload(self, self._metrics):
                pool = self._create_pool()
                await pool.start()
                retired, self._pool = self._pool, pool
            self._retiring[retired] = asyncio.create_task(self._retire(retired))

    async def drain(self) -> None:
        """See ``Backend``."""
        while self._pool.queue.busy or self._retiring:
            await asyncio.sleep(_POLL_SECONDS)

    async def close(self) -> None:
        """See ``Backend``."""
        tasks = [*self._retiring.values(), *self._recoveries]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pool.close()

    def _create_pool(self) -> WorkerPool:
        pool = WorkerPool(self._config, self._metrics, lambda: self._on_manager_exit(pool))
        return pool

    async def _retire(self, pool: WorkerPool) -> None:
        """Close a pool once its jobs are done; without workers, its jobs go to the current pool."""
        try:
            while pool.queue.busy:
                if not pool.ready_workers and not pool.managed:
                    self._transfer(pool)
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            await pool.close()
            self._retiring.pop(pool, None)

    def _transfer(self, pool: WorkerPool) -> None:
        for job in pool.queue.release():
            if job.model in self.models:
                self._pool.queue.attach([job])
            else:
                pool.queue.fail(job, Unavailable(f"model {job.model} is no longer served", retry_after_s=0.0))

    def _on_manager_exit(self, pool: WorkerPool) -> None:
        if pool is self._pool:  # without a manager process no worker can be replaced
            task = asyncio.create_task(self._recover())
            self._recoveries.add(task)
            task.add_done_callback(self._recoveries.discard)

    async def _recover(self) -> None:
        """Reload the bundles until it succeeds."""
        while True:
            with suppress(SplitregError):
                return await self.reload()
            await asyncio.sleep(_RELOAD_PAUSE)
