"""The queue on disk against a list, its bounds, and files that are not one."""

import os
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splitreg.edge import Outbox
from splitreg.errors import OutboxError, OutboxFull, RecipeError

STEPS = st.lists(
    st.one_of(st.tuples(st.just("put"), st.binary(max_size=30)), st.sampled_from(["record", "forget", "reopen"])),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_it_is_a_queue(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("box") / "box"
    waiting, answered, box = [], [], Outbox(path)
    for step in steps:
        if step[0] == "put":
            entry = box.put(step[1], name=step[1].hex(), query="heads=a,b", expires=2.5)
            waiting.append((step[1], entry.key))
        elif step == "record" and waiting:
            packet, key = waiting.pop(0)
            first = box.first()
            assert first.expires == 2.5 and first.query == "heads=a,b" and first.name == packet.hex()
            assert box.record(first, {"n": len(answered)}, packet) and not box.record(first, {}, None)
            answered.append((packet, key))
        elif step == "forget" and answered:
            packet, key = answered.pop(0)
            stored = box.answered()
            assert (stored.blob, stored.key) == (packet, key)
            box.forget(stored)
        elif step == "reopen":
            box.close()
            box = Outbox(path)
        first, stored = box.first(), box.answered()
        assert (None if first is None else (first.packet, first.key)) == (waiting[0] if waiting else None)
        assert (None if stored is None else (stored.blob, stored.key)) == (answered[0] if answered else None)
        assert len(box) == len(waiting) and box.queued_bytes == sum(len(packet) for packet, _ in waiting)
    assert len({key for _, key in waiting}) == len(waiting)
    box.close()


def test_a_full_one_says_so(tmp_path):
    with Outbox(tmp_path / "box", max_packets=2, max_bytes=10) as box:
        box.put(b"12345")
        with pytest.raises(OutboxFull, match=r"\b1\b.*\b5\b.*\b2\b.*\b10\b"):
            box.put(b"123456")
        box.put(b"12345")
        with pytest.raises(OutboxFull, match=r"\b2\b.*\b10\b"):
            box.put(b"")
        with pytest.raises(OutboxFull, match=r"\b11\b.*\b10\b"):
            box.put(b"x" * 11)
        assert (len(box), box.queued_bytes, box.dropped) == (2, 10, 0)


def test_a_full_one_can_drop_the_oldest(tmp_path):
    with Outbox(tmp_path / "box", max_packets=3, max_bytes=10, when_full="drop-oldest") as box:
        for packet in (b"aaaa", b"bbbb", b"c", b"dddddd"):
            box.put(packet)
        assert box.first().packet == b"c" and (len(box), box.queued_bytes, box.dropped) == (2, 7, 2)
        first = box.first()
        box.put(b"eeeeeeeeee")
        assert not box.record(first, {}, b"")  # it was dropped meanwhile: its answer is not wanted either
        assert box.answered() is None and len(box) == 1


@pytest.mark.parametrize("options", [{"when_full": "explode"}, {"max_packets": 0}, {"max_bytes": 0}], ids=str)
def test_options_that_are_none(options, tmp_path):
    with pytest.raises(RecipeError):
        Outbox(tmp_path / "box", **options)


def test_files_that_are_not_one(tmp_path):
    (tmp_path / "text").write_text("not a database, but long enough to look at" * 40)
    with pytest.raises(OutboxError, match="text"):
        Outbox(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other") as base:
        base.execute("CREATE TABLE mine (a)")
    base.close()
    with pytest.raises(OutboxError, match="other"):
        Outbox(tmp_path / "other")
    assert sqlite3.connect(tmp_path / "other").execute("SELECT name FROM sqlite_master").fetchall() == [("mine",)]
    with pytest.raises(OutboxError):
        Outbox(tmp_path / "no" / "folder")
    with pytest.raises(OutboxError):
        Outbox(tmp_path)


def test_damage_is_an_error_of_its_own(tmp_path):
    with Outbox(tmp_path / "box") as box:
        for i in range(200):
            box.put(bytes([i]) * 500)
    data = bytearray((tmp_path / "box").read_bytes())
    data[4096:] = b"\xff" * (len(data) - 4096)
    (tmp_path / "box").write_bytes(data)
    with pytest.raises(OutboxError, match="box"), Outbox(tmp_path / "box") as box:
        box.first()


def test_two_at_once_make_one(tmp_path):
    with Outbox(tmp_path / "box") as one, Outbox(tmp_path / "box") as other:
        one.put(b"1")
        other.put(b"2")
        first = other.first()
        assert one.record(first, {}, b"") and not other.record(first, {}, b"")
        assert [box.first().packet for box in (one, other)] == [b"2", b"2"]


def test_what_was_put_survives_kill_9(tmp_path):
    code = """
import os, sys
from splitreg.edge import Outbox
box = Outbox(sys.argv[1])
for i in range(10_000):
    box.put(b"%d" % i)
    os.write(1, b"%d\\n" % i)
"""
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path / "box"], stdout=subprocess.PIPE,
                             env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    with child:
        for _ in range(20):
            child.stdout.readline()
        child.kill()
        reported = 20 + len(child.stdout.read().splitlines())
    with Outbox(tmp_path / "box") as box:
        assert reported <= len(box) <= reported + 1
        assert box.first().packet == b"0"
