"""The HTTP server below the application: limits of connections, TLS handshakes, memory, closing."""

import contextlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import time

import pytest
from support.attacks import INFER, UPGRADE, frame, open_stream
from support.raw_http import echo_server, exchange
from support.serving_toys import packet, running, stub, until

from splitreg.errors import Unavailable
from splitreg.serving.http.server import client_of
from splitreg.serving.memory import MemoryBudget
from splitreg.wire import protocol

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def tls(certificate):
    return {"tls_cert": str(certificate / "cert.pem"), "tls_key": str(certificate / "key.pem")}


def trusting(certificate):
    return ssl.create_default_context(cafile=str(certificate / "cert.pem"))


def test_what_is_not_http_is_refused_counted_and_logged(caplog):
    with running() as server, caplog.at_level("INFO", "splitreg.serve"):
        for data, status in (
            (b"GARBAGE\r\n\r\n", 400), (UPGRADE + b"Content-Length: 5\r\n\r\n", 400), (b"GET / HTTP/2.0\r\n\r\n", 505),
            (UPGRADE.replace(b"13", b"8") + b"\r\n", 426),
        ):  # fmt: skip
            received, closed = exchange(server.port, data)
            head, _, body = received.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 %d " % status) and closed
            assert json.loads(body)["error"]["type"] == "BadRequest" and b"connection: close" in head.lower()
            assert (b"sec-websocket-version: 13" in head.lower()) == (status == 426)
        text = server.ask("GET", protocol.METRICS)[2].decode()
        assert 'splitreg_refusals_total{reason="Malformed"} 4.0' in text
    refused = [record.fields for record in caplog.records if record.getMessage() == "request refused"]
    assert [fields["status"] for fields in refused] == [400, 400, 505, 426]
    assert all(fields["client"] == "127.0.0.1" for fields in refused)


def test_garbage_counts_for_the_rate_limit():
    with running(max_requests_per_s=2.0) as server:
        answers = [exchange(server.port, b"GARBAGE\r\n\r\n")[0] for _ in range(12)]
        assert answers[0].startswith(b"HTTP/1.1 400") and answers[-1] == b""  # closed without an answer


def test_a_client_may_not_have_all_connections():
    with running(max_connections=8, max_client_connections=3) as server:
        held = [open_stream(server.port) for _ in range(3)]
        error, headers = server.refused(503, "Unavailable", method="GET", path=protocol.HEALTHZ)
        assert "127.0.0.1" in error["message"] and "3" in error["message"] and headers["Retry-After"]
        with contextlib.closing(open_stream(server.port, source="127.0.0.2")):
            pass
        held.pop().close()
        until(lambda: server.ask("GET", protocol.HEALTHZ)[0] == 200)
        for sock in held:
            sock.close()


def test_clients_are_ipv4_addresses_and_ipv6_networks():
    assert client_of("10.0.0.1") == client_of("::ffff:10.0.0.1") == "10.0.0.1"
    assert client_of("2001:db8::1") == client_of("2001:db8::ffff:2") != client_of("2001:db8:0:1::1")
    assert client_of("fe80::1%eth0") == client_of("fe80::2")


def test_a_connection_with_a_request_is_not_dropped():
    with running(stub(delay=0.3), max_connections=2, max_client_connections=2) as server:
        sock = server.socket()
        body = packet()
        sock.sendall(INFER + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        until(lambda: server.service.active_requests)
        for _ in range(5):
            assert server.ask("GET", protocol.HEALTHZ)[0] == 200
        assert sock.recv(12) == b"HTTP/1.1 200"
        sock.close()


def test_tls_handshakes_that_do_not_come(certificate, tls):
    with running(max_connections=10, max_client_connections=10, header_timeout_seconds=0.5, **tls) as server:
        silent = [server.socket() for _ in range(20)]
        for _ in range(3):
            with trusting(certificate).wrap_socket(server.socket(), server_hostname="localhost") as sock:
                sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert sock.recv(12) == b"HTTP/1.1 200"
        for sock in silent:
            sock.settimeout(5)
            with contextlib.suppress(OSError):
                assert sock.recv(1) == b""  # closed by the server
            sock.close()
        until(lambda: server.service.metrics.handshakes._value.get() == 0)


def test_a_tls_connection_with_plain_text_or_an_old_version(tls):
    with running(**tls) as server:
        assert exchange(server.port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")[1]
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        with server.socket() as plain, pytest.raises(OSError), old.wrap_socket(plain):
            pass


def test_a_slow_handshake_of_another_connection_is_not_waited_for(certificate, tls):
    with running(**tls) as server:
        silent = server.socket()
        with trusting(certificate).wrap_socket(server.socket(), server_hostname="localhost") as sock:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 200"
        silent.close()


def test_bytes_of_unfinished_messages_count_and_are_freed():
    with echo_server(max_body_bytes=1 << 20) as (app, port):
        with open_stream(port) as sock:
            sock.sendall(frame(2, bytes(50_000), length=1 << 20))
            until(lambda: app.budget.total > 45_000)
        with open_stream(port) as sock:
            sock.sendall(frame(2, bytes(50_000), fin=False))
            until(lambda: app.budget.total > 45_000)
        until(lambda: app.budget.total == 0)


def test_the_largest_holder_of_memory_gives_way():
    values = []
    budget = MemoryBudget("bytes", 100, type("Gauge", (), {"set": lambda self, value: values.append(value)})())
    dropped = []
    large, small, fixed = (budget.hold(lambda i=i: dropped.append(i)) for i in range(3))
    fixed.drop = None
    large.add(60), small.add(20), fixed.add(20)
    with pytest.raises(Unavailable, match="100"):
        large.add(1)
    assert (large.bytes, budget.total, dropped) == (60, 100, [])
    small.add(10)
    assert (large.bytes, small.bytes, budget.total, dropped) == (0, 30, 50, [0])
    with pytest.raises(Unavailable):
        fixed.set(90)
    fixed.set(60)
    with pytest.raises(Unavailable):  # what is kept cannot be dropped
        small.add(20)
    with budget.hold() as other:
        other.add(10)
    assert budget.total == values[-1] == 90


def test_a_stopped_server_sends_what_it_has_accepted():
    """An answer of 16 MB to a client that reads 8 MB per second is sent to its end."""
    code = """
import asyncio, signal, sys
from support.raw_http import Echo
from support.serving_toys import stub
from splitreg.serving.config import ServeConfig
from splitreg.serving.run import serve
config = ServeConfig(bundles=("b",), port=0, drain_seconds=30.0)
serve(config, lambda url: print(url, flush=True), stub(padding=16_000_000))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd="tests")
    try:
        port = int(process.stdout.readline().rpartition(":")[2])
        with socket.socket() as sock, socket.create_connection(("127.0.0.1", port)) as idle:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            sock.connect(("127.0.0.1", port))
            body = packet()
            sock.sendall(INFER + b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
            received = len(sock.recv(1000))
            process.send_signal(signal.SIGTERM)
            while part := sock.recv(80_000):
                received += len(part)
                time.sleep(0.01)
            assert received > 16_000_000
            assert idle.recv(1) == b""
        start = time.monotonic()
        assert process.wait(20) == 0 and time.monotonic() - start < 15
    finally:
        process.kill()
        process.communicate()
