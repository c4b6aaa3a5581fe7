"""Streams: order, back-pressure, errors, closing."""

import json
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.serving_toys import MODEL, gated, packet, running, stub, until
from websockets.exceptions import ConnectionClosed, InvalidStatus

from splitreg.wire import protocol

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server():
    with running(max_body_bytes=5000, max_stream_in_flight=4) as server:
        yield server


def closed(socket):
    with pytest.raises(ConnectionClosed) as end:
        while True:
            socket.recv(timeout=10)
    return end.value.rcvd.code if end.value.rcvd else None


def test_answers_have_the_number_of_their_request(server):
    with server.stream() as socket:
        for number in (7, 2**64 - 1):
            socket.send(protocol.write_request(number, packet()))
            assert json.loads(socket.recv(timeout=10)) == {
                "request": number, "answers": [{"cls": {"bytes": 23}, "seg": {"bytes": 23}}],
            }  # fmt: skip
    with server.stream("?answers=binary&heads=cls") as socket:
        socket.send(protocol.write_request(5, packet()))
        number, status, blob = protocol.read_answer(socket.recv(timeout=10))
        assert (number, status, json.loads(blob)) == (5, 200, [{"cls": {"bytes": 23}}])


def test_errors_are_messages(server):
    for query, bad, status, kind in (
        ("", packet(model=1), 409, "ForeignPacket"), ("", b"", 400, "CorruptPacket"),
        ("?heads=dog", packet(), 400, "RecipeError"),
    ):  # fmt: skip
        with server.stream(query) as socket:
            socket.send(protocol.write_request(1, bad))
            message = json.loads(socket.recv(timeout=10))
            assert message["request"] == 1 and message["error"]["type"] == kind
        with server.stream(query + ("&" if query else "?") + "answers=binary") as socket:
            socket.send(protocol.write_request(1, bad))
            number, actual, blob = protocol.read_answer(socket.recv(timeout=10))
            error = json.loads(blob)["error"]
            assert (number, actual, error["type"]) == (1, status, kind)
            assert status != 409 or error["served"] == [{"id": f"{MODEL:08x}", "name": "stub"}]


def test_invalid_messages_close_the_stream(server):
    for message, code in (("text", 1003), (b"short", 1008), (b"x" * 9000, 1009)):
        with server.stream() as socket:
            socket.send(message)
            assert closed(socket) == code


def test_packets_in_flight_are_limited():
    with running(stub(delay=0.03), max_stream_in_flight=3, max_batch_images=1) as server, server.stream() as socket:
        queued, stop = [], threading.Event()
        watch = threading.Thread(
            target=lambda: [
                queued.append(server.backend.queue.queued_images) or time.sleep(0.002) for _ in iter(stop.is_set, True)
            ]
        )
        watch.start()
        for number in range(12):
            socket.send(protocol.write_request(number, packet()))
        numbers = sorted(json.loads(socket.recv(timeout=20))["request"] for _ in range(12))
        stop.set()
        watch.join()
        assert numbers == list(range(12)) and 1 <= max(queued) <= 3


def test_authentication_and_origin():
    with running(token="right") as server:
        for token in (None, "wrong"):
            server.token = token
            with pytest.raises(InvalidStatus) as refused, server.stream():
                pass
            assert refused.value.response.status_code == 401
            assert json.loads(refused.value.response.body)["error"]["type"] == "Unauthorized"
        server.token = "right"
        with pytest.raises(InvalidStatus), server.stream(headers={"Origin": "https://elsewhere.example"}):
            pass
        with server.stream(headers={"Origin": f"http://127.0.0.1:{server.port}"}) as socket:
            socket.send(protocol.write_request(1, packet()))
            assert "answers" in json.loads(socket.recv(timeout=10))
        for query, status in (("?masks=x", 400), ("?what=1", 400)):
            with pytest.raises(InvalidStatus) as refused, server.stream(query):
                pass
            assert refused.value.response.status_code == status


def test_the_rate_limit_applies_to_packets():
    with running(max_requests_per_s=3.0) as server, server.stream() as socket:
        for number in range(12):
            socket.send(protocol.write_request(number, packet()))
        messages = [json.loads(socket.recv(timeout=10)) for _ in range(12)]
        refused = [message["error"] for message in messages if "error" in message]
        assert 0 < len(refused) < 12 and all(e["type"] == "RateLimited" and e["retry_after_s"] > 0 for e in refused)


def test_packets_of_disconnected_clients_are_dropped():
    backend, gate = gated()
    with running(backend, max_batch_images=1) as server:
        with server.stream() as socket:
            for number in range(8):
                socket.send(protocol.write_request(number, packet()))
            until(lambda: server.backend.queue.queued_images >= 6)
        until(lambda: server.backend.queue.queued_images == 0 and not server.service.streams)
        gate.set()
        assert len(server.backend.batches) < 8 and server.idle


def test_draining_closes_streams_when_they_are_empty():
    backend, gate = gated()
    with running(backend) as server:
        with server.stream() as idle, server.stream() as busy:
            busy.send(protocol.write_request(1, packet()))
            until(lambda: server.backend.queue.busy)
            draining = threading.Thread(target=lambda: server.run(server.service.drain(10)))
            draining.start()
            assert closed(idle) == 1001
            gate.set()
            assert "answers" in json.loads(busy.recv(timeout=10)) and closed(busy) == 1001
            draining.join()
        with pytest.raises(InvalidStatus) as refused, server.stream():
            pass
        assert refused.value.response.status_code == 503 and refused.value.response.headers["Retry-After"]


def test_an_idle_stream_is_closed():
    with running(stream_idle_timeout_seconds=0.1) as server, server.stream() as socket:
        assert closed(socket) == 1001


def test_a_client_that_does_not_read_is_disconnected():
    with running(stub(padding=500_000), write_timeout_seconds=0.3, max_stream_in_flight=4) as server:
        with server.socket() as lazy:
            head = (
                f"GET {protocol.STREAM} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            lazy.sendall(head.encode())
            assert lazy.recv(12) == b"HTTP/1.1 101"
            until(lambda: server.service.streams)
            data = protocol.write_request(1, packet())
            frame = bytes([0x82, 0x80 | len(data)]) + b"\0\0\0\0" + data
            for _ in range(60):
                lazy.sendall(frame)
            assert server.ask(body=packet())[0] == 200
            until(lambda: not server.service.streams and server.idle)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=60), st.text(max_size=9)), max_size=4))
def test_any_messages(server, messages):
    with server.stream() as socket:
        for message in messages:
            _send(socket, message)
    assert server.ask("GET", protocol.READYZ)[0] == 200
    until(lambda: server.idle)


def _send(socket, message):
    try:
        socket.send(message)
    except ConnectionClosed:
        pass
