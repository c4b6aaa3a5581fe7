"""The queue: order, batches, limits, deadlines, and the jobs of workers that died."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitreg.errors import DeadlinePassed, ServiceError, Unavailable, WorkerLost
from splitreg.serving.batch_queue import BatchQueue
from splitreg.serving.config import ServeConfig
from splitreg.serving.jobs import Job
from splitreg.serving.metrics import Metrics
from splitreg.wire import AnswerFormat


def run(test):
    return asyncio.run(test)


def new_queue(**limits):
    return BatchQueue(ServeConfig(bundles=("b",), **limits), Metrics())


def job(heads=("a",), images=1, seconds=60.0, pixels=100, model="m"):
    now = asyncio.get_running_loop().time()
    return Job(
        model=model, heads=heads, packets=(b"p",) * images, images=images, pixels=pixels * images, answer_format=AnswerFormat(),
        arrived=now, deadline=now + seconds,
    )  # fmt: skip


def test_batches_have_one_group_and_start_with_the_oldest_job():
    async def test():
        queue = new_queue(max_batch_images=3)
        jobs = [job(heads) for heads in [("a",), ("b",), ("a",), ("a",), ("b",), ("a",)]]
        for each in jobs:
            queue.submit(each)
        assert [await queue.take() for _ in range(3)] == [[jobs[0], jobs[2], jobs[3]], [jobs[1], jobs[4]], [jobs[5]]]
        assert queue.queued_images == 0 and queue.busy

    run(test())


def test_images_and_pixels_limit_a_batch_but_a_job_is_never_split():
    async def test():
        queue = new_queue(max_batch_images=4, max_request_pixels=1000)
        for images in (3, 2, 9, 1):
            queue.submit(job(images=images, pixels=10))
        assert [[each.images for each in await queue.take()] for _ in range(4)] == [[3], [2], [9], [1]]
        for _ in range(3):
            queue.submit(job(pixels=400))
        assert [len(await queue.take()) for _ in range(2)] == [2, 1]

    run(test())


def test_a_full_queue_refuses_with_a_retry_after():
    async def test():
        queue = new_queue(max_queue_images=5)
        queue.submit(job(images=9))  # an empty queue accepts any job
        with pytest.raises(Unavailable) as refused:
            queue.submit(job())
        assert refused.value.retry_after_s >= 1 and queue.queued_images == 9
        await queue.take()
        for _ in range(5):
            queue.submit(job())
        with pytest.raises(Unavailable):
            queue.submit(job())

    run(test())


def test_a_deadline_that_cannot_be_met_is_refused():
    async def test():
        queue = new_queue(workers=2)
        queue.record_cost(job().cost_class, 4, 8.0)  # two seconds an image
        queue.submit(job(seconds=1.0))  # an idle server tries, since the estimate may be wrong
        for _ in range(4):
            queue.submit(job(seconds=20))
        with pytest.raises(Unavailable, match="deadline") as refused:
            queue.submit(job(seconds=5))
        assert refused.value.retry_after_s >= 1
        queue.submit(job(seconds=60))

    run(test())


def test_a_batch_is_short_enough_for_its_earliest_deadline():
    async def test():
        queue = new_queue()
        queue.record_cost(job().cost_class, 1, 1.0)
        jobs = [job(seconds=seconds) for seconds in (3.5, 9, 9, 9, 1.5)]
        queue.attach(jobs)
        # a fourth job would make the first one late; the fifth one cannot share a batch
        assert [len(await queue.take()) for _ in range(3)] == [3, 1, 1]

    run(test())


def test_the_expected_latency_includes_the_deviation():
    async def test():
        queue = new_queue()
        for seconds in [0.5, 1.5] * 20:
            queue.record_cost(job().cost_class, 1, seconds)
        assert 1.7 < queue.expected_seconds(job()) < 2.4
        for _ in range(40):
            queue.record_cost(job().cost_class, 1, 1.0)
        assert queue.expected_seconds(job()) == pytest.approx(1.0, abs=0.01)

    run(test())


def test_a_batch_during_which_a_worker_stood_still_is_forgotten():
    async def test():
        queue = new_queue()
        for _ in range(5):
            queue.record_cost(job().cost_class, 1, 0.05)
        queue.record_cost(job().cost_class, 1, 12.0)
        for _ in range(20):
            queue.submit(job(seconds=2))
        assert queue.expected_seconds(job()) < 1.2

    run(test())


def test_without_measurements_the_estimate_is_probed(monkeypatch):
    async def test():
        queue = new_queue()
        monkeypatch.setattr("splitreg.serving.batch_queue._PROBE_SECONDS", 0.05)
        for _ in range(8):
            queue.record_cost(job().cost_class, 1, 5.0)
        queue.submit(job())
        with pytest.raises(Unavailable, match="deadline"):
            queue.submit(job(seconds=3))
        await asyncio.sleep(0.06)
        queue.submit(job(seconds=3))
        with pytest.raises(Unavailable, match="deadline"):  # one at a time
            queue.submit(job(seconds=3))

    run(test())


def test_the_size_of_images_has_a_cost_of_its_own():
    async def test():
        queue = new_queue()
        small, large = job(pixels=100_000), job(pixels=40_000_000)
        assert small.cost_class == job(pixels=300_000).cost_class != large.cost_class
        queue.record_cost(small.cost_class, 1, 0.01)
        assert queue.expected_seconds(large) == queue.expected_seconds(small)  # of the nearest size
        queue.record_cost(large.cost_class, 1, 1.0)
        assert queue.expected_seconds(large) > 90 * queue.expected_seconds(small)
        for each in (small, large, job(pixels=100_000)):
            queue.submit(each)
        assert [len(await queue.take()) for _ in range(2)] == [2, 1]  # small ones do not wait for large ones

    run(test())


def test_the_size_of_answers_limits_a_batch():
    async def test():
        queue = new_queue(max_answer_bytes=1000)
        for size in (600, 600, 300, 5000, 1):
            queue.submit(replace(job(), answer_bytes=size))
        assert [len(await queue.take()) for _ in range(4)] == [1, 2, 1, 1]

    run(test())


def test_a_deadline_passes_in_the_queue():
    async def test():
        queue = new_queue()
        late, other = job(seconds=0.02), job()
        queue.submit(late)
        queue.submit(other)
        with pytest.raises(DeadlinePassed):
            await late.done
        assert queue.queued_images == 1 and await queue.take() == [other]

    run(test())


def test_a_cancelled_job_is_dropped_unless_it_runs():
    async def test():
        queue = new_queue()
        gone, other = job(), job()
        queue.submit(gone)
        queue.submit(other)
        queue.cancel(gone)
        assert gone.done.cancelled() and await queue.take() == [other]
        queue.cancel(other)  # it runs already
        queue.finish(other, b"x", 1.0)
        assert other.done.result().blob == b"x" and not queue.busy

    run(test())


def test_a_packet_that_kills_workers_affects_no_other():
    async def test():
        queue = new_queue(max_attempts=3)
        poison, *others = jobs = [job() for _ in range(4)]
        for each in jobs:
            queue.submit(each)
        deaths = 0
        while queue.busy:
            batch = await queue.take()
            if poison in batch:
                deaths += 1
                queue.requeue(batch)
            else:
                for each in batch:
                    queue.finish(each, b"fine", 0.1)
        assert deaths == 3 and isinstance(poison.done.exception(), WorkerLost)
        assert all(each.done.result().blob == b"fine" for each in others)

    run(test())


def test_a_cancelled_worker_passes_its_wake_up_on():
    async def test():
        queue = new_queue(max_batch_images=1)
        taking = [asyncio.create_task(queue.take()) for _ in range(3)]
        await asyncio.sleep(0)
        queue.submit(first := job())
        taking[0].cancel()  # in the same step of the loop that wakes it
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert taking[0].cancelled() and taking[1].result() == [first] and not taking[2].done()
        queue.submit(job())
        await asyncio.wait_for(taking[2], 1)

    run(test())


def test_jobs_move_to_another_queue():
    async def test():
        old, new = new_queue(), new_queue()
        jobs = [job(), job(("b",)), job()]
        for each in jobs:
            old.submit(each)
        new.attach(old.release())
        assert not old.busy and new.queued_images == 3 and await new.take() == [jobs[0], jobs[2]]

    run(test())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["submit", "take", "finish", "lose", "cancel", "expire"]), max_size=60), st.integers(1, 5)
)
def test_every_accepted_job_is_settled_exactly_once(steps, batch):
    async def test():
        queue = new_queue(max_batch_images=batch, max_queue_images=10)
        accepted, held, settled = [], [], []
        for number, step in enumerate(steps):
            if step == "submit":
                new = job(heads=("ab"[number % 2],), images=1 + number % 3)
                try:
                    queue.submit(new)
                except Unavailable:
                    continue
                new.done.add_done_callback(lambda done: settled.append(done))
                accepted.append(new)
            elif step == "take" and queue.queued_images:
                held.append(await queue.take())
                assert len({each.group for each in held[-1]}) == 1
            elif step == "finish" and held:
                for each in held.pop():
                    queue.finish(each, b"", 0.1)
            elif step == "lose" and held:
                queue.requeue(held.pop())
            elif step == "cancel" and accepted:
                queue.cancel(accepted[number % len(accepted)])
            elif step == "expire" and accepted:
                if accepted[-1] not in [each for batch in held for each in batch]:
                    queue._expire(accepted[-1])
        for batch_ in held:
            queue.requeue(batch_)
        while queue.queued_images:
            for each in await queue.take():
                queue.finish(each, b"", 0.1)
        await asyncio.sleep(0)
        assert not queue.busy and queue.queued_images == 0
        assert all(each.done.done() for each in accepted) and len(settled) == len(accepted)

    run(test())


def test_deadlines_hold_from_the_first_job():
    async def test():
        queue = new_queue()
        queue.set_initial_cost(("m", ("a", "b")), 100, 0.5)
        queue.submit(job(seconds=10))
        for _ in range(3):
            queue.submit(job(("b",), seconds=4))  # unknown heads: the cost of the slowest known ones
        with pytest.raises(Unavailable):
            queue.submit(job(("b",), seconds=2.5))
        for _ in range(8):
            queue.record_cost(job(("a", "b")).cost_class, 1, 0.1)
        # a measurement is not overwritten by the initial cost of another worker
        queue.set_initial_cost(("m", ("a", "b")), 100, 9.0)
        queue.submit(job(("a", "b"), seconds=6))

    run(test())


def test_a_batch_is_settled_job_by_job_or_with_one_error():
    async def test():
        queue = new_queue()
        jobs = [job(), job(), job(model="n")]
        for each in jobs:
            queue.submit(each)
        assert queue.has_model("m") and queue.has_model("n")
        error = ServiceError("broken")
        queue.complete(await queue.take(), [b"fine", error], elapsed_seconds=1.0, compute_seconds=0.5)
        assert jobs[0].done.result().blob == b"fine" and jobs[0].done.result().compute_seconds == 0.5
        assert jobs[1].done.exception() is error
        assert not queue.has_model("m") and queue.has_model("n")
        queue.abort(await queue.take(), error)
        assert jobs[2].done.exception() is error and not queue.busy

    run(test())
