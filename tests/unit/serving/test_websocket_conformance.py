"""What RFC 6455 requires of a server: framing, fragments, UTF-8, control frames, the closing handshake.

The rows cover what the cases 1 to 7 of the Autobahn test suite cover, in frames of our own.
"""

import contextlib
import socket
import struct

import pytest
from support.attacks import UPGRADE, frame, open_stream
from support.raw_http import echo_server, exchange

pytestmark = pytest.mark.integration

TEXT, BINARY, CONT, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def closing(code=1000, reason=b""):
    return frame(CLOSE, struct.pack("!H", code) + reason)


def raw(first, payload=b"", masked=True):
    """A frame with any first byte."""
    head = bytes([first, 0x80 * masked | len(payload)])
    return head + (b"\0\0\0\0" if masked else b"") + payload


def parts(opcode, *fragments):
    """A message in fragments."""
    last = len(fragments) - 1
    return b"".join(frame(CONT if i else opcode, part, fin=i == last) for i, part in enumerate(fragments))


THEN = b"<then>"
END = THEN + closing()
HELLO = "Hello-µ@ßöäüàá-UTF-8!!".encode()

#: What is sent -> the frames that come back; an integer is the code of the close frame at the end. What is behind
#: ``THEN`` is sent when the messages have come back.
CASES = {}
for _size in (0, 125, 126, 127, 128, 65535, 65536):
    CASES[f"1.1 text of {_size} bytes"] = (frame(TEXT, b"*" * _size) + END, [(TEXT, b"*" * _size), 1000])
    CASES[f"1.2 binary of {_size} bytes"] = (frame(BINARY, b"\xfe" * _size) + END, [(BINARY, b"\xfe" * _size), 1000])
CASES |= {
    "2.1 ping without payload": (frame(PING) + END, [(PONG, b""), 1000]),
    "2.2 ping with text": (frame(PING, b"Hello") + END, [(PONG, b"Hello"), 1000]),
    "2.3 ping with bytes": (frame(PING, b"\x00\xff\xfe") + END, [(PONG, b"\x00\xff\xfe"), 1000]),
    "2.4 ping of 125 bytes": (frame(PING, b"x" * 125) + END, [(PONG, b"x" * 125), 1000]),
    "2.5 ping of 126 bytes": (frame(PING, b"x" * 126) + END, [1002]),
    "2.7 pong without a ping": (frame(PONG) + END, [1000]),
    "2.8 pong with payload": (frame(PONG, b"x") + END, [1000]),
    "2.9 pong, then ping": (frame(PONG, b"x") + frame(PING, b"y") + END, [(PONG, b"y"), 1000]),
    "2.10 ten pings": (
        b"".join(frame(PING, b"%d" % i) for i in range(10)) + END, [*((PONG, b"%d" % i) for i in range(10)), 1000],
    ),
    "4 a frame without a mask": (raw(0x81, b"Hello", masked=False), [1002]),
    "4 a ping without a mask": (raw(0x89, masked=False), [1002]),
    "5.1 ping in fragments": (frame(PING, b"a", fin=False) + frame(CONT, b"b"), [1002]),
    "5.2 pong in fragments": (frame(PONG, b"a", fin=False) + frame(CONT, b"b"), [1002]),
    "5.3 text in two fragments": (parts(TEXT, b"a", b"b") + END, [(TEXT, b"ab"), 1000]),
    "5.6 ping between fragments": (
        frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(CONT, b"b") + END,
        [(PONG, b"p"), (TEXT, b"ab"), 1000],
    ),
    "5.9 continuation of nothing": (frame(CONT, b"a") + frame(TEXT, b"b"), [1002]),
    "5.12 continuation of nothing, not final": (frame(CONT, b"a", fin=False) + frame(TEXT, b"b"), [1002]),
    "5.15 continuation after a message": (
        parts(TEXT, b"a", b"b") + THEN + frame(CONT, b"c", fin=False) + frame(TEXT, b"d"), [(TEXT, b"ab"), 1002],
    ),
    "5.18 a message within another": (frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"), [1002]),
    "5.19 several pings between fragments": (
        frame(TEXT, b"1", fin=False) + frame(CONT, b"2", fin=False) + frame(PING, b"p") + frame(CONT, b"3", fin=False)
        + frame(CONT, b"4", fin=False) + frame(PING, b"q") + frame(CONT, b"5") + END,
        [(PONG, b"p"), (PONG, b"q"), (TEXT, b"12345"), 1000],
    ),
    "6.1 three empty fragments": (parts(TEXT, b"", b"", b"") + END, [(TEXT, b""), 1000]),
    "6.1 empty fragments around text": (parts(TEXT, b"", b"a", b"") + END, [(TEXT, b"a"), 1000]),
    "6.2 UTF-8": (frame(TEXT, HELLO) + END, [(TEXT, HELLO), 1000]),
    "6.2 UTF-8, fragments between characters": (parts(TEXT, HELLO[:7], HELLO[7:]) + END, [(TEXT, HELLO), 1000]),
    "6.2 UTF-8, fragments of a byte": (
        parts(TEXT, *(HELLO[i : i + 1] for i in range(len(HELLO)))) + END, [(TEXT, HELLO), 1000],
    ),
    "6.4 invalid UTF-8 in the first fragment": (
        frame(TEXT, b"\xce\xba\xf4\x90\x80\x80", fin=False) + frame(CONT, b"edited"), [1007],
    ),
    "6.4 invalid UTF-8 across fragments": (parts(TEXT, b"\xce\xba\xf4", b"\x90\x80\x80"), [1007]),
    "7.1 close after a message": (frame(TEXT, b"a") + END, [(TEXT, b"a"), 1000]),
    "7.1 two close frames": (END + closing(), [1000]),
    "7.1 ping after close": (END + frame(PING), [1000]),
    "7.1 text after close": (END + frame(TEXT, b"a"), [1000]),
    "7.1 close within a message": (frame(TEXT, b"a", fin=False) + closing() + frame(CONT, b"b"), [1002]),
    "7.3 close without payload": (frame(CLOSE), [None]),
    "7.3 close with one byte": (frame(CLOSE, b"a"), [1002]),
    "7.3 close with a code": (closing(1000), [1000]),
    "7.3 close with a reason": (closing(1000, b"Hello"), [1000]),
    "7.3 close with a reason of 123 bytes": (closing(1000, b"x" * 123), [1000]),
    "7.3 close with a reason of 124 bytes": (closing(1000, b"x" * 124), [1002]),
    "7.5 close with a reason that is not UTF-8": (closing(1000, b"\xce\xba\xf4\x90\x80\x80"), [1007]),
}  # fmt: skip
for _bits in range(1, 8):
    CASES[f"3 reserved bits {_bits}"] = (frame(TEXT, b"a") + THEN + raw(0x81 | _bits << 4, b"b"), [(TEXT, b"a"), 1002])
    CASES[f"3 reserved bits {_bits} of a ping"] = (raw(0x89 | _bits << 4), [1002])
for _opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
    CASES[f"4 opcode {_opcode}"] = (frame(TEXT, b"a") + THEN + raw(0x80 | _opcode), [(TEXT, b"a"), 1002])
    CASES[f"4 opcode {_opcode} with payload"] = (raw(0x80 | _opcode, b"b"), [1002])
for _text in (
    "κόσμε", "\x00", "\x80", "\u0800", "\U00010000", "\x7f", "\u07ff", "\uffff", "\U0010ffff", "\ud7ff", "\ue000", "\ufffd",
    "\ufdd0", "\U0001fffe", "日本語", "🙂",
):  # fmt: skip
    CASES[f"6 valid {_text!r}"] = (frame(TEXT, _text.encode()) + END, [(TEXT, _text.encode()), 1000])
for _bytes in (
    b"\x80", b"\xbf", b"\x80\xbf", b"\xc0 \xc1 ", b"\xe0 ", b"\xf0 ", b"\xf8 ", b"\xfc ", b"\xc0", b"\xe0\x80", b"\xf0\x80\x80",
    b"\xdf", b"\xef\xbf", b"\xf7\xbf\xbf", b"\xfe", b"\xff", b"\xfe\xfe\xff\xff", b"\xc0\xaf", b"\xe0\x80\xaf",
    b"\xf0\x80\x80\xaf", b"\xf8\x80\x80\x80\xaf", b"\xfc\x80\x80\x80\x80\xaf", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf",
    b"\xc0\x80", b"\xe0\x80\x80", b"\xf0\x80\x80\x80", b"\xed\xa0\x80", b"\xed\xad\xbf", b"\xed\xae\x80", b"\xed\xaf\xbf",
    b"\xed\xb0\x80", b"\xed\xbe\x80", b"\xed\xbf\xbf", b"\xed\xa0\x80\xed\xb0\x80", b"\xf4\x90\x80\x80",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
):  # fmt: skip
    CASES[f"6 invalid {_bytes!r}"] = (frame(TEXT, _bytes), [1007])
for _code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999):
    CASES[f"7.7 close code {_code}"] = (closing(_code), [_code])
for _code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 5000, 65535):
    CASES[f"7.9 close code {_code}"] = (closing(_code), [1002])


@pytest.fixture(scope="module")
def echo():
    with echo_server(max_body_bytes=100_000) as server:
        yield server


def read_frames(data):
    """The frames of a server: (opcode, payload); the fragments of a message are joined."""
    frames, message = [], None
    while data:
        fin, opcode, size, start = data[0] & 0x80, data[0] & 15, data[1] & 127, 2
        if len(data) < 10 and size > 125:
            break
        if size > 125:
            size, start = (
                (struct.unpack("!H", data[2:4])[0], 4) if size == 126 else (struct.unpack("!Q", data[2:10])[0], 10)
            )
        if len(data) < start + size:
            break
        payload, data = data[start : start + size], data[start + size :]
        if opcode < 8:
            message = (opcode, payload) if message is None else (message[0], message[1] + payload)
            if fin:
                frames.append(message)
                message = None
        else:
            frames.append((opcode, payload))
    return frames


def talk(port, data, messages, pieces=1):
    """Open a stream and send; return the frames that come back, and whether the server closed the connection."""
    first, _, rest = data.partition(THEN)
    with open_stream(port) as sock:
        sock.settimeout(2)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        received = b""
        for part in (first, rest):
            with contextlib.suppress(OSError):
                for start in range(0, len(part), pieces if len(part) < 3000 else 1 << 20):
                    sock.sendall(part[start : start + (pieces if len(part) < 3000 else 1 << 20)])
            with contextlib.suppress(OSError):
                while len(read_frames(received)) < messages or part is rest:
                    data = sock.recv(1 << 20)
                    if not data:
                        return read_frames(received), True
                    received += data
        return read_frames(received), False


@pytest.mark.parametrize("pieces", [1 << 20, 1, 3])
@pytest.mark.parametrize("name", CASES)
def test_a_case(echo, name, pieces):
    _, port = echo
    data, (*wanted, code) = CASES[name]
    (*messages, (opcode, payload)), closed = talk(port, data, len(wanted), pieces)
    assert messages == wanted and closed
    assert opcode == CLOSE and (payload[:2] == struct.pack("!H", code) if code else payload == b"")


def test_the_number_of_cases_is_the_documented_one():
    assert len(CASES) == 165


#: Changes of the handshake -> status of its refusal, or 101.
HANDSHAKES = {
    "as it should be": ([], 101),
    "tokens in any case": ([(b"Upgrade: websocket", b"uPGRADE: WebSocket")], 101),
    "two Connection headers": ([(b"Connection: Upgrade", b"Connection: keep-alive\r\nConnection: Upgrade")], 101),
    "a list in Connection": ([(b"Connection: Upgrade", b"Connection: keep-alive, Upgrade")], 101),
    "several protocols in Upgrade": ([(b"Upgrade: websocket", b"Upgrade: h2c, websocket")], 101),
    "Content-Length: 0": ([(b"Upgrade: websocket", b"Upgrade: websocket\r\nContent-Length: 0")], 101),
    "HTTP/1.0": ([(b"HTTP/1.1", b"HTTP/1.0")], 200),
    "POST": ([(b"GET", b"POST")], 400),
    "version 8": ([(b"Version: 13", b"Version: 8")], 426),
    "no version": ([(b"Sec-WebSocket-Version: 13\r\n", b"")], 426),
    "no key": ([(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", b"")], 400),
    "a short key": ([(b"AAAAAAAAAAAAAAAAAAAAAA==", b"AAAA")], 400),
    "a key that is not base64": ([(b"AAAAAAAAAAAAAAAAAAAAAA==", b"not base64")], 400),
    "two keys": ([(b"Sec-WebSocket-Version", b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version")], 400),
    "a body": ([(b"Upgrade: websocket", b"Upgrade: websocket\r\nContent-Length: 5")], 400),
    "a body in chunks": ([(b"Upgrade: websocket", b"Upgrade: websocket\r\nTransfer-Encoding: chunked")], 400),
    "no Upgrade": ([(b"Upgrade: websocket\r\n", b"")], 200),
    "no Connection": ([(b"Connection: Upgrade\r\n", b"")], 200),
}  # fmt: skip


@pytest.mark.parametrize("name", HANDSHAKES)
def test_a_handshake(echo, name):
    _, port = echo
    changes, status = HANDSHAKES[name]
    request = UPGRADE
    for old, new in changes:
        assert old in request
        request = request.replace(old, new)
    received, closed = exchange(port, request + b"\r\n")
    assert received.startswith(b"HTTP/1.1 %d " % status) and closed == (status not in (101, 200) or b"1.0" in request)
    if status == 101:
        assert b"\r\nsec-websocket-accept: ICX+Yqv66kxgM0FcWaLWlFLwTAI=\r\n" in received


def test_a_message_that_is_too_large(echo):
    _, port = echo
    for data in (frame(BINARY, b"x" * 200_000), frame(BINARY, b"", length=2**62), parts(BINARY, *[b"x" * 60_000] * 3)):
        frames, closed = talk(port, data + THEN, 1)
        assert frames[-1][1][:2] == struct.pack("!H", 1009) and closed


def test_frames_of_several_messages_do_not_mix(echo):
    """Long answers go out in fragments; pongs may come between, other messages may not."""
    _, port = echo
    messages = b"".join(frame(BINARY, bytes([i]) * 90_000) + frame(PING, bytes([i])) for i in range(20))
    frames, closed = talk(port, messages + END, 40)
    assert [payload for opcode, payload in frames if opcode == BINARY] == [bytes([i]) * 90_000 for i in range(20)]
    assert [payload for opcode, payload in frames if opcode == PONG] == [bytes([i]) for i in range(20)]
    assert closed
