"""The emulator: its arithmetic exactly, its sockets by what arrives. No test compares times of a clock."""

import socket
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitreg.link_emulator import PRESETS, SEGMENT_BYTES, Lane, Link, LinkTrace, Profile


def test_a_lane_is_its_bandwidth_and_its_delay():
    lane = Lane(8000, Profile(up_bps=8000, down_bps=8000, delay_s=0.5), seed=0)
    assert lane.arrival(0.0, 1000) == pytest.approx(1.5)
    assert lane.arrival(0.0, 1000) == pytest.approx(2.5)  # waits for the first
    assert lane.arrival(10.0, 500) == pytest.approx(11.0)


def test_a_lost_segment_comes_late_and_takes_its_bandwidth_again():
    lane = Lane(8000, Profile(up_bps=1, down_bps=1, loss=0.999999), seed=0)
    arrived = lane.arrival(0.0, 100)
    assert lane.retransmits == 6 and lane.free_s == pytest.approx(0.7)
    assert arrived == pytest.approx(0.1 + 6 * 0.1 + 0.2 * (1 + 2 + 4 + 8 + 16 + 32))


def test_the_mean_of_what_is_random_is_what_was_asked_for():
    profile = Profile(up_bps=1e12, down_bps=1e12, jitter_s=0.01, loss=0.02)
    lane = Lane(1e12, profile, seed=3)
    late = [lane.arrival(float(i), 1000) - i for i in range(20_000)]
    assert sum(seconds for seconds in late if seconds < 0.19) / len(late) == pytest.approx(0.01, rel=0.05)
    assert lane.retransmits / 20_000 == pytest.approx(0.02, rel=0.15)


def test_the_same_seed_is_the_same_link():
    def run(seed):
        lane = Lane(1e6, PRESETS["4g"], seed)
        return [lane.arrival(i / 10, 1000) for i in range(500)]

    assert run(5) == run(5) != run(6)


def test_lora_carries_what_it_carries():
    """5.35 KB take 1.17 s at 37.5 kbps, as in the papers."""
    lane = Lane(PRESETS["lora"].up_bps, Profile(up_bps=1, down_bps=1), seed=0)
    assert max(lane.arrival(0.0, size) for size in [1370] * 4) == pytest.approx(1.17, abs=0.01)


@pytest.mark.parametrize(
    "wrong", [{"up_bps": 0}, {"delay_s": -1}, {"loss": 1}, {"loss": -0.1}, {"jitter_s": -1}], ids=str
)
def test_profiles_that_are_none(wrong):
    with pytest.raises(ValueError):
        Profile(**{"up_bps": 1, "down_bps": 1, **wrong})


class Echo:
    """Returns what comes, in upper case."""

    def __enter__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = self.server.getsockname()
        threading.Thread(target=self.serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.close()

    def serve(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self.echo, args=(connection,), daemon=True).start()

    def echo(self, connection):
        with connection:
            try:
                while data := connection.recv(4096):
                    connection.sendall(data.upper())
            except OSError:
                pass


@pytest.fixture
def echo():
    with Echo() as running:
        yield running


FAST = Profile(up_bps=1e9, down_bps=1e9, delay_s=0.001, jitter_s=0.001)


def connect(link, timeout=30.0):
    return socket.create_connection(("127.0.0.1", link.port), timeout=timeout)


def ask(connection, data=b"hello"):
    connection.sendall(data)
    got = b""
    while len(got) < len(data) and (piece := connection.recv(65536)):
        got += piece
    return got


def test_every_byte_arrives_in_order(echo):
    data = bytes(range(97, 123)) * 40_000
    with Link(echo.address, FAST, seed=1) as link, connect(link) as connection:
        threading.Thread(target=connection.sendall, args=(data,), daemon=True).start()
        got = b""
        while len(got) < len(data):
            got += connection.recv(65536)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""  # the end travels too
        assert got == data.upper() and (link.counts.up, link.counts.down) == (len(data), len(data))
        assert link.counts.connections == 1 and len(data) > 100 * SEGMENT_BYTES


def test_silence_and_what_comes_after_it(echo):
    with Link(echo.address, FAST) as link, connect(link) as connection:
        assert ask(connection) == b"HELLO"
        link.down()
        connection.sendall(b"late")
        connection.settimeout(0.05)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        link.up()
        connection.settimeout(30)
        assert connection.recv(10) == b"LATE"


def test_refusal(echo):
    with Link(echo.address, FAST) as link, connect(link) as connection:
        assert ask(connection) == b"HELLO"
        link.down(refuse=True)
        with pytest.raises(ConnectionError):
            connection.recv(1)
        with pytest.raises(ConnectionError), connect(link) as other:
            assert ask(other) == b"" or other.recv(1)
            raise ConnectionError  # an end instead of a reset is a refusal as well
        link.up()
        with connect(link) as again:
            assert ask(again) == b"HELLO"


def test_half_open_connections_stay_silent_and_new_ones_work(echo):
    with Link(echo.address, FAST) as link, connect(link) as old:
        assert ask(old) == b"HELLO"
        link.half_open()
        with connect(link) as new:
            assert ask(new) == b"HELLO"
        old.sendall(b"anyone?")
        old.settimeout(0.05)
        with pytest.raises(TimeoutError):
            old.recv(1)
        link.reset()
        old.settimeout(30)
        with pytest.raises(ConnectionError):
            old.recv(1)


def test_outages_of_the_profile(echo):
    profile = Profile(up_bps=1e9, down_bps=1e9, outages=[(0.0, 0.2)])
    with Link(echo.address, profile) as link, connect(link) as connection:
        assert ask(connection) == b"HELLO"


def test_a_server_that_is_away():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
    with Link(address, FAST) as link:
        try:
            with connect(link) as connection:  # whose reset may come this early
                assert connection.recv(1) == b""
        except ConnectionError:
            pass


def test_it_needs_no_torch():
    code = "import sys; from splitreg.link_emulator import Link; print([m for m in ('torch', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_trace_delivers_1500_bytes_at_each_time_and_repeats():
    lane = Lane(1, Profile(up_bps=1, down_bps=1), seed=0, trace=LinkTrace([0, 10, 10, 40]))
    assert [lane.arrival(0, 1000), lane.arrival(0, 500), lane.arrival(0, 1)] == [0, 0, 0.01]
    assert lane.arrival(0, 2999) == 0.01  # both of that millisecond
    assert lane.arrival(0, 1) == 0.04
    assert lane.arrival(0.041, 3000) == pytest.approx(0.05)  # 10 ms after the begin of the second round
    assert lane.arrival(0.19, 1500) == pytest.approx(0.2)  # the end of a round is the begin of the next


@given(st.lists(st.integers(0, 500), min_size=1, max_size=20), st.lists(st.integers(1, 4000), max_size=20))
def test_a_trace_never_delivers_more_than_its_times_allow(times, sizes):
    times = [*sorted(times), 501]
    lane, arrivals = Lane(1, Profile(up_bps=1, down_bps=1), seed=0, trace=LinkTrace(times)), []
    for size in sizes:
        arrivals += [lane.arrival(0.0, size)] * size
    for end in (100, 501, 1002):
        allowed = 1500 * sum(time + 501 * turn <= end for turn in range(3) for time in times)
        assert sum(arrival <= end / 1000 + 1e-9 for arrival in arrivals) <= allowed
    assert arrivals == sorted(arrivals)


def test_traces_that_are_none(tmp_path):
    path = tmp_path / "link.up"
    path.write_text("0\n3\n3\n9\n")
    assert LinkTrace.read(path).times_ms == (0, 3, 3, 9)
    for text in ("", "3\n2\n", "0\n", "1\nx\n", "-1\n4\n", "\xff"):
        path.write_text(text, encoding="latin1")
        with pytest.raises(ValueError, match=r"link\.up"):
            LinkTrace.read(path)
