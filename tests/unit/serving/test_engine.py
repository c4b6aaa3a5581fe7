"""The queue: order, batches, bounds, deadlines, what a dead worker leaves."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitreg.errors import DeadlinePassed, Unavailable, WorkerLost
from splitreg.serving.config import ServeConfig
from splitreg.serving.engine import Engine, Job
from splitreg.serving.metrics import Metrics
from splitreg.wire import Form


def run(test):
    return asyncio.run(test)


def engine(**limits):
    return Engine(ServeConfig(bundles=("b",), **limits), Metrics())


def job(heads=("a",), images=1, seconds=60.0, pixels=100, model="m"):
    now = asyncio.get_running_loop().time()
    return Job(
        model=model, heads=heads, packets=(b"p",) * images, images=images, pixels=pixels * images, form=Form(),
        arrived=now, deadline=now + seconds,
    )  # fmt: skip


def test_a_batch_is_of_one_group_and_the_longest_waiting_goes_first():
    async def test():
        queue = engine(batch_images=3)
        jobs = [job(heads) for heads in [("a",), ("b",), ("a",), ("a",), ("b",), ("a",)]]
        for each in jobs:
            queue.submit(each)
        assert [await queue.take() for _ in range(3)] == [[jobs[0], jobs[2], jobs[3]], [jobs[1], jobs[4]], [jobs[5]]]
        assert queue.queued == 0 and queue.busy

    run(test())


def test_images_and_pixels_bound_a_batch_but_one_job_is_never_cut():
    async def test():
        queue = engine(batch_images=4, request_pixels=1000)
        for images in (3, 2, 9, 1):
            queue.submit(job(images=images, pixels=10))
        assert [[each.images for each in await queue.take()] for _ in range(4)] == [[3], [2], [9], [1]]
        for _ in range(3):
            queue.submit(job(pixels=400))
        assert [len(await queue.take()) for _ in range(2)] == [2, 1]

    run(test())


def test_the_queue_is_bounded_and_says_when_to_come_back():
    async def test():
        queue = engine(queue_images=5)
        queue.submit(job(images=9))  # one request is always possible
        with pytest.raises(Unavailable) as refused:
            queue.submit(job())
        assert refused.value.retry_after_s >= 1 and queue.queued == 9
        await queue.take()
        for _ in range(5):
            queue.submit(job())
        with pytest.raises(Unavailable):
            queue.submit(job())

    run(test())


def test_what_cannot_be_answered_in_time_is_not_accepted():
    async def test():
        queue = engine(workers=2)
        queue.learn(("m", ("a",)), 4, 8.0)  # two seconds an image
        queue.submit(job(seconds=1.0))  # the estimate may be wrong: an idle server tries
        for _ in range(4):
            queue.submit(job(seconds=20))
        with pytest.raises(Unavailable, match="beyond the deadline") as refused:
            queue.submit(job(seconds=5))
        assert refused.value.retry_after_s >= 1
        queue.submit(job(seconds=60))

    run(test())


def test_a_batch_is_not_so_long_that_its_first_one_is_late():
    async def test():
        queue = engine()
        queue.learn(("m", ("a",)), 1, 1.0)
        jobs = [job(seconds=seconds) for seconds in (3.5, 9, 9, 9, 1.5)]
        queue.adopt(jobs)
        # a fourth would make the first one late, the fifth would be late itself behind another
        assert [len(await queue.take()) for _ in range(3)] == [3, 1, 1]

    run(test())


def test_costs_that_vary_are_counted_with_their_deviation():
    async def test():
        queue = engine()
        for seconds in [0.5, 1.5] * 20:
            queue.learn(("m", ("a",)), 1, seconds)
        assert 1.7 < queue.expected_seconds(job()) < 2.4
        for _ in range(40):
            queue.learn(("m", ("a",)), 1, 1.0)
        assert queue.expected_seconds(job()) == pytest.approx(1.0, abs=0.01)

    run(test())


def test_a_deadline_passes_in_the_queue():
    async def test():
        queue = engine()
        late, other = job(seconds=0.02), job()
        queue.submit(late)
        queue.submit(other)
        with pytest.raises(DeadlinePassed):
            await late.done
        assert queue.queued == 1 and await queue.take() == [other]

    run(test())


def test_what_nobody_waits_for_is_dropped():
    async def test():
        queue = engine()
        gone, other = job(), job()
        queue.submit(gone)
        queue.submit(other)
        queue.forget(gone)
        assert gone.done.cancelled() and await queue.take() == [other]
        queue.forget(other)  # it runs
        queue.finish(other, b"x", 1.0)
        assert other.done.result().blob == b"x" and not queue.busy

    run(test())


def test_a_packet_that_kills_workers_takes_nobody_with_it():
    async def test():
        queue = engine(attempts=3)
        poison, *others = jobs = [job() for _ in range(4)]
        for each in jobs:
            queue.submit(each)
        deaths = 0
        while queue.busy:
            batch = await queue.take()
            if poison in batch:
                deaths += 1
                queue.lost(batch)
            else:
                for each in batch:
                    queue.finish(each, b"fine", 0.1)
        assert deaths == 3 and isinstance(poison.done.exception(), WorkerLost)
        assert all(each.done.result().blob == b"fine" for each in others)

    run(test())


def test_waiting_workers_are_woken_once_each_and_a_cancelled_one_passes_it_on():
    async def test():
        queue = engine(batch_images=1)
        taking = [asyncio.create_task(queue.take()) for _ in range(3)]
        await asyncio.sleep(0)
        queue.submit(first := job())
        taking[0].cancel()  # in the same step in which it is woken
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert taking[0].cancelled() and taking[1].result() == [first] and not taking[2].done()
        queue.submit(job())
        await asyncio.wait_for(taking[2], 1)

    run(test())


def test_an_heir_takes_over():
    async def test():
        old, new = engine(), engine()
        jobs = [job(), job(("b",)), job()]
        for each in jobs:
            old.submit(each)
        new.adopt(old.surrender())
        assert not old.busy and new.queued == 3 and await new.take() == [jobs[0], jobs[2]]

    run(test())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["submit", "take", "finish", "lose", "forget", "expire"]), max_size=60), st.integers(1, 5)
)
def test_every_accepted_job_is_settled_exactly_once(steps, batch):
    async def test():
        queue = engine(batch_images=batch, queue_images=10)
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
            elif step == "take" and queue.queued:
                held.append(await queue.take())
                assert len({each.group for each in held[-1]}) == 1
            elif step == "finish" and held:
                for each in held.pop():
                    queue.finish(each, b"", 0.1)
            elif step == "lose" and held:
                queue.lost(held.pop())
            elif step == "forget" and accepted:
                queue.forget(accepted[number % len(accepted)])
            elif step == "expire" and accepted:
                if accepted[-1] not in [each for batch in held for each in batch]:
                    queue._expire(accepted[-1])
        for batch_ in held:
            queue.lost(batch_)
        while queue.queued:
            for each in await queue.take():
                queue.finish(each, b"", 0.1)
        await asyncio.sleep(0)
        assert not queue.busy and queue.queued == 0
        assert all(each.done.done() for each in accepted) and len(settled) == len(accepted)

    run(test())


def test_the_first_requests_are_not_accepted_blindly():
    async def test():
        queue = engine()
        queue.guess(("m", ("a", "b")), 0.5)
        queue.submit(job(seconds=10))
        for _ in range(3):
            queue.submit(job(("b",), seconds=4))  # heads that never ran cost what is known
        with pytest.raises(Unavailable):
            queue.submit(job(("b",), seconds=2.5))
        queue.learn(("m", ("a", "b")), 1, 0.1)
        queue.guess(("m", ("a", "b")), 9.0)  # what was measured counts more than another worker's guess
        queue.submit(job(("a", "b"), seconds=6))

    run(test())
