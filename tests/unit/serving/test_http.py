"""Routes, limits and errors, with a stub backend."""

import json
import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.attacks import open_stream
from support.serving_toys import MODEL, gated, packet, running, stub, until

from splitreg.errors import RateLimited, RecipeError
from splitreg.serving import ServeConfig, security
from splitreg.wire import join_packets, protocol

pytestmark = pytest.mark.integration

PATHS = [protocol.INFER, protocol.MODELS, protocol.RELOAD, protocol.METRICS, "/", "/nothing", "/../etc/passwd"]
LIMITS = {
    "max_body_bytes": 5000, "max_request_images": 4, "max_request_pixels": 100_000, "header_timeout_seconds": 0.3,
    "body_timeout_seconds": 0.4, "keep_alive_seconds": 5.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def server():
    with running(**LIMITS) as server:
        yield server


def test_a_packet_is_answered(server):
    status, headers, body = server.ask(body=packet())
    assert (status, body) == (200, {"answers": [{"cls": {"bytes": 23}, "seg": {"bytes": 23}}]})
    assert float(headers[protocol.QUEUE_MS]) >= 0 and float(headers[protocol.COMPUTE_MS]) >= 0
    assert len(server.ask(path=f"{protocol.INFER}?heads=seg&masks=png", body=packet())[2]["answers"][0]) == 1


def test_every_image_is_answered_in_order(server):
    packets = [packet(b"1"), packet(b"22", others=((3, 4), (5, 6)))]
    assert len(server.ask(body=join_packets(packets), kind=protocol.PACKETS)[2]["answers"]) == 4
    blob = server.ask(body=packet(), headers={"Accept": protocol.ANSWERS})
    assert blob[1]["Content-Type"] == protocol.ANSWERS and json.loads(blob[2])[0]["cls"] == {"bytes": 23}


def test_a_packet_can_be_sent_again(server):
    assert len({json.dumps(server.ask(body=packet(b"again"))[2]) for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("status", "kind", "request_"),
    [
        (400, "CorruptPacket", {"body": packet()[:-1]}),
        (400, "CorruptPacket", {"body": b""}),
        (400, "CorruptPacket", {"body": packet(), "kind": protocol.PACKETS}),
        (400, "BadRequest", {"body": b"", "kind": protocol.PACKETS}),
        (400, "RecipeError", {"body": packet(), "path": "/v1/infer?heads=cls,dog"}),
        (400, "BadRequest", {"body": packet(), "path": "/v1/infer?heads="}),
        (400, "BadRequest", {"body": packet(), "path": "/v1/infer?head=cls"}),
        (400, "BadRequest", {"body": packet(), "path": "/v1/infer?masks=jpeg"}),
        (400, "BadRequest", {"body": packet(), "path": "/v1/infer?min_score=much"}),
        (400, "BadRequest", {"body": packet(), "path": "/v1/infer?min_score=nan"}),
        (400, "BadRequest", {"body": packet(), "path": "/v1/infer?masks=rle&masks=png"}),
        (400, "BadRequest", {"body": packet(), "path": "/v1/infer?heads=%ff"}),
        (400, "BadRequest", {"body": packet(), "headers": {protocol.DEADLINE: "soon"}}),
        (400, "BadRequest", {"body": packet(), "headers": {protocol.IDEMPOTENCY: "a b"}}),
        (404, "BadRequest", {"path": "/v1/inferno", "body": packet()}),
        (404, "BadRequest", {"path": "/%2e%2e/%2e%2e/etc/passwd", "method": "GET"}),
        (405, "BadRequest", {"method": "GET"}),
        (405, "BadRequest", {"path": "/v1/models", "body": b"x"}),
        (409, "ForeignPacket", {"body": packet(model=7)}),
        (409, "ForeignPacket", {"body": join_packets([packet(), packet(model=7)]), "kind": protocol.PACKETS}),
        (413, "TooLarge", {"body": b"x" * 5001}),
        (413, "TooLarge", {"body": (b"x" * 3000, b"y" * 3000)}),
        (413, "TooLarge", {"body": packet(others=((1, 1),) * 4)}),
        (413, "TooLarge", {"body": join_packets([packet()] * 5), "kind": protocol.PACKETS}),
        (413, "TooLarge", {"body": packet(original=(65535, 65535))}),
        (415, "BadRequest", {"body": packet(), "kind": "image/jpeg"}),
        (401, "Unauthorized", {"path": "/v1/reload"}),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_invalid_requests(server, status, kind, request_):
    error, headers = server.refused(status, kind, **request_)
    assert error["message"] and "Traceback" not in error["message"]
    if status == 409:
        assert error["served"] == [{"id": f"{MODEL:08x}", "name": "stub"}]
    if status == 405:
        assert headers["Allow"]
    assert server.idle


def test_a_large_body_is_refused_before_it_is_sent(server):
    with server.socket() as sock:
        sock.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/vnd.splitreg.packet\r\n"
                     b"Content-Length: 99999999999999999999\r\n\r\n")  # fmt: skip
        assert sock.recv(100).startswith(b"HTTP/1.1 413")


def test_a_connection_is_reused_even_after_an_error(server):
    connection = server.connection()
    for body in (packet(), packet(model=9), packet()):
        server.ask(body=body, connection=connection)
        first = connection.sock
    assert first is connection.sock is not None
    server.refused(415, "BadRequest", body=packet(), kind="text/plain", connection=connection)  # its body was not read
    assert server.ask(body=packet(), connection=connection)[0] == 200 and first is connection.sock
    connection.close()


def test_models_health_and_metrics(server):
    assert server.ask("GET", protocol.MODELS)[2]["models"][0]["id"] == f"{MODEL:08x}"
    assert server.ask("GET", protocol.HEALTHZ)[0] == server.ask("GET", protocol.READYZ)[0] == 200
    assert server.ask("HEAD", protocol.HEALTHZ)[0] == 200
    server.ask(body=packet())
    server.refused(409, "ForeignPacket", body=packet(model=3))
    text = server.ask("GET", protocol.METRICS)[2].decode()
    for line in (
        'splitreg_packets_total{model="1234abcd"}', 'splitreg_sent_bytes_total{model="1234abcd"}', "splitreg_queue_images 0.0",
        'splitreg_batch_images_bucket{le="8.0",model="1234abcd"}', 'splitreg_refusals_total{reason="ForeignPacket"}',
        'splitreg_latency_seconds_bucket{head="seg",le="0.5",model="1234abcd",phase="queue"}', "splitreg_held_bytes 0.0",
    ):  # fmt: skip
        assert line in text


def test_slow_loris(server):
    """Headers that never end, byte by byte, on a new connection and on a reused one."""
    for prelude in (b"", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"):
        with server.socket() as sock:
            sock.sendall(prelude)
            received = b"" if prelude else b"alive"
            while b"alive" not in received:
                received += sock.recv(1000)
            start = time.monotonic()
            with pytest.raises(OSError):
                for byte in b"GET /v1/models HTTP/1.1\r\n" + b"a" * 200:
                    sock.sendall(bytes([byte]))
                    time.sleep(0.05)
            assert time.monotonic() - start < 8
    assert server.ask("GET", protocol.HEALTHZ)[0] == 200


def test_a_body_that_does_not_arrive(server):
    with server.socket() as sock:
        sock.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/vnd.splitreg.packet\r\n"
                     b"Content-Length: 100\r\n\r\nSR")  # fmt: skip
        response = b""
        while chunk := sock.recv(2000):  # until the server closes: headers and body may arrive separately
            response += chunk
        assert response.startswith(b"HTTP/1.1 408") and b"SlowRequest" in response and b"onnection: close" in response
    assert server.idle


def test_a_client_that_dies_while_it_sends_a_packet(server):
    for part in (b"POST /v1/in", b"POST /v1/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/vnd.splitreg.packet\r\n"
                 b"Content-Length: 100\r\n\r\n" + b"SR" * 20):  # fmt: skip
        sock = server.socket()
        sock.sendall(part)
        time.sleep(0.05)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset, as after kill -9
        sock.close()
    until(lambda: server.service.active_requests == 0 and server.idle)
    assert server.ask(body=packet())[0] == 200


@settings(max_examples=40, deadline=None)
@given(st.one_of(
    st.binary(max_size=300),
    st.binary(max_size=80).map(lambda tail: b"POST /v1/infer HTTP/1.1\r\nContent-Length: " + tail + b"\r\n\r\n"),
    st.binary(max_size=80).map(lambda tail: b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n" + tail + b"\r\n\r\n"),
))  # fmt: skip
def test_any_bytes_on_a_connection(server, data):
    with server.socket(timeout=10) as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        response = b""
        while chunk := sock.recv(4096):
            response += chunk
    assert not response or (response[:9] == b"HTTP/1.1 " and response[9:12] != b"500")
    assert server.ask("GET", protocol.READYZ)[0] == 200 and server.idle


GOOD = packet(bytes(range(40)), others=((7, 9),))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_body_and_query(server, data):
    body = bytearray(GOOD)
    for _ in range(data.draw(st.integers(0, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    body = bytes(body[: data.draw(st.integers(0, len(body)))]) + data.draw(st.binary(max_size=9))
    kind = data.draw(st.sampled_from([protocol.PACKET, protocol.PACKETS, "text/plain"]))
    query = data.draw(st.text(alphabet="abcdefhlmnrsk=&,%+;?/.", max_size=20))
    status, _, response = server.ask(body=body, kind=kind, path=f"{protocol.INFER}?{query}")
    assert status in (200, 400, 409, 413, 415) and ("answers" in response or response["error"]["type"])


def test_authentication_is_required_except_for_health_checks():
    with running(token="right") as server:
        for path in [*PATHS, "/healthz/../v1/models"]:
            for token in (None, "", "wrong", "righ", "right2"):
                server.token = token
                for method in ("GET", "POST"):
                    status, headers, body = server.ask(method, path, body=packet() if method == "POST" else None)
                    assert status == 401 and headers["WWW-Authenticate"] == "Bearer" and "answers" not in body
        assert [server.ask("GET", path)[0] for path in (protocol.HEALTHZ, protocol.READYZ)] == [200, 200]
        for value in ("Basic right", "right", "Bearer", "Bearer right right"):
            assert server.ask("GET", protocol.MODELS, headers={"Authorization": value})[0] == 401
        server.token = "right"
        assert server.ask(body=packet())[0] == server.ask("GET", protocol.METRICS)[0] == 200
        assert server.ask("POST", protocol.RELOAD)[0] == 200


def test_public_addresses_need_token_and_tls():
    protected = {"tokens": ("t",), "tls_cert": "c", "tls_key": "k"}
    for host in ("0.0.0.0", "::", "10.1.2.3", "example.org"):
        with pytest.raises(RecipeError, match="--insecure"):
            ServeConfig(bundles=("b",), host=host)
        with pytest.raises(RecipeError, match="TLS"):
            ServeConfig(bundles=("b",), host=host, tokens=("t",))
        assert ServeConfig(bundles=("b",), host=host, **protected) and ServeConfig(
            bundles=("b",), host=host, insecure=True
        )
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert ServeConfig(bundles=("b",), host=host).tokens == ()
    assert "t0p" not in repr(ServeConfig(bundles=("b",), tokens=("t0p",)))
    for wrong in ({"workers": 0}, {"port": 70000}, {"tokens": ("a b",)}, {"tls_cert": "x"}, {"bundles": ()}):
        with pytest.raises(RecipeError):
            ServeConfig(**{"bundles": ("b",), **wrong})


def test_the_rate_limit():
    with running(max_requests_per_s=5.0) as server:
        answers = [server.ask(body=packet()) for _ in range(20)]
        refused = [headers for status, headers, _ in answers if status == 429]
        assert answers[0][0] == 200 and 5 <= len(refused) <= 12 and all(int(h["Retry-After"]) >= 1 for h in refused)
        assert server.ask("GET", protocol.HEALTHZ)[0] == 200
        time.sleep(0.25)
        assert server.ask(body=packet())[0] == 200


def test_rates_are_limited_per_client_and_their_number_is_bounded():
    limit = security.RateLimit(1.0)
    for client in ("a", "b"):
        limit.take(client, 0.0), limit.take(client, 0.0)
        with pytest.raises(RateLimited):
            limit.take(client, 0.1)
    limit.take("a", 1.05)
    for number in range(security.MAX_CLIENTS + 10):
        limit.take(str(number), 2.0)
    assert limit.clients == security.MAX_CLIENTS


def test_too_many_connections():
    with running(max_connections=3, max_client_connections=3) as server:
        held = [open_stream(server.port) for _ in range(3)]  # others would give way to new ones
        until(lambda: server.ask("GET", protocol.HEALTHZ)[0] == 503)
        status, headers, body = server.ask("GET", protocol.HEALTHZ)
        assert (status, body["error"]["type"]) == (503, "Unavailable") and headers["Retry-After"]
        for sock in held:
            sock.close()
        until(lambda: server.ask("GET", protocol.HEALTHZ)[0] == 200)


def together(server, requests):
    """Send requests at the same time; return the responses in order."""
    responses = [None] * len(requests)

    def send(index):
        responses[index] = server.ask(**requests[index])

    threads = [threading.Thread(target=send, args=(i,)) for i in range(len(requests))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return responses


def test_a_full_queue_and_a_deadline():
    with running(stub(delay=0.15), max_queue_images=3, max_batch_images=1, deadline_seconds=20.0) as server:
        first = threading.Thread(target=lambda: answers.append(server.ask(body=packet())))
        answers = []
        first.start()
        until(lambda: server.backend.batches)
        answers += together(server, [{"body": packet(bytes([i]))} for i in range(7)])
        first.join()
        statuses = sorted(answer[0] for answer in answers)
        assert set(statuses) == {200, 503} and statuses.count(200) >= 4
        assert all(int(headers["Retry-After"]) >= 1 for status, headers, _ in answers if status == 503)
        assert server.ask(body=packet(), headers={protocol.DEADLINE: "60000"})[0] == 200
        server.refused(504, "DeadlinePassed", body=packet(), headers={protocol.DEADLINE: "50"})
        until(lambda: not server.backend.queue.busy)


def test_requests_that_wait_together_run_together():
    with running(stub(delay=0.1)) as server:
        requests = [
            {"body": packet(), "path": f"{protocol.INFER}?heads={'cls' if i % 2 else 'seg'}"} for i in range(12)
        ]
        assert {answer[0] for answer in together(server, requests)} == {200}
        sizes = [len(batch) for batch in server.backend.batches]
        assert sum(sizes) == 12 and max(sizes) >= 3
        assert all(len({job.heads for job in batch}) == 1 for batch in server.backend.batches)


def test_pending_bytes_are_limited():
    backend, gate = gated()
    with running(backend, max_pending_bytes=3000) as server:
        request = {"body": packet(b"x" * 2000)}
        first = threading.Thread(target=lambda: responses.append(server.ask(**request)[0]))
        responses = []
        first.start()
        until(lambda: server.backend.batches)
        assert [response[0] for response in together(server, [request] * 2)] == [503, 503]
        gate.set()
        first.join()
        assert responses == [200] and server.idle


def test_declared_bytes_reserve_no_memory():
    with running(max_pending_bytes=10_000, max_body_bytes=9000) as server:
        held = [server.socket() for _ in range(5)]
        for sock in held:
            sock.sendall(b"POST /v1/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/vnd.splitreg.packet\r\n"
                         b"Content-Length: 9000\r\n\r\nSR")  # fmt: skip
        until(lambda: server.service.active_requests == 5)
        assert server.ask(body=packet(b"x" * 8000))[0] == 200
        for sock in held:
            sock.close()


def test_requests_with_one_key_are_computed_once():
    with running(stub(delay=0.1)) as server:
        request = {"body": packet(), "headers": {protocol.IDEMPOTENCY: "k-1"}}
        answers = together(server, [request] * 4)
        assert {answer[0] for answer in answers} == {200} and sum(map(len, server.backend.batches)) == 1
        assert server.ask(**request)[2] == answers[0][2] and sum(map(len, server.backend.batches)) == 1
        server.refused(422, "KeyReused", **{**request, "body": packet(b"other")})
        server.refused(422, "KeyReused", **request, path=f"{protocol.INFER}?heads=cls")
        assert server.ask(body=packet(), headers={protocol.IDEMPOTENCY: "k-2"})[0] == 200
        assert sum(map(len, server.backend.batches)) == 2


def test_a_retry_after_the_deadline_gets_the_answer():
    backend, gate = gated()
    with running(backend) as server:
        headers = {protocol.IDEMPOTENCY: "late", protocol.DEADLINE: "50"}
        server.refused(504, "DeadlinePassed", body=packet(), headers=headers)
        gate.set()
        assert server.ask(body=packet(), headers={**headers, protocol.DEADLINE: "9000"})[0] == 200
        assert len(server.backend.batches) == 1


def test_errors_are_not_stored_for_a_key():
    backend = stub(broken=True)
    with running(backend) as server:
        request = {"body": packet(), "headers": {protocol.IDEMPOTENCY: "k"}}
        server.refused(500, "WorkerLost", **request)
        backend.broken = False
        assert server.ask(**request)[0] == 200


def test_stored_answers_are_limited():
    with running(idempotency_answers=5, idempotency_bytes=200) as server:
        for i in range(12):
            assert server.ask(body=packet(), headers={protocol.IDEMPOTENCY: str(i)})[0] == 200
        cache = server.service.idempotency
        assert 0 < len(cache) <= 5 and 0 < cache.stored_bytes <= 200
        server.ask(body=packet(), headers={protocol.IDEMPOTENCY: "11"})
        assert sum(map(len, server.backend.batches)) == 12


def test_requests_of_disconnected_clients_are_dropped():
    backend, gate = gated()
    with running(backend, max_batch_images=1) as server:
        first = threading.Thread(target=lambda: server.ask(body=packet()))
        first.start()
        until(lambda: server.backend.batches)
        for key in (None, "keep"):
            connection = server.connection()
            headers = {"Content-Type": protocol.PACKET} | ({protocol.IDEMPOTENCY: key} if key else {})
            connection.request("POST", protocol.INFER, packet(b"gone"), headers)
            until(lambda: server.backend.queue.queued_images == 1)
            connection.close()
            until(lambda: server.service.active_requests == 1)  # that of the first client
            assert server.backend.queue.queued_images == (1 if key else 0)
        gate.set()
        first.join()
        until(lambda: not server.backend.queue.busy)
        assert len(server.backend.batches) == 2


def test_draining_refuses_new_requests_and_answers_accepted_ones():
    backend, gate = gated()
    with running(backend) as server:
        responses = []
        thread = threading.Thread(target=lambda: responses.append(server.ask(body=packet())))
        thread.start()
        until(lambda: server.backend.queue.busy)
        server.service.draining = True
        _, headers = server.refused(503, "Unavailable", body=packet())
        assert int(headers["Retry-After"]) > 0
        assert server.ask("GET", protocol.READYZ)[0] == 503 and server.ask("GET", protocol.HEALTHZ)[0] == 200
        gate.set()
        server.run(server.service.drain(10))
        thread.join()
        assert responses[0][0] == 200
