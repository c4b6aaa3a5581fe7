"""Tokens with names, expiry, rate and quota; hosts, origins, proxies; reloads of tokens and certificate."""

import datetime
import json
import os
import threading

import pytest
from support.raw_http import exchange
from support.serving_toys import packet, running, stub, until

from splitreg.errors import BundleError, RateLimited, RecipeError, Unauthorized
from splitreg.serving import security, tokens
from splitreg.serving.config import ServeConfig
from splitreg.wire import protocol

pytestmark = pytest.mark.integration

SECRET, OTHER = "0123456789abcdef", "fedcba9876543210"


def token_file(folder, *lines, mode=0o600):
    path = folder / "tokens"
    path.write_text("\n".join(lines) + "\n")
    path.chmod(mode)
    return str(path)


def bearer(secret):
    return {"Authorization": f"Bearer {secret}"}


def test_a_token_file_has_names_expiry_rate_and_quota(tmp_path):
    path = token_file(
        tmp_path,
        "# cameras",
        "",
        f"{SECRET} name=cam-1 expires=2030-01-31 rate=2.5 quota=100",
        OTHER,
        f"{'x' * 16} name=z",
    )
    first, second, third = tokens.read_tokens(path)
    assert (first.name, first.rate, first.quota) == ("cam-1", 2.5, 100)
    assert first.expires == datetime.datetime(2030, 1, 31, tzinfo=datetime.UTC)
    assert second == tokens.Token(secret=OTHER, name="line 4") and third.name == "z"
    assert SECRET not in repr(first)


@pytest.mark.parametrize(
    ("line", "fact"),
    [
        ("x", "16"), (f"{SECRET} name", "name="), (f"{SECRET} nmae=a", "nmae"), (f"{SECRET} expires=soon", "line 1"),
        (f"{SECRET} rate=-1", "rate"), (f"{SECRET} rate=inf", "rate"), (f"{SECRET} quota=x", "line 1"),
        (f"{SECRET} name=a\n{OTHER} name=a", "'a'"), ("# none", "openssl"), ("é" * 20, "ASCII"),
    ],
)  # fmt: skip
def test_an_invalid_token_file(tmp_path, line, fact):
    with pytest.raises(RecipeError, match=fact):
        tokens.read_tokens(token_file(tmp_path, line))


def test_a_token_file_that_others_may_change_is_refused(tmp_path, caplog):
    with pytest.raises(RecipeError, match="chmod 600"):
        tokens.read_tokens(token_file(tmp_path, SECRET, mode=0o666))
    with caplog.at_level("WARNING", "splitreg.serve"):
        assert tokens.read_tokens(token_file(tmp_path, SECRET, mode=0o644))
    assert caplog.records[0].fields["mode"] == "644"


def test_expiry_rate_and_quota_of_a_token(tmp_path):
    now = [datetime.datetime(2030, 1, 30, 23, tzinfo=datetime.UTC).timestamp()]
    path = token_file(tmp_path, f"{SECRET} name=a expires=2030-02-02 rate=1", f"{OTHER} name=b quota=3")
    store = tokens.TokenStore((), path, lambda: now[0])
    rated, limited = store.check(f"Bearer {SECRET}"), store.check(f"bearer  {OTHER} ")
    store.take(rated, 0.0), store.take(rated, 0.0)
    with pytest.raises(RateLimited, match="token a"):
        store.take(rated, 0.1)
    for _ in range(3):
        store.take(limited, 0.0)
    store.reload()  # does not reset the quota
    with pytest.raises(RateLimited, match="3") as caught:
        store.take(limited, 0.0)
    assert caught.value.retry_after_s == 3600
    now[0] += 3600
    store.take(limited, 0.0)
    now[0] += 48 * 3600
    with pytest.raises(Unauthorized, match="a expired"):
        store.check(f"Bearer {SECRET}")
    with pytest.raises(Unauthorized, match="a expired"):
        store.take(rated, 9.0)  # also of a stream that is open
    for wrong in (None, "", "Basic x", f"Bearer {SECRET}x", "Bearer \udcff"):
        with pytest.raises(Unauthorized):
            store.check(wrong)


def test_a_reload_reads_the_tokens_again(tmp_path, caplog):
    path = token_file(tmp_path, f"{SECRET} name=first")
    with running(token_file=path) as server, caplog.at_level("INFO", "splitreg.serve"):
        server.refused(401, "Unauthorized", body=packet())
        assert server.ask(body=packet(), headers=bearer(SECRET))[0] == 200
        token_file(tmp_path, f"{OTHER} name=second")
        with server.stream(headers=bearer(SECRET)) as socket:
            socket.send(protocol.write_request(1, packet()))
            assert "answers" in json.loads(socket.recv(timeout=20))
            server.run(server.service.reload())
            socket.send(protocol.write_request(2, packet()))
            assert json.loads(socket.recv(timeout=20))["error"]["type"] == "Unauthorized"
        assert server.ask(body=packet(), headers=bearer(SECRET))[0] == 401
        assert server.ask(path=protocol.RELOAD, headers=bearer(OTHER))[0] == 200
        token_file(tmp_path, "short")
        with pytest.raises(RecipeError, match="16"):
            server.run(server.service.reload())
        assert server.ask(body=packet(), headers=bearer(OTHER))[0] == 200  # the previous ones remain
    text = "".join(str(record.__dict__) for record in caplog.records)
    assert SECRET not in text and OTHER not in text
    requests = [record.fields for record in caplog.records if record.getMessage() == "request"]
    assert {fields.get("token") for fields in requests} == {None, "first", "second"}


def test_reloads_are_coalesced():
    gate, count = threading.Event(), []

    async def reload(self):
        import asyncio

        count.append(1)
        while len(count) > 1 and not gate.is_set():
            await asyncio.sleep(0.01)
        self.models = self.describe()

    async def many(service):
        import asyncio

        reloads = [asyncio.create_task(service.reload()) for _ in range(3)]
        await asyncio.sleep(0.05)
        reloads += [asyncio.create_task(service.reload()) for _ in range(20)]
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(*reloads)

    with running(stub(reload=reload)) as server:
        server.run(many(server.service))
    assert len(count) == 3  # the start, the one that ran, and one for all that came meanwhile


def test_an_error_of_a_reload_reaches_all_who_asked_for_it():
    async def reload(self):
        if self.models:
            raise BundleError("damaged")
        self.models = self.describe()

    with running(stub(reload=reload), token="t") as server:
        for _ in range(2):
            server.refused(500, "BundleError", path=protocol.RELOAD)
        assert server.ask(body=packet())[0] == 200


@pytest.mark.parametrize(
    ("host", "limits", "accepted"),
    [
        ("evil.example", {}, False), ("evil.example:80", {}, False), ("127.0.0.1.evil.example", {}, False),
        ("127.0.0.1", {}, True), ("localhost:8080", {}, True), ("LOCALHOST", {}, True), ("[::1]:80", {}, True),
        ("192.168.0.7", {}, True), ("a.localhost", {}, True), ("localhost.", {}, True),
        ("edge.example:80", {"allowed_hosts": ("edge.example",)}, True), ("evil.example", {"allowed_hosts": ("*",)}, True),
        ("evil.example", {"allowed_hosts": ("edge.example",)}, False), ("evil.example", {"token": "t"}, True),
        ("evil.example", {"token": "t", "allowed_hosts": ("edge.example",)}, False),
    ],
)  # fmt: skip
def test_only_names_of_this_server_are_served(host, limits, accepted):
    """A web page can let any name point to 127.0.0.1 (DNS rebinding)."""
    with running(**limits) as server:
        for path in (protocol.MODELS, protocol.METRICS, protocol.STREAM):
            line = b"GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n" % (path.encode(), host.encode())
            if path == protocol.STREAM:
                line = line.replace(b"close", b"Upgrade") + (
                    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
                )
            line += b"Authorization: Bearer t\r\n" if limits.get("token") else b""
            head = exchange(server.port, line + b"\r\n")[0].split(b"\r\n")[0]
            expected = b"421" if not accepted else b"101" if path == protocol.STREAM else b"200"
            assert expected in head, (path, head)
        health = b"GET /healthz HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % host.encode()
        assert b" 200 " in exchange(server.port, health)[0]


def test_pages_of_allowed_origins():
    with running(allowed_origins=("https://a.example",)) as server:
        for origin, accepted in (("https://a.example", True), ("https://b.example", False)):
            status, headers, _ = server.ask("GET", protocol.MODELS, headers={"Origin": origin})
            assert status == 200 and (headers.get("Access-Control-Allow-Origin") == origin) == accepted
            status, headers, _ = server.ask("OPTIONS", protocol.INFER, headers={"Origin": origin})
            assert (status == 204) == accepted
            if accepted:
                assert "POST" in headers["Access-Control-Allow-Methods"]
                with server.stream(headers={"Origin": origin}):
                    pass
            else:
                with pytest.raises(Exception, match="401"), server.stream(headers={"Origin": origin}):
                    pass
    with running() as server:
        assert server.ask("OPTIONS", protocol.INFER, headers={"Origin": "https://a.example"})[0] == 405


@pytest.mark.parametrize(
    ("client", "forwarded", "expected"),
    [
        ("10.0.0.1", "1.2.3.4", "1.2.3.4"), ("9.9.9.9", "1.2.3.4", "9.9.9.9"), ("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),
        ("10.0.0.1", "1.2.3.4, 10.0.0.2", "1.2.3.4"), ("10.0.0.1", "garbage", "10.0.0.1"), ("10.0.0.1", None, "10.0.0.1"),
        ("10.0.0.1", "[2001:db8::1]", "2001:db8::/64"), ("fd00::/64", "1.2.3.4", "1.2.3.4"),
    ],
)  # fmt: skip
def test_the_client_behind_a_trusted_proxy(client, forwarded, expected):
    assert security.forwarded_client(client, forwarded, ("10.0.0.0/8", "fd00::1")) == expected or client == "fd00::/64"
    assert security.forwarded_client(client, forwarded, ()) == client


def test_x_forwarded_for_is_believed_only_from_a_trusted_proxy(caplog):
    for proxies, expected in (((), "127.0.0.1"), (("127.0.0.0/8",), "1.2.3.4")):
        with running(trusted_proxies=proxies) as server, caplog.at_level("INFO", "splitreg.serve"):
            caplog.clear()
            server.ask("GET", protocol.MODELS, headers={"X-Forwarded-For": "1.2.3.4"})
            until(lambda: caplog.records)
            assert caplog.records[-1].fields["client"] == expected


def test_invalid_peers():
    for wrong in (
        {"trusted_proxies": ("proxy",)}, {"allowed_origins": ("a.example",)}, {"allowed_origins": ("https://a.example/",)},
        {"allowed_hosts": ("a:80",)},
    ):  # fmt: skip
        with pytest.raises(RecipeError):
            ServeConfig(bundles=("b",), **wrong)


def test_the_id_of_a_request_is_in_its_log_lines_and_in_the_response(caplog):
    from splitreg.serving.logs import JsonLines

    with running(stub(broken=False)) as server, caplog.at_level("INFO", "splitreg.serve"):
        lines = []
        handler = type(
            "Lines", (__import__("logging").Handler,), {"emit": lambda self, r: lines.append(self.format(r))}
        )()
        handler.setFormatter(JsonLines())
        logger = __import__("logging").getLogger("splitreg.serve")
        logger.addHandler(handler)
        try:
            _, headers, _ = server.ask(body=packet(), headers={"X-Request-Id": "mine-1"})
            assert headers["X-Request-Id"] == "mine-1"
            _, headers, _ = server.ask(body=b"x", headers={"X-Request-Id": 'not "valid'})
            assert len(headers["X-Request-Id"]) == 16
            until(lambda: len(lines) == 2)
        finally:
            logger.removeHandler(handler)
        assert [json.loads(line)["id"] for line in lines] == ["mine-1", headers["X-Request-Id"]]


def test_security_headers():
    with running() as server:
        _, headers, _ = server.ask("GET", protocol.MODELS)
        assert headers["X-Content-Type-Options"] == "nosniff" and "Strict-Transport-Security" not in headers


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        ("gzip", True), ("gzip;q=0", False), ("gzip; q=0.0", False), ("br, gzip;q=0.5", True), ("*", True), ("*;q=0", False),
        ("identity", False), ("", False), ("GZIP", True), ("gzip;q=x", False),
    ],
)  # fmt: skip
def test_accept_encoding(header, accepted):
    with running(stub(padding=5000)) as server:
        _, headers, _ = server.ask(body=packet(), headers={"Accept-Encoding": header, "Accept": protocol.ANSWERS})
        assert (headers.get("Content-Encoding") == "gzip") == accepted


def test_the_environment_enables_traces(monkeypatch):
    trace = pytest.importorskip("opentelemetry.sdk.trace")
    pytest.importorskip("opentelemetry.instrumentation.asgi")
    export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    from splitreg.serving import run, tracing

    exporter, provider = export.InMemorySpanExporter(), trace.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(run, "traced", lambda app: tracing.TracedApp(app, provider))
    with running() as server:
        parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        assert server.ask(body=packet(), headers={"traceparent": parent})[0] == 200
        assert server.ask("GET", protocol.HEALTHZ)[0] == 200
        assert exchange(server.port, b"GARBAGE\r\n\r\n")[0].startswith(b"HTTP/1.1 400")
        until(exporter.get_finished_spans)
    (span,) = exporter.get_finished_spans()
    assert f"{span.context.trace_id:032x}" == parent.split("-")[1] and "/v1/infer" in span.name + str(span.attributes)


def test_without_an_endpoint_nothing_is_traced(monkeypatch):
    from splitreg.serving.tracing import traced

    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    app = object()
    assert traced(app) is app


@pytest.mark.parametrize("page", [False, True])
def test_the_openapi_document_matches_the_code(page, page_bundle):
    with running(page=page, bundles=(str(page_bundle),)) as server:
        status, _, document = server.ask("GET", "/openapi.json")
        assert status == 200 and document["openapi"].startswith("3.1")
        documented = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
        app = server.service.app
        actual = {
            (path, method) for path, methods in app.routes.items() if path != "/" and not path.startswith("/page/")
            for method in methods
        }  # fmt: skip
        assert documented == actual | {(protocol.STREAM, "GET")}
        for path, method in documented - {(protocol.STREAM, "GET")}:
            operation = document["paths"][path][method.lower()]
            kind = next(iter(operation.get("requestBody", {"content": {}})["content"]), None)
            query = {each["name"]: "89abcdef" if "pattern" in each["schema"] else each["schema"].get("enum", ["0.5"])[0] for each in operation["parameters"]
                     if each["in"] == "query"}  # fmt: skip
            if not query:
                continue
            sent = {"kind": kind, "body": packet()} if kind else {}
            for name, value in query.items():
                _, _, body = server.ask(method, f"{path}?{name}={value}", **sent)
                assert "query parameter" not in str(body), body
            _, _, body = server.ask(method, f"{path}?other=1", **sent)
            assert set(body["error"]["message"].rpartition(": ")[2].split(", ")) == set(query)
        for types in (set(document["paths"][protocol.INFER]["post"]["requestBody"]["content"]),):
            error, _ = server.refused(415, "BadRequest", body=b"", kind="text/plain")
            assert all(kind in error["message"] for kind in types)
        schema = str(document["components"]["schemas"]["Error"])
        assert all(f"{error.__name__} {status}" in schema for error, status in protocol.STATUSES.items())
