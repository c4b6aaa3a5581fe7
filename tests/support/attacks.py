"""Hostile clients, standard library only; each runs in a process of its own until it is killed.

``python -m support.attacks NAME PORT [OPTION=VALUE ...]`` runs one.
"""

import contextlib
import os
import socket
import struct
import sys
import threading
import time

INFER = b"POST /v1/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/vnd.splitreg.packet\r\n"
UPGRADE = (
    b"GET /v1/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)


def connect(port, source="127.0.0.1", timeout=30.0):
    return socket.create_connection(("127.0.0.1", port), timeout=timeout, source_address=(source, 0))


def frame(opcode, payload=b"", fin=True, length=None):
    """A masked frame; ``length`` declares another length."""
    size = len(payload) if length is None else length
    head = bytes([opcode | 0x80 * fin])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 65536:
        head += bytes([0x80 | 126]) + struct.pack("!H", size)
    else:
        head += bytes([0x80 | 127]) + struct.pack("!Q", size)
    return head + b"\0\0\0\0" + payload


def open_stream(port, **more):
    sock = connect(port, **more)
    sock.sendall(UPGRADE + b"\r\n")
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = sock.recv(4096)
        if not part:
            raise ConnectionError("refused")
        head += part
    if b" 101 " not in head.split(b"\r\n")[0]:
        raise ConnectionError(head.decode("latin1"))
    return sock


def hold(make, count, pause=0.2):
    """Keep ``count`` connections open, and open those again that are closed."""
    held = []
    while True:
        for _ in range(count - len(held)):
            with contextlib.suppress(OSError):
                sock = make()
                sock.setblocking(False)
                held.append(sock)
        time.sleep(pause)
        for sock in list(held):
            try:
                while sock.recv(65536):
                    pass
            except BlockingIOError:
                continue
            except OSError:
                pass
            held.remove(sock)
            sock.close()


def flood(make, data, threads=2):
    """Send the same bytes over and over; open the connection again when it is closed."""

    def run():
        while True:
            with contextlib.suppress(OSError), make() as sock:
                while True:
                    sock.sendall(data)

    for _ in range(threads):
        threading.Thread(target=run, daemon=True).start()
    while True:
        time.sleep(1)


def upgrades_with_body(port, count=60):
    """WebSocket handshakes that announce a body which never comes."""

    def make():
        sock = connect(port)
        sock.sendall(UPGRADE + b"Content-Length: 5\r\n\r\n")
        return sock

    hold(make, count)


def silent_connections(port, count=60):
    """Connections without a request; under TLS they do not even say hello."""
    hold(lambda: connect(port), count)


def unfinished_messages(port, count=64, size=16 << 20):
    """Messages of a stream, all but the last byte."""
    data = frame(2, bytes(size - 1), length=size)

    def make():
        sock = open_stream(port)
        with contextlib.suppress(OSError):
            sock.sendall(data)
        return sock

    hold(make, count, pause=0.01)


def unfinished_bodies(port, count=64, size=16 << 20):
    """Bodies of requests, all but the last byte."""
    data = INFER + b"Content-Length: %d\r\n\r\n" % size + bytes(size - 1)

    def make():
        sock = connect(port)
        with contextlib.suppress(OSError):
            sock.sendall(data)
        return sock

    hold(make, count, pause=0.01)


def tiny_fragments(port):
    """Messages in fragments of one byte."""
    data = frame(2, b"x", fin=False) + frame(0, b"x", fin=False) * 100_000

    def make():
        sock = open_stream(port)
        sock.sendall(data)
        return sock

    flood(make, frame(0, b"x", fin=False) * 10_000)


def tiny_chunks(port):
    """Bodies in chunks of one byte."""

    def make():
        sock = connect(port)
        sock.sendall(INFER + b"Transfer-Encoding: chunked\r\n\r\n")
        return sock

    flood(make, b"1\r\nx\r\n" * 10_000)


def empty_pings(port):
    """Pings without content; the pongs are never read."""
    flood(lambda: open_stream(port), frame(9) * 10_000)


def unread_pongs(port, count=8):
    """Pings with content; the pongs are never read."""
    flood(lambda: open_stream(port), frame(9, bytes(125)) * 1000, threads=count)


def pipelined_requests(port):
    """As many requests as fit into the buffers, at once."""
    flood(lambda: connect(port), b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 1000)


def many_headers(port):
    """A request line, then headers without an end."""

    def make():
        sock = connect(port)
        sock.sendall(INFER)
        return sock

    flood(make, b"A: b\r\n" * 5000)


def silent_readers(port, packet="", count=30, path="/v1/infer", rate=0):
    """Requests whose answers are not read, or at ``rate`` bytes per second each."""
    body = bytes.fromhex(packet)
    request = INFER.replace(b"/v1/infer", path.encode()) + b"Content-Length: %d\r\n\r\n" % len(body) + body

    def run():
        while True:
            with contextlib.suppress(OSError), socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.settimeout(30)
                sock.connect(("127.0.0.1", port))
                sock.sendall(request)
                sock.recv(12)
                while rate:
                    time.sleep(0.05)
                    if not sock.recv(rate // 20):
                        break
                while not rate:
                    time.sleep(0.2)
                    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                        break
                    with contextlib.suppress(TimeoutError):
                        sock.settimeout(0.01)
                        sock.sendall(b"\r")  # fails once the server has closed the connection

    for _ in range(count):
        threading.Thread(target=run, daemon=True).start()
    while True:
        time.sleep(1)


def slow_images(port, image="", path="/v1/encode", threads=8):
    """Images that take long to decode, without a pause."""
    with open(image, "rb") as file:
        body = file.read()
    request = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (
        path.encode(), len(body),
    )  # fmt: skip

    def run():
        while True:
            with contextlib.suppress(OSError), connect(port) as sock:
                while True:
                    sock.sendall(request + body)
                    if not sock.recv(65536):
                        break

    for _ in range(threads):
        threading.Thread(target=run, daemon=True).start()
    while True:
        time.sleep(1)


def main(name, port, *options):
    given = dict(option.split("=", 1) for option in options)
    numbers = {key: int(value) if value.isdigit() and key != "packet" else value for key, value in given.items()}
    with contextlib.suppress(KeyboardInterrupt):
        globals()[name](int(port), **numbers)


if __name__ == "__main__":
    os.nice(0)
    main(*sys.argv[1:])
