"""The queue: bounded, with deadlines, in batches of one model and one choice of heads."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from splitreg.errors import DeadlinePassed, SplitregError, Unavailable, WorkerLost

if TYPE_CHECKING:
    from splitreg.serving.config import ServeConfig
    from splitreg.serving.metrics import Metrics
    from splitreg.wire import Form

Group = tuple[str, tuple[str, ...]]

#: A request is accepted where the wait that is expected, so many times, is within its deadline.
_CAUTION = 1.25
#: How much the newest batch counts for the seconds an image, and how many mean deviations are added to be on the safe side
#: (as TCP does for its time-out, RFC 6298).
_NEWEST, _DEVIATIONS = 0.25, 2.0
#: Choices of heads whose cost is remembered.
_KNOWN = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a worker made of a job, in the form that was asked for, and how long that took."""

    blob: bytes
    queue_seconds: float
    compute_seconds: float


@dataclass(eq=False, slots=True, kw_only=True)
class Job:
    """One request: packets of one model.

    Args:
        model: its id, eight hexadecimal digits.
        heads: what to run.
        packets: as they came.
        images: in them.
        pixels: of the original images.
        form: of the answer.
        arrived: of the loop's clock, seconds.
        deadline: of the loop's clock, seconds.
    """

    model: str
    heads: tuple[str, ...]
    packets: tuple[bytes, ...]
    images: int
    pixels: int
    form: Form
    arrived: float
    deadline: float
    attempts: int = 0
    started: float = 0.0
    done: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def group(self) -> Group:
        """Jobs of one group run together."""
        return self.model, self.heads


@dataclass(slots=True)
class _Cost:
    """Seconds an image, from the batches so far."""

    mean: float
    deviation: float = 0.0

    def learn(self, seconds: float) -> None:
        self.deviation += _NEWEST * (abs(seconds - self.mean) - self.deviation)
        self.mean += _NEWEST * (seconds - self.mean)

    @property
    def safe(self) -> float:
        return self.mean + _DEVIATIONS * self.deviation


class Engine:
    """Jobs that wait, jobs that run.

    Args:
        config: ``queue_images``, ``batch_images``, ``request_pixels``, ``attempts`` and ``workers``.
        metrics: is told of batches, latencies and the queue's length.
    """

    def __init__(self, config: ServeConfig, metrics: Metrics) -> None:
        self._config = config
        self._metrics = metrics
        self._groups: dict[tuple[Group, int], dict[Job, asyncio.TimerHandle]] = {}
        self._running: set[Job] = set()
        self._waiters: list[asyncio.Future[None]] = []
        self._costs: dict[Group, _Cost] = {}
        self._queued = 0

    @property
    def queued(self) -> int:
        """Images that wait."""
        return self._queued

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs."""
        return bool(self._queued or self._running)

    def submit(self, job: Job) -> None:
        """Accept a job: from here on it is answered, whatever becomes of a worker.

        Raises:
            Unavailable: the queue is full, or the answer would come after the deadline.
        """
        now = asyncio.get_running_loop().time()
        wait = self.expected_seconds(job)
        if self._queued and self._queued + job.images > self._config.queue_images:
            raise Unavailable(f"{self._queued} images wait already; come back", retry_after_s=max(1.0, wait))
        if wait * _CAUTION > job.deadline - now and self.busy:
            raise Unavailable(
                f"{self._queued} images wait, an answer would take {wait:.1f} s, beyond the deadline; come back",
                retry_after_s=max(1.0, wait * _CAUTION - (job.deadline - now)),
            )
        job.done.add_done_callback(_retrieve)
        self._put(job)

    def expected_seconds(self, job: Job) -> float:
        """Estimate how long a job that comes now would take, from what the last batches took."""
        load = sum(
            self._cost(group) * sum(waiting.images for waiting in jobs) for (group, _), jobs in self._groups.items()
        )
        load += sum(self._cost(running.group) * running.images for running in self._running)
        return load / self._config.workers + self._cost(job.group) * job.images

    async def take(self) -> list[Job]:
        """Wait for jobs and take what runs together: the longest waiting and those of its group, at most a batch."""
        while not (batch := self._pick()):
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._wake()  # it was woken and does not go on: another one must
                raise
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
        return batch

    def finish(self, job: Job, blob: bytes, seconds: float) -> None:
        """Answer a job."""
        self._running.discard(job)
        now = asyncio.get_running_loop().time()
        answer = Answer(blob=blob, queue_seconds=job.started - job.arrived, compute_seconds=seconds)
        self._metrics.answered(job, answer, now - job.arrived)
        if not job.done.done():
            job.done.set_result(answer)

    def fail(self, job: Job, error: SplitregError) -> None:
        """Answer a job with an error."""
        self._running.discard(job)
        if not job.done.done():
            job.done.set_exception(error)

    def learn(self, group: Group, images: int, seconds: float) -> None:
        """Note what a batch took."""
        each = seconds / images
        cost = self._costs.pop(group, _Cost(each))
        cost.learn(each)
        self._costs[group] = cost
        if len(self._costs) > _KNOWN:
            del self._costs[next(iter(self._costs))]
        self._metrics.batches.labels(group[0]).observe(images)

    def guess(self, group: Group, seconds: float) -> None:
        """Note what an image took before the first request, so that the first ones are not accepted blindly."""
        self._costs.setdefault(group, _Cost(seconds))

    def lost(self, batch: list[Job]) -> None:
        """Give the jobs of a dead worker to another one, each alone: the one that kills workers kills no other's answer."""
        for job in batch:
            self._running.discard(job)
            job.attempts += 1  # from now on it runs alone
            if job.done.done():
                continue
            if job.attempts >= self._config.attempts:
                self.fail(
                    job, WorkerLost(f"{job.attempts} workers died while they computed this; it is not tried again")
                )
            else:
                self._put(job)

    def forget(self, job: Job) -> None:
        """Drop a job that nobody waits for any more, unless it runs."""
        self._remove(job)
        if job not in self._running:
            job.done.cancel()

    def surrender(self) -> list[Job]:
        """Give away everything that waits."""
        jobs = sorted((job for jobs in self._groups.values() for job in jobs), key=lambda job: job.arrived)
        for job in jobs:
            self._remove(job)
        return jobs

    def adopt(self, jobs: list[Job]) -> None:
        """Take over jobs that were accepted elsewhere."""
        for job in jobs:
            self._put(job)

    def _put(self, job: Job) -> None:
        timer = asyncio.get_running_loop().call_at(job.deadline, self._expire, job)
        self._groups.setdefault(_place(job), {})[job] = timer
        self._count(job.images)
        self._wake()

    def _remove(self, job: Job) -> None:
        jobs = self._groups.get(_place(job), {})
        if job in jobs:
            jobs.pop(job).cancel()
            self._count(-job.images)
            if not jobs:
                del self._groups[_place(job)]

    def _expire(self, job: Job) -> None:
        self._remove(job)
        self.fail(job, DeadlinePassed("the deadline passed while the request waited"))

    def _pick(self) -> list[Job]:
        if not self._groups:
            return []
        first = min((next(iter(jobs)) for jobs in self._groups.values()), key=lambda job: (-job.attempts, job.arrived))
        now = asyncio.get_running_loop().time()
        batch: list[Job] = []
        images, pixels, soonest = 0, 0, float("inf")
        for job in self._groups[_place(first)]:
            images, pixels, soonest = images + job.images, pixels + job.pixels, min(soonest, job.deadline)
            late = now + images * self._cost(job.group) > soonest  # all of a batch are answered when the last one is
            if batch and (late or images > self._config.batch_images or pixels > self._config.request_pixels):
                break
            batch.append(job)
        for job in batch:
            self._remove(job)
            self._running.add(job)
            job.started = now
        if self._groups:
            self._wake()
        return batch

    def _cost(self, group: Group) -> float:
        """Seconds an image, rather too many; of a group that never ran those of the dearest one."""
        cost = self._costs.get(group)
        return cost.safe if cost else max((other.safe for other in self._costs.values()), default=0.0)

    def _count(self, images: int) -> None:
        self._queued += images
        self._metrics.queue.set(self._queued)

    def _wake(self) -> None:
        while self._waiters:
            waiter = self._waiters.pop(0)
            if not waiter.done():
                waiter.set_result(None)
                return


def _place(job: Job) -> tuple[Group, int]:
    """Where a job waits: with its group, or alone where it had a part in a worker's death."""
    return job.group, id(job) if job.attempts else 0


def _retrieve(future: asyncio.Future[Answer]) -> None:
    """An error that nobody waits for any more is no news for the log."""
    with contextlib.suppress(asyncio.CancelledError):
        future.exception()
