"""Workers: started, watched, replaced; what a dead one had goes to another."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from splitreg.errors import BundleError, ServiceError, Unavailable
from splitreg.serving import frames
from splitreg.serving.config import ServeConfig
from splitreg.serving.engine import Engine, Job
from splitreg.serving.logs import log
from splitreg.serving.metrics import Metrics
from splitreg.wire import error_from

_GONE = (OSError, EOFError, TimeoutError)
#: Seconds between attempts to start a worker: doubled from the first to the last.
_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
#: Of the process that forks the workers. Looking for CUDA must not start it before the fork; glibc keeps large blocks for
#: the next batch instead of asking for new pages.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
}  # fmt: skip


class Fleet:
    """One loading of the bundles: the nursery that holds them, its workers, and their queue.

    Args:
        config: bundles, heads, workers and limits.
        metrics: is told of workers.
        on_lost: called when the nursery died; the workers that are there go on.
    """

    def __init__(self, config: ServeConfig, metrics: Metrics, on_lost: Callable[[], None]) -> None:
        self._config = config
        self._metrics = metrics
        self._on_lost = on_lost
        self.engine = Engine(config, metrics)
        self.models: dict[str, dict[str, Any]] = {}
        self.ready = 0
        self.nursed = False
        self._failures = 0
        self._stopping = False
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Load the bundles and start the workers.

        Raises:
            BundleError: a bundle cannot be loaded, or no worker comes to life.
            RecipeError: a head that is not there.
        """
        try:
            async with asyncio.timeout(self._config.load_seconds):
                await self._load()
                slots = [asyncio.create_task(self._keep(i)) for i in range(self._config.workers)]
                self._tasks += slots
                while self.ready < self._config.workers:
                    if not self.nursed or self._failures >= self._config.attempts:
                        raise BundleError(
                            "the bundles load, but the workers die before they are ready; stderr says why"
                        )
                    await asyncio.sleep(0.01)
        except TimeoutError as cause:
            await self.stop()
            raise BundleError(
                f"the workers were not ready within {self._config.load_seconds:g} s; the log says more"
            ) from cause
        except BaseException:
            await self.stop()
            raise

    async def drain(self, heir: Fleet | None = None) -> None:
        """Wait until everything is answered; where no worker is left, an heir gets what waits."""
        while self.engine.busy:
            if heir is not None and not self.ready and not self.nursed:
                for job in self.engine.surrender():
                    if job.model in heir.models:
                        heir.engine.adopt([job])
                    else:
                        self.engine.fail(job, Unavailable("its model was replaced meanwhile", retry_after_s=0.0))
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """End workers and nursery."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.nursed:
            self.nursed = False
            self._control.close()
            self._writer.close()
        with contextlib.suppress(ProcessLookupError, AttributeError):
            self._process.kill()
            await self._process.wait()

    async def _load(self) -> None:
        ours, theirs = socket.socketpair()
        threads = str(self._config.threads_each)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "ignore::FutureWarning", "-m", "splitreg.serving.worker", str(theirs.fileno()),
                pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the front, which drains
                env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **_ENVIRONMENT},
            )  # fmt: skip
        self._control = ours.dup()  # asyncio has no call that sends a socket
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self.nursed = True
        table = {
            "bundles": self._config.bundles, "heads": self._config.heads, "threads": self._config.threads_each,
            "device": self._config.device, "precision": self._config.precision,
        }  # fmt: skip
        try:
            self._writer.write(frames.write(table))
            told, _ = await frames.read(reader)
        except _GONE as cause:
            raise BundleError("the process that loads the bundles died; its stderr says why") from cause
        if told["op"] == "failed":
            raise error_from(None, told)
        self.models = {model["id"]: model for model in told["models"]}
        self._tasks.append(asyncio.create_task(self._watch(reader)))

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        """Notice that the nursery died."""
        with contextlib.suppress(*_GONE):
            await reader.read(1)
        if not self._stopping:
            self.nursed = False
            self._control.close()
            self._writer.close()
            log("nursery lost", logging.ERROR, status=await self._process.wait())
            self._on_lost()

    async def _keep(self, slot: int) -> None:
        """Have a worker, and another one when that dies."""
        pause = _PAUSE
        while True:
            try:
                worker = await self._hire()
            except _GONE as error:
                self._failures += 1
                log("worker did not start", logging.ERROR, slot=slot, why=str(error) or type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._failures = 0
            self._count(1)
            try:
                pause = await self._employ(worker, pause)
            finally:
                self._count(-1)
                worker.close()
            log("worker lost", logging.ERROR, slot=slot, pid=worker.pid, why=worker.why)
            self._metrics.restarts.inc()

    async def _hire(self) -> _Worker:
        if not self.nursed:
            raise ConnectionError("there is no process to start it from")
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"f"], [theirs.fileno()])
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            told, _ = await asyncio.wait_for(frames.read(reader), self._config.load_seconds)
        except BaseException:
            writer.close()
            raise
        for model, seconds in told["seconds"].items():
            self.engine.guess((model, tuple(self.models[model]["heads"])), seconds)
        return _Worker(told["pid"], reader, writer)

    async def _employ(self, worker: _Worker, pause: float) -> float:
        """Give batches to a worker until it dies; return how long to wait before another one."""
        while True:
            taking = asyncio.create_task(self.engine.take())
            try:
                await asyncio.wait({taking, worker.next}, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                taking.cancel()
                raise
            if worker.next.done():  # nothing was asked: it can only be its end
                taking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    self.engine.adopt(await taking)
                return pause
            batch = taking.result()
            begun = asyncio.get_running_loop().time()
            try:
                seconds, results, blobs = await worker.run(batch, self._config.batch_seconds)
            except asyncio.CancelledError:
                for job in batch:
                    self.engine.fail(job, ServiceError("the server stopped"))
                raise
            except _GONE:
                self.engine.lost(batch)
                await asyncio.sleep(pause)
                return min(2 * pause, _LONGEST_PAUSE)
            pause = _PAUSE
            taken = asyncio.get_running_loop().time() - begun  # with the way to the worker and back
            self.engine.learn(batch[0].group, sum(job.images for job in batch), taken)
            for job, result, blob in zip(batch, results, blobs, strict=True):
                if result:
                    self.engine.fail(job, error_from(None, result))
                else:
                    self.engine.finish(job, blob, seconds)

    def _count(self, more: int) -> None:
        self.ready += more
        self._metrics.workers.inc(more)


class _Worker:
    """The front's end of a worker."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.why = "it died"
        self._reader, self._writer = reader, writer
        self.next = asyncio.create_task(frames.read(reader))
        self.next.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def run(self, batch: list[Job], seconds: float) -> tuple[float, list[dict[str, Any]], list[bytes]]:
        """Have a batch computed."""
        jobs = [{"packets": len(job.packets), "images": job.images, "form": asdict(job.form)} for job in batch]
        table = {"op": "infer", "model": batch[0].model, "heads": batch[0].heads, "jobs": jobs}
        self._writer.write(frames.write(table, [packet for job in batch for packet in job.packets]))
        try:
            async with asyncio.timeout(seconds):
                await self._writer.drain()
                told, blobs = await asyncio.shield(self.next)
        except TimeoutError:
            self.why = f"it did not answer within {seconds:g} s"
            raise
        self.next = asyncio.create_task(frames.read(self._reader))
        self.next.add_done_callback(lambda task: task.cancelled() or task.exception())
        return told["seconds"], told["results"], blobs

    def close(self) -> None:
        """Let it go; one that hangs is killed."""
        alive = not self.next.done()
        self.next.cancel()
        self._writer.close()
        if alive:  # a socket that is open is proof that the number is still its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
