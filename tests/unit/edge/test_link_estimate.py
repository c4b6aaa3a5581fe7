"""What is learnt of a link that is known."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitreg.edge import LinkEstimate


@given(
    rtt=st.floats(0.001, 1), rate=st.floats(500, 1e7), sizes=st.lists(st.integers(100, 10**6), min_size=4, max_size=30)
)
def test_a_steady_link_is_found(rtt, rate, sizes):
    link = LinkEstimate()
    for size in [100, 200, *sizes]:
        link.add(size, rtt + size / rate)
    assert link.rtt_s == pytest.approx(rtt, rel=0.01, abs=1e-4) and link.bytes_per_s == pytest.approx(rate, rel=0.01)
    assert link.size(rtt + 1000 / rate) == pytest.approx(1000, rel=0.05, abs=rate * 2e-4 + 2)
    assert link.size(rtt / 2) in (0, 1)


def test_outliers_do_not_move_it():
    rng, link = random.Random(0), LinkEstimate()
    for i in range(24):
        size = rng.choice([150, 1000, 2000, 4000])
        link.add(size, (0.1 + size / 5000) * rng.uniform(0.95, 1.05) + (3.0 if i % 6 == 5 else 0.0))
    assert link.bytes_per_s == pytest.approx(5000, rel=0.15) and link.rtt_s == pytest.approx(0.1, abs=0.03)
    assert link.size(0.5, certainty=0.8) < 2000  # with a margin for what usually is late
    assert link.size(0.5, certainty=0.0) == pytest.approx(2000, rel=0.2)


def test_another_link_is_noticed_after_three_transfers():
    rng, link = random.Random(1), LinkEstimate()
    for _ in range(24):
        size = rng.choice([150, 1000, 2000, 4000])
        link.add(size, 0.02 + size / 1e6)
    for size in (1000, 2000, 4000):
        link.add(size, 0.2 + size / 4000)
    assert link.bytes_per_s == pytest.approx(4000, rel=0.1) and link.rtt_s == pytest.approx(0.2, rel=0.2)
    for _ in range(3):  # all of one size: the line is scaled to them
        link.add(1000, 0.9)
    assert link.seconds(1000) == pytest.approx(0.9, rel=0.01)


def test_nothing_is_said_of_what_is_not_known():
    link = LinkEstimate()
    assert link.rtt_s is link.bytes_per_s is link.seconds(1) is link.size(1.0) is None
    link.add(100, 0.1)
    link.add(110, 0.1)
    assert link.bytes_per_s is None and link.size(1.0) is None and link.rtt_s == pytest.approx(0.1)


def test_a_link_without_an_end_is_no_division_by_zero():
    link = LinkEstimate()
    for size in (100, 1000, 10_000):
        link.add(size, 0.01)
    assert link.size(1.0) > 10**9 and link.size(0.001) == 0
    link.add(5, 0.0)
    link.add(0, -1.0)
