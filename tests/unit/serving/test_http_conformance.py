"""What HTTP/1.1 requires of a server (RFC 9112): valid requests are answered, invalid ones refused.

The rows cover what the test vectors of llhttp and gunicorn cover, in requests of our own.
"""

import pytest
from support.raw_http import echo_server, exchange

pytestmark = pytest.mark.integration

HOST = b"Host: example.com\r\n"
CHUNKED = b"POST /p HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
LONG = b"x" * 20_000

#: Request -> what the echo server answers.
VALID = {
    "a request line": (b"GET /a HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /a? "),
    "a query": (b"GET /a?b=c&d HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /a?b=c&d "),
    "a query with question marks": (b"GET /a?b=?c HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /a?b=?c "),
    "a query with a vertical bar": (b"GET /a?b=| HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /a?b=| "),
    "quotes in the target": (b'GET /"a"?"b" HTTP/1.1\r\n' + HOST + b"\r\n", b'GET /"a"?"b" '),
    "a fragment is ignored": (b"GET /a?b#c HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /a?b "),
    "several slashes": (b"GET ///a HTTP/1.1\r\n" + HOST + b"\r\n", b"GET ///a? "),
    "percent encoding": (b"GET /%C3%A0%20k HTTP/1.1\r\n" + HOST + b"\r\n", "GET /à k? ".encode()),
    "a long target": (b"GET /" + LONG[:9000] + b" HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /" + LONG[:9000]),
    "an absolute target": (b"GET http://other.example/a?b HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /a?b "),
    "an absolute target, https": (b"GET https://other.example/a HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /a? "),
    "an absolute target, IPv6": (b"GET http://[::1]:8080/a HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /a? "),
    "an absolute target without path": (b"GET http://other.example HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /? "),
    "an absolute target, query only": (b"GET http://other.example:1?a=b HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /?a=b "),
    "OPTIONS of the server": (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", b"OPTIONS *? "),
    "HTTP/1.0 without Host": (b"GET /a HTTP/1.0\r\n\r\n", b"GET /a? "),
    "HTTP/1.0 with headers": (b"GET /a HTTP/1.0\r\nHost: 0.0.0.0:5000\r\nUser-Agent: ab\r\n\r\n", b"GET /a? "),
    "HTTP/1.0 with a body": (b"POST /a HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", b"POST /a? hello"),
    "Host with a port": (b"GET /a HTTP/1.1\r\nHost: a:80\r\n\r\n", b"GET /a? "),
    "Host: IPv4": (b"GET /a HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n", b"GET /a? "),
    "Host: IPv6": (b"GET /a HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", b"GET /a? "),
    "Host: sub-delimiters": (b"GET /a HTTP/1.1\r\nHost: 0.0.0.0=5000\r\n\r\n", b"GET /a? "),
    "a line break before the request": (b"\r\nGET /a HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /a? "),
    "two line breaks": (b"\r\n\r\nGET /a HTTP/1.1\r\n" + HOST + b"\r\n", b"GET /a? "),
    "tabs around a value": (b"GET /a HTTP/1.1\r\n" + HOST + b"A: \t b \t \r\n\r\n", b"GET /a? "),
    "an empty value": (b"GET /a HTTP/1.1\r\n" + HOST + b"A:\r\n\r\n", b"GET /a? "),
    "all letters of a header name": (b"GET /a HTTP/1.1\r\n" + HOST + b"!#$%&'*+-.^_`|~9aZ: b\r\n\r\n", b"GET /a? "),
    "bytes beyond ASCII in a value": (b"GET /a HTTP/1.1\r\n" + HOST + b"A: caf\xc3\xa9 \xff\r\n\r\n", b"GET /a? "),
    "a repeated header": (b"GET /a HTTP/1.1\r\n" + HOST + b"If-Match: a\r\nIf-Match: b\r\n\r\n", b"GET /a? "),
    "many headers": (b"GET /a HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 98 + b"\r\n", b"GET /a? "),
    "a long header": (b"GET /a HTTP/1.1\r\n" + HOST + b"A: " + LONG[:15_000] + b"\r\n\r\n", b"GET /a? "),
    "underscores are no hyphens": (
        b"POST /a HTTP/1.1\r\n" + HOST + b"Content_Length: -1\r\nContent-Length: 2\r\n\r\nok", b"POST /a? ok",
    ),
    "Content-Length": (b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello", b"POST /a? hello"),
    "Content-Length: 0": (b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 0\r\n\r\n", b"POST /a? "),
    "Content-Length with zeros": (b"PUT /a HTTP/1.1\r\n" + HOST + b"Content-Length: 003\r\n\r\nabc", b"PUT /a? abc"),
    "Content-Length in any case": (b"GET /a HTTP/1.1\r\n" + HOST + b"conTENT-Length: 3\r\n\r\nabc", b"GET /a? abc"),
    "spaces around Content-Length": (b"PUT /a HTTP/1.1\r\n" + HOST + b"Content-Length:\t 3 \t\r\n\r\nabc", b"PUT /a? abc"),
    "GET with a body": (b"GET /a HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\nabc", b"GET /a? abc"),
    "a chunk": (CHUNKED + b"\r\n5\r\nhello\r\n0\r\n\r\n", b"POST /p? hello"),
    "two chunks": (CHUNKED + b"\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"POST /p? hello world"),
    "no chunk": (CHUNKED + b"\r\n0\r\n\r\n", b"POST /p? "),
    "three zeros": (CHUNKED + b"\r\n5\r\nhello\r\n000\r\n\r\n", b"POST /p? hello"),
    "a size with zeros": (CHUNKED + b"\r\n0005\r\nhello\r\n0\r\n\r\n", b"POST /p? hello"),
    "a size in upper case": (CHUNKED + b"\r\nA\r\n0123456789\r\n0\r\n\r\n", b"POST /p? 0123456789"),
    "a size in lower case": (CHUNKED + b"\r\n1e\r\n" + b"x" * 30 + b"\r\n0\r\n\r\n", b"POST /p? " + b"x" * 30),
    "chunk extensions": (CHUNKED + b"\r\n5;a;b=c\r\nhello\r\n0;d=e\r\n\r\n", b"POST /p? hello"),
    "a quoted chunk extension": (CHUNKED + b'\r\n5;a="b;\\"c"\r\nhello\r\n0\r\n\r\n', b"POST /p? hello"),
    "trailers": (CHUNKED + b"\r\n5\r\nhello\r\n0\r\nVary: *\r\nA: b\r\n\r\n", b"POST /p? hello"),
    "Transfer-Encoding in any case": (
        b"POST /p HTTP/1.1\r\n" + HOST + b"transfer-ENCODING:\t Chunked \r\n\r\n1\r\nx\r\n0\r\n\r\n", b"POST /p? x",
    ),
    "Expect": (
        b"POST /a HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\nok", b"POST /a? ok",
    ),
    "an upgrade that is not supported": (
        b"POST /a HTTP/1.1\r\n" + HOST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 2\r\n\r\nok", b"POST /a? ok",
    ),
    "Upgrade without Connection": (b"GET /a HTTP/1.1\r\n" + HOST + b"Upgrade: websocket\r\n\r\n", b"GET /a? "),
    "Connection with many tokens": (b"GET /a HTTP/1.1\r\n" + HOST + b"Connection: a, ,keep-alive\r\n\r\n", b"GET /a? "),
}  # fmt: skip
for _method in (b"DELETE", b"PATCH", b"QUERY", b"SEARCH", b"PURGE", b"LINK", b"UNLINK", b"REPORT", b"M-SEARCH"):
    VALID[f"method {_method.decode()}"] = (_method + b" /a HTTP/1.1\r\n" + HOST + b"\r\n", _method + b" /a? ")

#: Request -> status of the refusal.
INVALID = {
    "a method in lower case": (b"get /a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "an unknown method": (b"MKCOLA /a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a method with a colon": (b"GET: /a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a method with a zero byte": (b"GET\0 /a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a method beyond ASCII": (b"GET\xff /a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a method with a hyphen first": (b"-GET /a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "no target": (b"GET HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "line breaks in the request line": (b"GET\n/\nHTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a tab in the target": (b"GET /a\tb HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "UTF-8 in the target": ("GET /δ HTTP/1.1\r\n".encode() + HOST + b"\r\n", 400),
    "a relative target": (b"GET a/b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "another scheme": (b"PUT s://]ufd/: HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "user information in the target": (b"GET http://u:p@example.com/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a target with an authority only": (b"GET example.com:443 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "an asterisk that is not OPTIONS": (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "CONNECT": (b"CONNECT example.com:443 HTTP/1.1\r\n" + HOST + b"\r\n", 501),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /\r\n\r\n", 505),
    "HTTP/2.0": (b"GET /a HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    "HTTP/0.99": (b"GET /a HTTP/0.99\r\n" + HOST + b"\r\n", 400),
    "HTTP/5.6": (b"GET /a HTTP/5.6\r\n" + HOST + b"\r\n", 400),
    "HTTP/111": (b"GET /a HTTP/111\r\n" + HOST + b"\r\n", 400),
    "HTTP/1111111.1": (b"GET /a HTTP/1111111.1\r\n" + HOST + b"\r\n", 400),
    "another protocol": (b"GET /a FTP/1.1\r\n" + HOST + b"\r\n", 400),
    "ICE": (b"SOURCE /a ICE/1.0\r\n" + HOST + b"\r\n", 501),
    "RTSP": (b"OPTIONS /a RTSP/1.0\r\n" + HOST + b"\r\n", 501),
    "IHTTP": (b"GET /a IHTTP/1.0\r\n" + HOST + b"\r\n", 400),
    "something behind the version": (b"GET /a HTTP/1.1 x\r\n" + HOST + b"\r\n", 400),
    "a line feed alone": (b"GET /a HTTP/1.1\nHost: a\n\n", 400),
    "a carriage return alone": (b"GET /a HTTP/1.1\rHost: a\r\r", 400),
    "a space before the first header": (b"GET /a HTTP/1.1\r\n Host: a\r\n\r\n", 400),
    "no Host": (b"GET /a HTTP/1.1\r\n\r\n", 400),
    "an empty Host": (b"GET /a HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "two Hosts": (b"GET /a HTTP/1.1\r\n" + HOST + b"Host: evil.example\r\n\r\n", 400),
    "two equal Hosts": (b"GET /a HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    "Host with a path": (b"GET /a HTTP/1.1\r\nHost: x/metrics?\r\n\r\n", 400),
    "Host with a bracket": (b"GET /a HTTP/1.1\r\nHost: [\r\n\r\n", 400),
    "Host with a user": (b"GET /a HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    "Host with a space": (b"GET /a HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "Host with two ports": (b"GET /a HTTP/1.1\r\nHost: a:1:2\r\n\r\n", 400),
    "Host with a port that is no number": (b"GET /a HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
    "two content types": (b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n", 400),
    "a space behind a header name": (b"GET /a HTTP/1.1\r\n" + HOST + b"A : b\r\n\r\n", 400),
    "a space behind Content-Length": (b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length : 3\r\n\r\nabc", 400),
    "a zero byte in a header name": (b"GET /a HTTP/1.1\r\n" + HOST + b"A\0: b\r\n\r\n", 400),
    "an at sign in a header name": (b"GET /a HTTP/1.1\r\n" + HOST + b"A@: b\r\n\r\n", 400),
    "no header name": (b"GET /a HTTP/1.1\r\n" + HOST + b": b\r\n\r\n", 400),
    "no colon": (b"GET /a HTTP/1.1\r\n" + HOST + b"Hot diggity dogg\r\n\r\n", 400),
    "a header name beyond ASCII": (b"GET /a HTTP/1.1\r\n" + HOST + b"A\xdf: b\r\n\r\n", 400),
    "a carriage return in a header name": (b"GET /a HTTP/1.1\r\n" + HOST + b"A\rB: c\r\n\r\n", 400),
    "a zero byte in a value": (b"GET /a HTTP/1.1\r\n" + HOST + b"A: b\0\r\n\r\n", 400),
    "a bell in a value": (b"GET /a HTTP/1.1\r\n" + HOST + b"A: b\x07c\r\n\r\n", 400),
    "a delete in a value": (b"GET /a HTTP/1.1\r\n" + HOST + b"A: b\x7fc\r\n\r\n", 400),
    "a carriage return in a value": (b"GET /a HTTP/1.1\r\n" + HOST + b"A: b\rC: d\r\n\r\n", 400),
    "a line feed in a value": (b"GET /a HTTP/1.1\r\n" + HOST + b"A: b\nContent-Length: 3\r\n\r\n", 400),
    "a line feed behind an empty value": (b"GET /a HTTP/1.1\r\n" + HOST + b"A:\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "a folded header": (b"GET /a HTTP/1.1\r\nA: one\r\n two\r\n" + HOST + b"\r\n", 400),
    "a folded header, tab": (b"GET /a HTTP/1.1\r\nA: one\r\n\ttwo\r\n" + HOST + b"\r\n", 400),
    "a folded header name": (b"GET /a HTTP/1.1\r\n" + HOST + b"A\r\n : b\r\n\r\n", 400),
    "a long request line": (b"GET /" + LONG + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
    "long headers": (b"GET /a HTTP/1.1\r\n" + HOST + b"A: " + LONG + b"\r\n\r\n", 431),
    "too many headers": (b"GET /a HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 101 + b"\r\n", 431),
    "line breaks without an end": (b"\r\n" * 9000, 431),
    "Content-Length and Transfer-Encoding": (CHUNKED + b"Content-Length: 3\r\n\r\n0\r\n\r\n", 400),
    "Transfer-Encoding after Content-Length": (
        b"POST /a HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400,
    ),
    "Content-Length and identity": (
        b"PUT /a HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding: identity\r\n\r\nx", 400,
    ),
    "two Content-Lengths": (b"PUT /a HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx", 400),
    "Content-Length as a list": (b"PUT /a HTTP/1.1\r\n" + HOST + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "Content-Length: overflow": (b"PUT /a HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000000000000000000\r\n\r\n", 503),
    "an empty Content-Length": (b"PUT /a HTTP/1.1\r\n" + HOST + b"Content-Length:\r\n\r\n", 400),
    "an empty Transfer-Encoding": (b"PUT /a HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nTransfer-Encoding:\r\n\r\nx", 400),
    "another coding": (b"PUT /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: pigeons\r\n\r\n", 501),
    "identity": (b"PUT /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: identity\r\n\r\n", 501),
    "gzip, then chunked": (b"PUT /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "gzip and chunked in two headers": (
        b"PUT /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501,
    ),
    "chunked, then gzip": (b"PUT /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
    "chunked, then gzip, in two headers": (
        b"PUT /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n", 400,
    ),
    "chunked twice": (b"PUT /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
    "chunkedchunked": (b"PUT /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunkedchunked\r\n\r\n", 501),
    "a folded Transfer-Encoding": (
        b"PUT /a HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n  abc\r\n\r\n1\r\nx\r\n0\r\n\r\n", 400,
    ),
    "chunks in HTTP/1.0": (b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 400),
    "a trailer Content-Length": (CHUNKED + b"\r\n1\r\nx\r\n0\r\nContent-Length: 9\r\n\r\n", 400),
    "a trailer Host": (CHUNKED + b"\r\n1\r\nx\r\n0\r\nHost: evil.example\r\n\r\n", 400),
    "a trailer Transfer-Encoding": (CHUNKED + b"\r\n1\r\nx\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "no chunk size": (CHUNKED + b"\r\n\r\nhello\r\n0\r\n\r\n", 400),
    "an extension without a size": (CHUNKED + b"\r\n ;a=b\r\nhello\r\n0\r\n\r\n", 400),
    "an extension without a semicolon": (CHUNKED + b"\r\n2 a\r\nxx\r\n0\r\n\r\n", 400),
    "a semicolon without an extension": (CHUNKED + b"\r\n2;\r\nxx\r\n0\r\n\r\n", 400),
    "a quote that does not end": (CHUNKED + b'\r\n5;a="b; c\r\nhello\r\n0\r\n\r\n', 400),
    "a chunk that is too short": (CHUNKED + b"\r\n6\r\nhello\r\n0\r\n\r\n", 400),
    "a chunk that is too long": (CHUNKED + b"\r\n4\r\nhello\r\n0\r\n\r\n", 400),
    "Expect something else": (b"POST /a HTTP/1.1\r\n" + HOST + b"Expect: tea\r\nContent-Length: 2\r\n\r\nok", 417),
}  # fmt: skip
for _size in (b"+5", b"-5", b"0x5", b"5_0", b" 5", b"5 ", b"5\t", b"five", b"5\r\r;abc", b"5\n", b"5\n;", b"5;a=b\rc"):
    INVALID[f"chunk size {_size!r}"] = (CHUNKED + b"\r\n" + _size + b"\r\nhello\r\n0\r\n\r\n", 400)
for _length in (b"-1", b"-0", b"+1", b"0_1", b"0x1", b"4 2", b"0 1", b"bla", b"1\x0b", b"1.0"):
    INVALID[f"Content-Length {_length!r}"] = (
        b"PUT /a HTTP/1.1\r\n" + HOST + b"Content-Length: " + _length + b"\r\n\r\nx", 400,
    )  # fmt: skip


@pytest.fixture(scope="module")
def echo():
    with echo_server(header_timeout_seconds=5.0) as server:
        yield server


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("name", VALID)
def test_valid_requests_are_answered(echo, name, pieces):
    _, port = echo
    request, expected = VALID[name]
    if b"\r\nConnection" not in request:
        request = request.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nConnection: close\r\n", 1)
    received, _ = exchange(port, request, pieces=pieces)
    received = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.partition(b"\r\n\r\n")[2].startswith(expected)


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize("name", INVALID)
def test_invalid_requests_are_refused_and_the_connection_is_closed(echo, name, pieces):
    app, port = echo
    request, status = INVALID[name]
    count = len(app.refusals)
    received, closed = exchange(
        port, request + b"GET /second HTTP/1.1\r\n" + HOST + b"\r\n", pieces=pieces, silence=10
    )  # fmt: skip
    assert received.startswith(b"HTTP/1.1 %d " % status) and closed
    assert received.count(b"HTTP/1.1 ") == 1 and b"/second" not in received
    assert len(app.refusals) == count + 1


def test_the_number_of_rows_is_the_documented_one():
    assert (len(VALID), len(INVALID)) == (62, 114)


def test_pipelined_requests_are_answered_in_order(echo):
    _, port = echo
    requests = b"".join(
        b"POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (i, len(b"x" * i), b"x" * i)
        for i in range(40)
    )
    received, closed = exchange(port, requests + b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    bodies = [part.partition(b"\r\n\r\n")[2] for part in received.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert bodies == [b"POST /%d? %s" % (i, b"x" * i) for i in range(40)] + [b"GET /last? "] and closed


@pytest.mark.parametrize(
    "first", [b"GET /1 HTTP/1.0\r\n\r\n", b"GET /1 HTTP/1.1\r\nHost: a\r\nConnection: close\t\r\n\r\n"]
)
def test_nothing_is_answered_after_the_last_request(echo, first):
    _, port = echo
    received, closed = exchange(port, first + b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n")
    assert received.count(b"HTTP/1.1 200") == 1 and b"/2" not in received and closed


def test_an_invalid_request_behind_a_valid_one_is_refused_after_its_answer(echo):
    _, port = echo
    received, closed = exchange(port, b"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGARBAGE\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 200") and received.count(b"HTTP/1.1 400") == 1 and closed


def test_a_body_that_is_cut_off_is_not_answered(echo):
    _, port = echo
    for request in (
        CHUNKED + b"\r\n3\r\nfo",
        CHUNKED + b"\r\n1\r\nx\r\n0\r\n",
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx",
    ):
        assert exchange(port, request, timeout=0.5)[0] == b""
