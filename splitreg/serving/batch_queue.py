"""The request queue: bounded, with deadlines; batches share one model and one set of heads."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from splitreg.errors import DeadlinePassed, SplitregError, Unavailable, WorkerLost
from splitreg.serving.jobs import CostClass, Group, Job, JobResult

if TYPE_CHECKING:
    from splitreg.serving.config import ServeConfig
    from splitreg.serving.metrics import Metrics

#: A job is accepted if this many times its expected latency fits into its deadline.
_SAFETY_FACTOR = 1.25
#: Without a new measurement for this many seconds, a job is accepted although it seems to be late:
#: the estimate may be wrong.
_PROBE_SECONDS = 0.5
#: Batches whose seconds per image are remembered. The estimate is their median and so many median
#: deviations: a batch during which a worker was stopped does not predict the next one.
_REMEMBERED, _DEVIATIONS = 6, 2.0
#: Number of cost classes whose seconds per image are stored.
_MAX_COSTS = 256


class _Cost:
    """The seconds per image of the latest batches of a class."""

    def __init__(self, seconds: float) -> None:
        self._latest = deque([seconds], maxlen=_REMEMBERED)
        self.upper = seconds

    def update(self, seconds: float) -> None:
        self._latest.append(seconds)
        middle = statistics.median if len(self._latest) > 2 else min  # of two, the one without a pause
        median = middle(self._latest)
        deviation = middle([abs(seconds - median) for seconds in self._latest])
        self.upper = median + _DEVIATIONS * deviation


class BatchQueue:
    """Jobs that wait and jobs that run.

    A backend submits jobs; each of its workers takes a batch and settles it with ``complete``,
    ``requeue`` or ``abort``.

    Args:
        config: uses ``max_queue_images``, ``max_batch_images``, ``max_request_pixels``,
            ``max_answer_bytes``, ``max_attempts`` and ``workers``.
        metrics: updated with batches, latencies and the queue length.
    """

    def __init__(self, config: ServeConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._groups: dict[tuple[CostClass, int], dict[Job, asyncio.TimerHandle]] = {}
        self._running: set[Job] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self._costs: dict[CostClass, _Cost] = {}
        self._queued_images = 0
        self._measured = time.monotonic()  # or probed

    @property
    def queued_images(self) -> int:
        """Images of the jobs that wait."""
        return self._queued_images

    @property
    def busy(self) -> bool:
        """Whether a job waits or runs."""
        return bool(self._queued_images or self._running)

    def has_model(self, model: str) -> bool:
        """Whether a job for this model waits or runs."""
        waiting = (cost_class[0][0] for cost_class, _ in self._groups)
        return model in waiting or any(job.model == model for job in self._running)

    def submit(self, job: Job) -> None:
        """Accept a job: from now on it gets a result or an error, whatever happens to workers.

        Raises:
            Unavailable: the queue is full, or the result would come after the deadline.
        """
        now = asyncio.get_running_loop().time()
        wait = self.expected_seconds(job)
        queued, limit = self._queued_images, self._config.max_queue_images
        if queued and queued + job.images > limit:
            raise Unavailable(
                f"the queue is full: {queued} of at most {limit} images are waiting; retry later",
                retry_after_s=max(1.0, wait),
            )
        remaining = job.deadline - now
        late = wait * _SAFETY_FACTOR > remaining and self.busy
        if late and now < self._measured + _PROBE_SECONDS:
            raise Unavailable(
                f"the deadline cannot be met: {queued} images are waiting, an answer would take {wait:.1f} s "
                f"and {remaining:.1f} s remain; retry later",
                retry_after_s=max(1.0, wait * _SAFETY_FACTOR - remaining),
            )
        if late:
            self._measured = now
        job.done.add_done_callback(_mark_retrieved)
        self._put(job)

    def expected_seconds(self, job: Job) -> float:
        """Estimate the latency of a job submitted now, from the duration of the latest batches."""
        load = sum(
            self._cost(cost_class) * sum(waiting.images for waiting in jobs)
            for (cost_class, _), jobs in self._groups.items()
        )
        load += sum(self._cost(running.cost_class) * running.images for running in self._running)
        return load / self._config.workers + self._cost(job.cost_class) * job.images

    def expected_batch_seconds(self, batch: Sequence[Job]) -> float:
        """Estimate the duration of a batch, from the duration of the latest ones."""
        return self._cost(batch[0].cost_class) * sum(job.images for job in batch)

    async def take(self) -> list[Job]:
        """Wait for jobs and return a batch: the job that waited longest and others of its group."""
        while not (batch := self._next_batch()):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # pass the wake-up on to another worker
                raise
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return batch

    def complete(
        self,
        batch: Sequence[Job],
        answers: Sequence[bytes | SplitregError],
        *,
        elapsed_seconds: float,
        compute_seconds: float | None = None,
    ) -> None:
        """Settle a batch that ran.

        Args:
            batch: as returned by ``take``.
            answers: per job the answers, or the error of this job.
            elapsed_seconds: from ``take`` until now, including the transfer to the worker and back.
            compute_seconds: of these, seconds of computing; ``elapsed_seconds`` by default.
        """
        self.record_cost(batch[0].cost_class, sum(job.images for job in batch), elapsed_seconds)
        for job, answer in zip(batch, answers, strict=True):
            if isinstance(answer, SplitregError):
                self.fail(job, answer)
            else:
                self.finish(job, answer, elapsed_seconds if compute_seconds is None else compute_seconds)

    def abort(self, batch: Sequence[Job], error: SplitregError) -> None:
        """Settle all jobs of a batch with one error."""
        for job in batch:
            self.fail(job, error)

    def finish(self, job: Job, blob: bytes, compute_seconds: float) -> None:
        """Settle a job with its answers."""
        self._running.discard(job)
        now = asyncio.get_running_loop().time()
        result = JobResult(blob=blob, queue_seconds=job.started - job.arrived, compute_seconds=compute_seconds)
        self._metrics.count_result(job, result, now - job.arrived)
        if not job.done.done():
            job.done.set_result(result)

    def fail(self, job: Job, error: SplitregError) -> None:
        """Settle a job with an error."""
        self._running.discard(job)
        if not job.done.done():
            job.done.set_exception(error)

    def requeue(self, batch: Sequence[Job]) -> None:
        """Queue the jobs of a worker that died again.

        They run alone from now on: a job that kills workers affects no other job. After
        ``max_attempts`` workers it fails with ``WorkerLost``.
        """
        for job in batch:
            self._running.discard(job)
            job.attempts += 1
            if job.done.done():
                continue
            if job.attempts >= self._config.max_attempts:
                self.fail(job, WorkerLost(f"{job.attempts} workers died while they computed this request; giving up"))
            else:
                self._put(job)

    def cancel(self, job: Job) -> None:
        """Drop a job that waits; one that runs is not affected."""
        if self._remove(job):
            job.done.cancel()

    def release(self) -> list[Job]:
        """Remove and return all jobs that wait, oldest first, for ``attach`` of another queue."""
        jobs = sorted((job for jobs in self._groups.values() for job in jobs), key=lambda job: job.arrived)
        for job in jobs:
            self._remove(job)
        return jobs

    def attach(self, jobs: Sequence[Job]) -> None:
        """Queue jobs that were already accepted, regardless of the limits."""
        for job in jobs:
            self._running.discard(job)
            self._put(job)

    def record_cost(self, cost_class: CostClass, images: int, seconds: float) -> None:
        """Update the seconds per image of a class with a batch that ran."""
        self._measured = time.monotonic()
        seconds_per_image = seconds / images
        cost = self._costs.pop(cost_class, None)
        if cost is None:
            cost = _Cost(seconds_per_image)
        else:
            cost.update(seconds_per_image)
        self._costs[cost_class] = cost
        if len(self._costs) > _MAX_COSTS:
            del self._costs[next(iter(self._costs))]
        self._metrics.batches.labels(cost_class[0][0]).observe(images)

    def set_initial_cost(self, group: Group, pixels: int, seconds_per_image: float) -> None:
        """Set the seconds per image of a class that has not run, for the deadlines of the first jobs.

        Args:
            group: model id and heads.
            pixels: of an original image.
            seconds_per_image: as measured.
        """
        self._costs.setdefault((group, pixels.bit_length() // 4), _Cost(seconds_per_image))

    def _put(self, job: Job) -> None:
        timer = asyncio.get_running_loop().call_at(job.deadline, self._expire, job)
        self._groups.setdefault(_queue_key(job), {})[job] = timer
        self._count(job.images)
        self._wake()

    def _remove(self, job: Job) -> bool:
        """Remove a job that waits; return whether it did."""
        key = _queue_key(job)
        jobs = self._groups.get(key, {})
        if job not in jobs:
            return False
        jobs.pop(job).cancel()
        self._count(-job.images)
        if not jobs:
            del self._groups[key]
        return True

    def _expire(self, job: Job) -> None:
        self._remove(job)
        self.fail(job, DeadlinePassed("the deadline passed while the request was waiting in the queue"))

    def _next_batch(self) -> list[Job]:
        if not self._groups:
            return []
        first = min((next(iter(jobs)) for jobs in self._groups.values()), key=lambda job: (-job.attempts, job.arrived))
        now = asyncio.get_running_loop().time()
        batch: list[Job] = []
        config, cost = self._config, self._cost(first.cost_class)
        images, pixels, answer_bytes, earliest = 0, 0, 0, float("inf")
        for job in self._groups[_queue_key(first)]:
            images, pixels, answer_bytes = images + job.images, pixels + job.pixels, answer_bytes + job.answer_bytes
            earliest = min(earliest, job.deadline)
            late = now + images * cost > earliest  # all finish together
            if batch and (
                late or images > config.max_batch_images or pixels > config.max_request_pixels
                or answer_bytes > config.max_answer_bytes
            ):  # fmt: skip
                break
            batch.append(job)
        for job in batch:
            self._remove(job)
            self._running.add(job)
            job.started = now
        if self._groups:
            self._wake()
        return batch

    def _cost(self, cost_class: CostClass) -> float:
        """Return an upper estimate of the seconds per image.

        For an unknown class it is that of the group's nearest size, or else of the slowest class.
        """
        cost = self._costs.get(cost_class)
        if cost is None:
            group, size = cost_class
            near = {abs(size - other): cost for (its, other), cost in self._costs.items() if its == group}
            cost = near[min(near)] if near else None
        return cost.upper if cost else max((other.upper for other in self._costs.values()), default=0.0)

    def _count(self, images: int) -> None:
        self._queued_images += images
        self._metrics.queue.set(self._queued_images)

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return


def _queue_key(job: Job) -> tuple[CostClass, int]:
    """Jobs with equal keys may share a batch; one that ran when a worker died shares with none."""
    return job.cost_class, id(job) if job.attempts else 0


def _mark_retrieved(future: asyncio.Future[JobResult]) -> None:
    """Keep asyncio from logging the error of a job whose client has disconnected."""
    with contextlib.suppress(asyncio.CancelledError):
        future.exception()
