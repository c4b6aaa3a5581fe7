"""What may come back instead of HTTP: anything."""

import socket
import threading

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from splitreg.edge.transport import Transport
from splitreg.errors import Unreachable

pytestmark = pytest.mark.integration


class Canned:
    """Reads a request and answers it with the bytes that it was given, then closes."""

    def __init__(self):
        self.server, self.data = socket.create_server(("127.0.0.1", 0)), b""
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(65536)
                    connection.sendall(self.data)
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(65536):
                        pass
                except OSError:
                    pass


@pytest.fixture(scope="module")
def canned():
    server = Canned()
    yield server
    server.server.close()


HEADERS = st.sampled_from(
    [b"Content-Length: 3", b"Content-Length: -1", b"Content-Length: x", b"Content-Length: 99999999999999999999",
     b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", b"Connection: close", b"Retry-After: 1", b": ", b"a", b"\xff: \xff"]
)  # fmt: skip
REPLIES = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda status, headers, body: b"HTTP/1.1 " + status + b"\r\n" + b"\r\n".join(headers) + b"\r\n\r\n" + body,
        st.sampled_from(
            [b"200 OK", b"503", b"abc", b"99999 x", b"100 Continue", b"204 x", b"-1 x", b"200 " + b"x" * 70_000]
        ),
        st.lists(HEADERS, max_size=4),
        st.one_of(
            st.binary(max_size=50),
            st.sampled_from([b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"fffffffff\r\n", b"-5\r\nabc", b"zz\r\n"]),
        ),
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(REPLIES)
@example(b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 1000 + b"\r\n")
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc")
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef")
def test_a_reply_or_an_error_of_ours(canned, data):
    canned.data = data
    transport = Transport(canned.url)
    try:
        reply = transport.request("POST", "/", b"body", timeout_s=5)
    except Unreachable:
        return
    finally:
        transport.close()
    assert data.startswith(b"HTTP/") and 100 <= reply.status <= 999 and len(reply.body) <= len(data)


def test_what_follows_an_answer_is_not_taken_for_the_next_one(canned):
    canned.data = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na" + b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb"
    transport = Transport(canned.url)
    bodies = [transport.request("GET", "/", timeout_s=5).body for _ in range(2)]
    transport.close()
    assert bodies == [b"a", b"a"]
