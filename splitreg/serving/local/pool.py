"""Worker processes: started, watched and replaced; jobs of a dead worker go to another one."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

from splitreg.errors import BundleError, ServiceError, SplitregError
from splitreg.serving import frames
from splitreg.serving.batch_queue import BatchQueue
from splitreg.serving.config import ServeConfig
from splitreg.serving.inference import InferenceRequest
from splitreg.serving.jobs import Job
from splitreg.serving.logs import log
from splitreg.serving.metrics import Metrics
from splitreg.wire import error_from

_CONNECTION_LOST = (OSError, EOFError, TimeoutError)
#: Seconds before a worker is started again: the first pause, doubled up to the longest.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_POLL_SECONDS = 0.01
#: A worker that misses more beats than this is not ready, and one whose batch takes this many times
#: as long as expected and this many seconds more.
_MISSED_BEATS, _OVERDUE_FACTOR, _OVERDUE_SECONDS = 4, 5.0, 5.0
#: Environment of the manager process. Checking for CUDA must not initialise it before the fork;
#: glibc should keep large blocks for the next batch instead of returning their pages to the kernel.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
}  # fmt: skip


class WorkerPool:
    """The processes that serve one version of the bundles, and their queue.

    A manager process loads the bundles and forks the workers (see
    ``splitreg.serving.local.worker``).

    Args:
        config: bundles, heads, workers and limits.
        metrics: updated with the number of workers and restarts.
        on_manager_exit: called if the manager process dies; its workers continue.
    """

    def __init__(self, config: ServeConfig, metrics: Metrics, on_manager_exit: Callable[[], None]) -> None:
        self._config = config
        self._metrics = metrics
        self._on_manager_exit = on_manager_exit
        self.queue = BatchQueue(config, metrics)
        self.models: dict[str, dict[str, Any]] = {}
        #: Number of workers that take batches.
        self.ready_workers = 0
        #: Whether the manager process runs, that is, whether workers can be started.
        self.managed = False
        self._workers: set[_WorkerConnection] = set()
        self._failed_starts = 0
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def responsive_workers(self) -> int:
        """Number of workers that send heartbeats, and whose batch is not long overdue."""
        now = time.monotonic()
        return sum(worker.is_responsive(now) for worker in list(self._workers))

    @property
    def manager_pid(self) -> int:
        """Process id of the manager."""
        return self._process.pid

    async def start(self) -> None:
        """Load the bundles and start the workers.

        Raises:
            BundleError: a bundle cannot be loaded, or the workers do not start.
            RecipeError: a head or the device does not exist.
        """
        try:
            async with asyncio.timeout(self._config.load_timeout_seconds):
                await self._start_manager()
                self._tasks += [asyncio.create_task(self._supervise(i)) for i in range(self._config.workers)]
                while self.ready_workers < self._config.workers:
                    if not self.managed or self._failed_starts >= self._config.max_attempts:
                        raise BundleError("the bundles were loaded, but the workers die while they start; see stderr")
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError as cause:
            await self.close()
            raise BundleError(
                f"the workers were not ready within load_timeout_seconds={self._config.load_timeout_seconds:g}; see the log"
            ) from cause
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop the workers and the manager."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.managed:
            self._disconnect_manager()
        with contextlib.suppress(ProcessLookupError, AttributeError):
            self._process.kill()
            await self._process.wait()

    async def _start_manager(self) -> None:
        ours, theirs = socket.socketpair()
        threads = str(self._config.threads_per_worker)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-W", "ignore::FutureWarning", "-m", "splitreg.serving.local.worker",
                str(theirs.fileno()),
                pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C must reach only the server process, which drains
                env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **_ENVIRONMENT},
            )  # fmt: skip
        self._control = ours.dup()  # for send_fds, which asyncio does not offer
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self.managed = True
        options = {
            "threads": self._config.threads_per_worker, "device": self._config.device,
            "precision": self._config.precision, "max_mask_pixels": self._config.max_mask_pixels,
        }  # fmt: skip
        request = {"bundles": self._config.bundles, "heads": self._config.heads, "options": options}
        try:
            self._writer.write(frames.write(request))
            reply, _ = await frames.read(reader)
        except _CONNECTION_LOST as cause:
            raise BundleError("the process that loads the bundles died; see stderr") from cause
        if reply["op"] == "failed":
            raise error_from(None, reply)
        self.models = {model["id"]: model for model in reply["models"]}
        self._tasks.append(asyncio.create_task(self._watch_manager(reader)))

    def _disconnect_manager(self) -> None:
        self.managed = False
        self._control.close()
        self._writer.close()

    async def _watch_manager(self, reader: asyncio.StreamReader) -> None:
        """Wait until the manager exits, and report it."""
        with contextlib.suppress(*_CONNECTION_LOST):
            await reader.read(1)
        if not self._closing:
            self._disconnect_manager()
            log("manager process exited", logging.ERROR, status=await self._process.wait())
            self._on_manager_exit()

    async def _supervise(self, slot: int) -> None:
        """Start a worker and replace it whenever it dies."""
        pause = _FIRST_PAUSE
        while True:
            try:
                worker = await self._start_worker()
            except _CONNECTION_LOST as error:
                self._failed_starts += 1
                log("worker did not start", logging.ERROR, slot=slot, reason=str(error) or type(error).__name__)
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._failed_starts = 0
            self._workers.add(worker)
            self._count_ready(1)
            watching = asyncio.create_task(self._watch(worker))
            try:
                pause = await self._run_worker(worker, pause)
            finally:
                watching.cancel()
                self._workers.discard(worker)
                self._count_ready(-1)
                worker.close()
            log("worker exited", logging.ERROR, slot=slot, pid=worker.pid, reason=worker.exit_reason)
            self._metrics.restarts.inc()

    async def _watch(self, worker: _WorkerConnection) -> None:
        """Kill a worker that is stalled although its process exists: stopped, or swapped out.

        Turns of this loop are counted, not seconds: a pause of the server process itself is no
        silence of its workers.
        """
        while True:
            await asyncio.sleep(frames.BEAT_SECONDS)
            worker.missed_beats += 1
            self._metrics.stalled.set(len(self._workers) - self.responsive_workers)
            if worker.missed_beats * frames.BEAT_SECONDS > self._config.worker_stall_seconds:
                worker.kill(f"no heartbeat for worker_stall_seconds={self._config.worker_stall_seconds:g}")
                return

    async def _start_worker(self) -> _WorkerConnection:
        if not self.managed:
            raise ConnectionError("the manager process, which starts workers, is not running")
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"f"], [theirs.fileno()])
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            pid, reply = await self._wait_until_ready(reader)
        except BaseException:
            writer.close()
            raise
        for model, (pixels, seconds) in reply["costs"].items():
            self.queue.set_initial_cost((model, tuple(self.models[model]["heads"])), pixels, seconds)
        return _WorkerConnection(pid, reader, writer)

    async def _wait_until_ready(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, Any]]:
        """Return the process id of a new worker and its message; kill it if it stalls."""
        pid = 0
        try:
            async with asyncio.timeout(self._config.load_timeout_seconds):
                while True:
                    async with asyncio.timeout(self._config.worker_stall_seconds):
                        reply, _ = await frames.read(reader)
                    if reply["op"] == "started":
                        pid = reply["pid"]
                    elif reply["op"] == "ready":
                        return pid, reply
        except TimeoutError:
            if pid:  # its connection is open, so the pid has not been reused
                _kill(pid)
            raise

    async def _run_worker(self, worker: _WorkerConnection, pause: float) -> float:
        """Send batches to a worker until it dies; return how long to wait before replacing it."""
        while True:
            taking = asyncio.create_task(self.queue.take())
            try:
                await asyncio.wait({taking, worker.next_frame}, return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                taking.cancel()
                raise
            if worker.next_frame.done():  # idle workers send nothing: it died
                taking.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    self.queue.attach(await taking)
                return pause
            batch = taking.result()
            worker.expected_seconds = self.queue.expected_batch_seconds(batch)
            start = asyncio.get_running_loop().time()
            try:
                answers, compute_seconds = await worker.run(batch, self._config.batch_timeout_seconds)
            except asyncio.CancelledError:
                self.queue.abort(batch, ServiceError("the server was stopped"))
                raise
            except _CONNECTION_LOST:
                self.queue.requeue(batch)
                await asyncio.sleep(pause)
                return min(2 * pause, _LONGEST_PAUSE)
            pause = _FIRST_PAUSE
            elapsed = asyncio.get_running_loop().time() - start
            self.queue.complete(batch, answers, elapsed_seconds=elapsed, compute_seconds=compute_seconds)

    def _count_ready(self, change: int) -> None:
        self.ready_workers += change
        self._metrics.workers.inc(change)


class _WorkerConnection:
    """The server process's end of the connection to a worker."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self.exit_reason = "the process died"
        self._reader, self._writer = reader, writer
        self.missed_beats = 0
        self.expected_seconds = 0.0
        self._started = float("inf")
        self.next_frame = self._read()

    def is_responsive(self, now: float) -> bool:
        """Return whether the worker sends heartbeats, and its batch is not long overdue."""
        overdue = now - self._started > _OVERDUE_SECONDS + _OVERDUE_FACTOR * self.expected_seconds
        return self.missed_beats <= _MISSED_BEATS and not overdue

    def _read(self) -> asyncio.Task[frames.Frame]:
        task = asyncio.create_task(self._next_frame())
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    async def _next_frame(self) -> frames.Frame:
        while True:
            table, blobs = await frames.read(self._reader)
            self.missed_beats = 0
            if table["op"] != frames.ALIVE:
                return table, blobs

    async def run(self, batch: list[Job], timeout_seconds: float) -> tuple[list[bytes | SplitregError], float]:
        """Compute a batch; return per job its answers or its error, and the worker's seconds."""
        requests = [
            InferenceRequest(images=job.images, answer_format=job.answer_format, packets=job.packets) for job in batch
        ]
        self._started = time.monotonic()
        self._writer.write(frames.write_batch(batch[0].model, batch[0].heads, requests))
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._writer.drain()
                reply, blobs = await asyncio.shield(self.next_frame)
        except TimeoutError:
            self.exit_reason = f"no answer within batch_timeout_seconds={timeout_seconds:g}; it was killed"
            raise
        self._started = float("inf")
        self.next_frame = self._read()
        answers: list[bytes | SplitregError] = [
            blob if error is None else error_from(None, error)
            for blob, error in zip(blobs, reply["errors"], strict=True)
        ]
        return answers, reply["seconds"]

    def close(self) -> None:
        """Close the connection; kill a worker that hangs."""
        alive = not self.next_frame.done()
        self.next_frame.cancel()
        self._writer.close()
        if alive:  # the socket is still open, so the pid has not been reused
            _kill(self.pid)

    def kill(self, reason: str) -> None:
        """Kill the worker; its connection ends, and its jobs go to another one."""
        if not self.next_frame.done():
            self.exit_reason = f"{reason}; it was killed"
            _kill(self.pid)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
