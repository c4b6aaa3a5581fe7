"""The queue on disk against a list, its bounds, and files that are not one."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from splitreg.edge import Outbox, outbox
from splitreg.errors import OutboxError, OutboxFull, RecipeError

pytestmark = pytest.mark.integration

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
from splitreg.edge import Outbox, outbox
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


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no permission to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder):
    """Use all space of a file system."""
    with contextlib.suppress(OSError), open(folder / "other", "ab", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


@pytest.mark.parametrize("reopened", [False, True])
def test_packets_are_sent_although_the_disk_is_full(small_disk, reopened):
    path = small_disk / "box"
    box = Outbox(path)
    keys = [box.put(bytes(1000)).key for _ in range(20)]
    if reopened:
        box.close()
    fill(small_disk)
    box = Outbox(path) if reopened else box
    with pytest.raises(OutboxError, match="disk|space"):
        for _ in range(2000):
            box.put(bytes(50_000))
    with box.draining():
        sent = []
        while (queued := box.first()) is not None:
            if len(queued.packet) == 1000:
                sent.append(queued.key)
            assert box.record(queued, {"bytes": 1}, b"answer")
            box.forget(box.answered())
    assert sent == keys
    box.close()


def test_messages_of_a_full_disk_do_not_suggest_to_lose_packets(small_disk):
    box = Outbox(small_disk / "box")
    fill(small_disk)
    (small_disk / "box.reserve").unlink()
    fill(small_disk)
    with pytest.raises(OutboxError) as caught:
        for _ in range(2000):
            box.put(bytes(50_000))
    assert "not lost" in str(caught.value) and "move it away" not in str(caught.value)
    with box.draining(), pytest.raises(OutboxError, match="another process"), box.draining():
        pass
    box.close()


def test_files_are_for_their_owner_only(tmp_path):
    with Outbox(tmp_path / "box") as box, box.draining():
        box.put(b"p")
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_clock_that_is_set_expires_no_packet(tmp_path, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(outbox, "_boot", lambda: (7, round(now[0] - 500)))
    monkeypatch.setattr(outbox.time, "time", lambda: now[0])
    with Outbox(tmp_path / "box") as box:
        box.put(b"p", expires=now[0] + 60)
        now[0] += 1_700_000_000
        assert not box.first().expired and box.first().expires == now[0] + 60
        box.put(b"q", expires=now[0] + 60)
        now[0] += 5  # is slewed
        assert box.first().expires == now[0] + 55
    monkeypatch.setattr(outbox, "_boot", lambda: (8, 3))  # after a restart the time stays as it is
    with Outbox(tmp_path / "box") as box:
        assert box.first().expires == now[0] + 55
