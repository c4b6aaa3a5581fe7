"""Hostile clients against a server in a process of its own: what honest clients see meanwhile, and its memory.

Latencies are compared with those of the same server at rest. The faults that these tests guard against made them a
hundred to a thousand times as long, so a factor of 40 leaves room for a busy machine.
"""

import time

import pytest
from support.attacked import attacked
from support.serving_toys import packet

pytestmark = pytest.mark.integration

MEBIBYTE = 2**20
#: A latency at rest is at least a few turns of a busy scheduler.
SLOWER, AT_REST = 40, 0.025


@pytest.fixture(scope="module")
def server():
    with attacked() as server:
        server.quiet = {kind: max(AT_REST, server.seconds(kind, 0.5)) for kind in ("healthz", "infer")}
        yield server


def unaffected(server, name, *, memory=64, **options):
    """Run an attack; honest clients are answered, and the memory stays bounded."""
    before = server.memory()
    with server.attack(name, **options):
        for kind, quiet in server.quiet.items():
            assert server.seconds(kind, 0.6) < SLOWER * quiet
        assert server.memory() - before < memory
    assert server.seconds("infer", 0.1) < SLOWER * server.quiet["infer"]


@pytest.mark.parametrize("name", ["upgrades_with_body", "many_headers", "pipelined_requests"])
def test_requests_that_do_not_end(server, name):
    unaffected(server, name, memory=16)


@pytest.mark.parametrize("name", ["tiny_chunks", "tiny_fragments", "empty_pings", "unread_pongs"])
def test_more_framing_than_content(server, name):
    unaffected(server, name, memory=16)


@pytest.mark.parametrize("name", ["unfinished_messages", "unfinished_bodies"])
def test_large_uploads_give_way_to_small_ones(server, name):
    unaffected(server, name, memory=64)
    assert server.metric("splitreg_refusals_total") > 0


@pytest.mark.parametrize("name", ["tiny_chunks", "many_headers", "tiny_fragments"])
def test_new_connections_of_a_client_whose_requests_are_refused_wait(name):
    with attacked(max_requests_per_s=200.0) as server, server.attack(name):
        time.sleep(1)
        before, start = server.metric("splitreg_refusals_total"), time.monotonic()
        time.sleep(1.5)
        refused = server.metric("splitreg_refusals_total") - before
        assert refused / (time.monotonic() - start) < 20  # without delays hundreds per second
        assert server.metric("splitreg_delayed_connections_total") > 0
        assert server.seconds("infer", 0.2) < 1  # another client does not wait


@pytest.mark.parametrize("name", ["silent_connections", "upgrades_with_body"])
def test_connections_that_wait_give_way_to_new_ones(name):
    with attacked(max_connections=30, max_client_connections=30) as server, server.attack(name, count=40):
        assert server.seconds("infer", 0.5) < 1
        assert server.metric("splitreg_connections") <= 31
        if name == "silent_connections":
            assert server.metric("splitreg_dropped_connections_total") > 0


def test_file_descriptors_limit_connections():
    """With 64 of them, 120 idle connections leave enough for honest ones."""
    with attacked(files=64, max_client_connections=1000) as server, server.attack("silent_connections", count=120):
        assert server.seconds("infer", 0.5) < 1
        assert server.metric("splitreg_connections") <= 32
        assert server.metric("splitreg_file_descriptors_exhausted_total") == 0


def test_the_packet_of_the_tests_is_honest():
    assert len(packet(b"honest" * 300)) < 2000
