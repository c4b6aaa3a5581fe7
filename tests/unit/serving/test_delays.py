"""Delays of clients whose requests are malformed."""

import pytest

from splitreg.serving.http.delays import ConnectionDelays


def test_a_few_refusals_cost_nothing_and_many_delay_only_their_client():
    delays = ConnectionDelays()
    for _ in range(10):
        delays.count("a", 0.0)
    assert delays.seconds("a", 0.0) == 0
    for _ in range(5):
        delays.count("a", 0.0)
    assert delays.seconds("a", 0.0) == pytest.approx(0.5)
    for _ in range(1000):
        delays.count("a", 0.0)
    assert delays.seconds("a", 0.0) == 2
    assert delays.seconds("b", 0.0) == 0


def test_time_ends_a_delay():
    delays = ConnectionDelays()
    for _ in range(30):
        delays.count("a", 0.0)
    assert delays.seconds("a", 5.0) == pytest.approx(1.5)
    assert delays.seconds("a", 20.0) == 0
    delays.count("a", 1000.0)
    assert delays.seconds("a", 1000.0) == 0


def test_a_refusal_each_second_is_free():
    delays = ConnectionDelays()
    for second in range(1000):
        delays.count("a", float(second))
    assert delays.seconds("a", 1000.0) == 0


def test_few_clients_are_remembered():
    delays = ConnectionDelays()
    for _ in range(20):
        delays.count("first", 0.0)
    for number in range(5000):
        delays.count(str(number), 0.0)
    assert delays.seconds("first", 0.0) == 0
    assert len(delays._refusals) == 4096
