"""The size of answers: estimated before a request is accepted, and counted until they are sent."""

import asyncio
import contextlib
import json
import time

import pytest
from support.attacked import attacked
from support.serving_toys import MODEL, StubBackend, packet, running, stub, until

from splitreg.serving.answer_room import AnswerRooms
from splitreg.serving.answer_size import estimate_bytes
from splitreg.wire import AnswerFormat, join_packets, protocol

pytestmark = pytest.mark.integration

SEG, DEPTH, RECON, CLS = ({"task": task} for task in ("segmentation", "depth", "reconstruction", "classification"))
EXACT = AnswerFormat(media=protocol.ANSWERS)


def dense(**attributes):
    """A stub backend whose head is a segmentation, and whose answers are as large as its masks."""

    def describe(self):
        return {f"{MODEL:08x}": {"id": f"{MODEL:08x}", "name": "stub", "heads": {"seg": SEG, "cls": CLS}}}

    def answer(self, job):
        return json.dumps(
            [{"seg": "x" * min(job.pixels // job.images, self.config.max_mask_pixels)}] * job.images
        ).encode()

    return type("Dense", (StubBackend,), {"describe": describe, "_answer": answer, **attributes})


@pytest.mark.parametrize(
    ("heads", "format_", "expected"),
    [
        ([CLS], EXACT, 0), ([SEG], EXACT, 1000), ([DEPTH], EXACT, 4000), ([RECON], EXACT, 3000), ([SEG, DEPTH], EXACT, 5000),
        ([{"task": "other"}], EXACT, 4000), ([{}], EXACT, 0), ([SEG], AnswerFormat(), 1000), ([DEPTH], AnswerFormat(), 0),
        ([SEG, RECON], AnswerFormat(masks="png"), 6000), ([SEG, RECON], AnswerFormat(masks="none"), 0),
    ],
    ids=str,
)  # fmt: skip
def test_the_estimate_follows_heads_format_and_pixels(heads, format_, expected):
    one = estimate_bytes(heads, [(20, 50)], format_, 10_000)
    base = estimate_bytes(heads, [(0, 0)], format_, 10_000)
    assert one - base == expected
    assert estimate_bytes(heads, [(2000, 5000)], format_, 1000) == one
    assert estimate_bytes(heads, [(20, 50)] * 3, format_, 10_000) == 3 * one


def test_requests_for_large_answers_are_refused_before_they_are_computed():
    with running(dense(), max_answer_bytes=1 << 20, max_mask_pixels=200_000, max_request_images=20) as server:
        several = join_packets([packet(original=(1000, 1000))] * 8)
        error, _ = server.refused(413, "TooLarge", body=several, kind=protocol.PACKETS)
        assert "1048576" in error["message"] and not server.backend.batches
        assert server.ask(body=several, kind=protocol.PACKETS, path=f"{protocol.INFER}?heads=cls")[0] == 200
        assert server.ask(body=several, kind=protocol.PACKETS, path=f"{protocol.INFER}?masks=none")[0] == 200
        assert server.ask(body=packet(original=(7071, 7071)))[0] == 200  # its mask is scaled down


def test_answers_count_until_they_are_sent():
    with running(stub(padding=12_000_000), write_timeout_seconds=0.5, min_send_bytes_per_s=1 << 30) as server:
        body = packet()
        sock = server.socket()
        sock.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/vnd.splitreg.packet\r\n"
                     b"Content-Length: %d\r\n\r\n%s" % (len(body), body))  # fmt: skip
        until(lambda: server.service.answer_bytes.total > 12_000_000)
        start = time.monotonic()
        until(lambda: server.service.answer_bytes.total == 0)  # it is disconnected
        assert time.monotonic() - start < 10
        text = server.ask("GET", protocol.METRICS)[2].decode()
        assert "splitreg_slow_readers_total 1.0" in text and "splitreg_answer_bytes 0.0" in text
        sock.close()


def test_the_time_to_receive_an_answer_grows_with_its_size():
    with running(write_timeout_seconds=2.0, min_send_bytes_per_s=1000) as server:
        assert server.service.config.send_seconds(0) == 2.0
        assert server.service.config.send_seconds(10_000) == 12.0


@pytest.mark.parametrize("stream", [False, True])
def test_the_largest_answer_gives_way(stream):
    """Honest clients get small answers although silent readers hold more than fits."""
    limits = {"max_pending_answer_bytes": 4_000_000, "max_answer_bytes": 1 << 30, "max_client_connections": 100}
    with running(dense(), **limits) as server, contextlib.ExitStack() as stack:
        body, held = packet(original=(1000, 1500)), []
        for _ in range(6):
            if stream:
                socket = stack.enter_context(server.stream("?heads=seg"))
                socket.send(protocol.write_request(1, body))
            else:
                socket = server.socket()
                socket.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/vnd.splitreg.packet\r\n"
                               b"Content-Length: %d\r\n\r\n%s" % (len(body), body))  # fmt: skip
            held.append(socket)
            until(lambda: not server.backend.queue.busy)
            assert server.service.answer_bytes.total <= 4_000_000
        assert server.ask(body=packet(original=(100, 100)))[0] == 200
        for socket in held:
            socket.close()
        until(lambda: server.service.answer_bytes.total == 0)


def test_answers_of_a_client_wait_until_it_has_received_others():
    async def scenario():
        rooms = AnswerRooms(100, exempt=("proxy",))
        with rooms.room("a") as first, rooms.room("a") as second, rooms.room("a") as third, rooms.room("b") as other:
            await first.reserve(300)  # one may be larger than the limit
            tasks = [asyncio.create_task(room.reserve(count)) for room, count in ((second, 90), (third, 20))]
            await asyncio.sleep(0)
            await other.reserve(90)
            assert [task.done() for task in tasks] == [False, False]
            first.__exit__()
            await asyncio.sleep(0.01)
            assert [task.done() for task in tasks] == [False, True]  # the smaller one comes first
            tasks[0].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        with rooms.room("proxy") as one, rooms.room("proxy") as two:
            await one.reserve(90)
            await two.reserve(90)
        assert not len(rooms)

    asyncio.run(scenario())


def test_silent_readers_do_not_fill_the_memory():
    limits = {"max_client_connections": 200, "max_mask_pixels": 8_000_000}
    with attacked(backend={"dense": True}, **limits) as server:
        quiet, before = max(0.01, server.seconds("infer", 0.5)), server.memory()
        large = packet(original=(2800, 2800))
        with server.attack("silent_readers", packet=large.hex(), count=60):
            assert server.seconds("infer", 1.5) < 40 * quiet
            assert server.memory() - before < 128  # of 470 MB
            assert server.metric("splitreg_answer_bytes") <= 33 * 2**20
