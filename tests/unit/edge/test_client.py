"""The client against a service that follows the protocol and misbehaves on request."""

import gzip
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image
from support.bundles import save_with_onnx
from support.fake_service import FakeEncoder, FakeService, expected_probabilities, make_packet

from splitreg import errors
from splitreg.edge import Client, ClientOptions, LinkEstimate, Outbox
from splitreg.link_emulator import Link, Profile
from splitreg.wire import pack
from splitreg.wire.protocol import ANSWERS, DEADLINE, IDEMPOTENCY, PACKET

pytestmark = pytest.mark.integration

QUICK = Profile(up_bps=1e9, down_bps=1e9)


@pytest.fixture
def service():
    with FakeService() as running:
        yield running


@pytest.fixture
def client(service):
    options = ClientOptions(deadline_s=20, attempt_s=10, seed=0)
    with Client(service.url, FakeEncoder(), token="secret", options=options) as client:
        yield client


@pytest.fixture(autouse=True)
def quick_pauses(monkeypatch):
    """Record pauses instead of sleeping."""
    pauses = []
    monkeypatch.setattr("splitreg.edge.client.time.sleep", pauses.append)
    return pauses


def probabilities(answer):
    return answer.predictions["cls"].probabilities


def test_an_image_is_answered_exactly(service, client):
    service.queue_ms, service.compute_ms = 0.25, 0.5
    answer = client.send(b"one", name="first")
    ((path, headers, body),) = service.requests
    np.testing.assert_array_equal(probabilities(answer), expected_probabilities(body))
    assert path == "/v1/infer" and headers["Content-Type"] == PACKET and headers["Accept"] == ANSWERS
    assert headers["Authorization"] == "Bearer secret" and 0 < int(headers[DEADLINE]) <= 20_000
    assert headers[IDEMPOTENCY] == answer.key and answer.name == "first" and answer.attempts == 1
    assert answer.packet_bytes == len(body) < answer.sent_bytes < len(body) + 500
    assert answer.received_bytes > len(pack([]))
    times = answer.times
    assert (times.queue_ms, times.compute_ms) == (0.25, 0.5)
    assert times.encode_ms + times.link_ms + times.queue_ms + times.compute_ms <= times.total_ms
    assert json.loads(json.dumps(answer.to_json()))["predictions"]["cls"]["task"] == "classification"


def test_one_connection_serves_many(service, client):
    keys = {client.send(b"x").key for _ in range(5)}
    assert service.connections == 1 and len(keys) == 5


def test_heads_are_asked_for(service):
    with Client(service.url + "/", FakeEncoder(), heads=["cls", "a b"]) as client:
        client.send(b"x")
    with Client(service.url, FakeEncoder(), options=ClientOptions(min_score=0.25)) as client:
        client.send(b"x")
    assert [request[0] for request in service.requests] == ["/v1/infer?heads=cls,a%20b", "/v1/infer?min_score=0.25"]


@pytest.mark.parametrize("failure", [(503, {"Retry-After": "0"}), (429, {}), (408, {}), (504, {}), (502, {}, b"<p>gateway"),
                                     "close", "late-close", "cut"], ids=str)  # fmt: skip
def test_what_may_pass_is_tried_again_and_never_computed_twice(service, client, failure):
    client.send(b"warm")  # opens the connection
    service.script.extend([failure, failure, failure])
    answer = client.send(b"x")
    np.testing.assert_array_equal(probabilities(answer), expected_probabilities(service.requests[-1][2]))
    keys = {headers[IDEMPOTENCY] for _, headers, _ in service.requests[1:]}
    assert keys == {answer.key} and service.computed[answer.key] == 1 and len(service.requests) >= 4


def test_answers_may_come_compressed(service, client):
    service.gzip = True
    answer = client.send(b"x")
    np.testing.assert_array_equal(probabilities(answer), expected_probabilities(service.requests[0][2]))


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", b"nonsense"), ("gzip", gzip.compress(pack([]) * 9)[:-9]), ("br", b"x"), ("gzip", gzip.compress(b"0" * 10**6))],
    ids=["none", "cut", "unasked", "bomb"],
)  # fmt: skip
def test_compressed_answers_are_not_trusted(service, client, encoding, body, monkeypatch):
    monkeypatch.setattr("splitreg.edge.transport.MAX_ANSWER_BYTES", 100_000)
    service.script.append((200, {"Content-Encoding": encoding}, body))
    assert client.send(b"x").attempts == 2


@pytest.mark.parametrize(
    ("status", "kind", "error"),
    [(400, "CorruptPacket", errors.CorruptPacket), (400, "RecipeError", errors.RecipeError),
     (401, "Unauthorized", errors.Unauthorized), (404, "?", errors.ServiceError), (409, "ForeignPacket", errors.ForeignPacket),
     (413, "TooLarge", errors.TooLarge), (422, "KeyReused", errors.KeyReused), (500, "WorkerLost", errors.WorkerLost)],
)  # fmt: skip
def test_what_will_not_pass_is_told_at_once(service, client, status, kind, error, quick_pauses):
    service.script.append((status, {}, json.dumps({"error": {"type": kind, "message": "because"}}).encode()))
    with pytest.raises(error, match="because"):
        client.send(b"x")
    assert len(service.requests) == 1 and not quick_pauses
    assert client.send(b"y").attempts == 1  # the client is usable


def test_pauses_double_with_full_jitter_and_honour_retry_after(service, client, quick_pauses):
    service.script.extend([(503, {})] * 6)
    client.send(b"x")
    assert all(0 <= pause <= 0.25 * 2**i for i, pause in enumerate(quick_pauses)) and len(set(quick_pauses)) == 6
    quick_pauses.clear()
    service.script.extend([(429, {"Retry-After": "2"}), (503, {"Retry-After": "nonsense"})])
    client.send(b"x")
    assert 2 <= quick_pauses[0] <= 2.25 and quick_pauses[1] <= 0.5


def test_a_retry_after_beyond_the_deadline_is_not_waited_for(service, client, quick_pauses):
    service.script.append((503, {"Retry-After": "600"}))
    with pytest.raises(errors.DeadlinePassed, match=r"\b1\b.*503"):
        client.send(b"x")
    assert not quick_pauses


@pytest.mark.parametrize("failure", ["hang", "trickle"])
def test_a_deadline_holds_against_silence_and_trickles(service, failure, monkeypatch):
    service.script.extend([failure] * 50)
    with Client(service.url, FakeEncoder(), options=ClientOptions(deadline_s=0.5)) as client:
        with pytest.raises(errors.DeadlinePassed, match=r"0\.\d+ s"):
            client.send(b"x")
        assert {headers[IDEMPOTENCY] for _, headers, _ in service.requests}.__len__() == 1
        service.script.clear()
        assert client.send(b"y").attempts == 1


def test_nobody_there():
    with FakeService() as gone:
        url = gone.url
    with Client(url, FakeEncoder(), options=ClientOptions(deadline_s=0.3)) as client:
        with pytest.raises(errors.DeadlinePassed, match=url):
            client.send(b"x")


def test_what_is_no_answer_is_an_error_of_its_own(service, client):
    service.script.extend([(200, {}, b"<html>hello</html>"), (200, {}, pack([])), (200, {}, pack([{}, {}]))])
    for _ in range(3):
        with pytest.raises(errors.CorruptAnswer):
            client.send(b"x")


@pytest.mark.parametrize("headers", [{"X-Splitreg-Queue-Ms": "nan"}, {"X-Splitreg-Compute-Ms": "-5"},
                                     {"X-Splitreg-Queue-Ms": "x"}, {"X-Splitreg-Compute-Ms": "1e300"}], ids=str)  # fmt: skip
def test_a_server_that_lies_about_its_time_does_no_harm(service, client, headers):
    service.script.append((200, headers, pack([{}])))
    assert 0 <= client.send(b"x").times.link_ms < 1e6


def test_a_server_that_closes_after_each_answer(service, client):
    for i in range(3):
        service.script.append((200, {"Connection": "close"}, pack([{}])))
        assert client.send(b"x").attempts == 1 and service.connections == i + 1
    service.script.append((401, {"Connection": "close"}))
    with pytest.raises(errors.Unauthorized):
        client.send(b"x")


def test_a_connection_that_the_server_closed_while_idle_is_opened_again(service, client, quick_pauses):
    client.send(b"x")
    service.script.append("close")
    assert client.send(b"y").attempts == 1 and service.connections == 2 and not quick_pauses


def test_a_half_open_connection_is_given_up_for_a_new_one(service):
    options = ClientOptions(deadline_s=30, attempt_s=0.3)
    with Link(service.address, QUICK) as link, Client(link.url, FakeEncoder(), options=options) as client:
        client.send(b"x")
        link.half_open()
        answer = client.send(b"y")
        assert answer.attempts == 2 and link.counts.connections == 2


def test_options_that_are_none():
    for wrong in ("ftp://x", "http://", "localhost:8000", "http://u@x", "http://x?y=1", "http://x:99999", ""):
        with pytest.raises(errors.RecipeError):
            Client(wrong, FakeEncoder())
    for options in ({"deadline_s": 0}, {"deadline_s": float("nan")}, {"attempt_s": 0}, {"min_score": 1.5}):
        with pytest.raises(errors.RecipeError, match=next(iter(options))):
            ClientOptions(**options)
    for options in ({"heads": [""]}, {"token": "a b"}, {"token": ""}, {"token": "x\r\nY: 1"},
                    {"options": ClientOptions(ca="ca.pem")}):  # fmt: skip
        with pytest.raises(errors.RecipeError):
            Client("http://localhost:1", FakeEncoder(), **options)
    with Client("http://localhost:1", FakeEncoder()) as client:
        for options in ({"budget_ms": 0}, {"budget_ms": 10, "rate": 0.5}, {"rate": 2}):
            with pytest.raises(errors.RecipeError):
                client.send(b"x", **options)
        with pytest.raises(errors.RecipeError, match="outbox"):
            client.submit(b"x")
    with pytest.raises(errors.RecipeError, match="bundle"):
        Client("http://localhost:1").send(b"x")


def test_a_token_does_not_cross_a_network_in_the_clear(monkeypatch):
    with pytest.raises(errors.RecipeError, match="example.com"):
        Client("http://example.com", FakeEncoder(), token="t")
    monkeypatch.setenv("SPLITREG_TOKEN", "t")
    with pytest.raises(errors.RecipeError, match="example.com"):
        Client("http://example.com", FakeEncoder())
    Client("https://example.com", FakeEncoder()).close()
    Client("http://example.com", FakeEncoder(), options=ClientOptions(insecure=True)).close()


def test_the_token_of_the_environment_is_sent(service, monkeypatch):
    monkeypatch.setenv("SPLITREG_TOKEN", "from-environment")
    with Client(service.url, FakeEncoder()) as client:
        client.send(b"x")
    assert service.requests[0][1]["Authorization"] == "Bearer from-environment"


def certificate(folder):
    """Make an authority and a certificate for 127.0.0.1."""
    run = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
           "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]  # fmt: skip
    subprocess.run(run, cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


def test_tls_is_verified(tmp_path):
    import shutil
    import ssl

    if shutil.which("openssl") is None:
        pytest.skip("no openssl")
    cert, key = certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    with FakeService(tls) as service:
        with Client(service.url, FakeEncoder(), token="t", options=ClientOptions(ca=cert)) as client:
            assert client.send(b"x").attempts == client.send(b"x").attempts == 1 and service.connections == 1
        with Client(service.url, FakeEncoder()) as client, pytest.raises(errors.RecipeError, match=service.url):
            client.send(b"x")
        url = service.url.replace("127.0.0.1", "localhost")
        with Client(url, FakeEncoder(), options=ClientOptions(ca=cert)) as client:
            with pytest.raises(errors.RecipeError, match=url):  # the certificate has another name
                client.send(b"x")
        with Client(service.url, FakeEncoder(), options=ClientOptions(insecure=True)) as client:
            client.send(b"x")
    with pytest.raises(errors.RecipeError, match="none.pem"):
        Client("https://localhost", FakeEncoder(), options=ClientOptions(ca=key.with_name("none.pem")))


# --- the budget in milliseconds


def test_a_budget_of_milliseconds_becomes_bytes(service):
    encoder, link = FakeEncoder(), LinkEstimate()
    for size in (100, 1000, 3000) * 4:
        link.add(size, 0.05 + size / 10_000)
    with Client(service.url, encoder, options=ClientOptions(link=link)) as client:
        client.send(b"x", budget_ms=250)
        room = client.link.size(0.25)
        assert 0 < encoder.encoded[-1] < 2000 and room is not None
        client.send(b"x", budget_ms=20)  # below the round trip
        assert encoder.encoded[-1] == 100
        client.send(b"x", budget_ms=10_000)
        assert encoder.encoded[-1] == 4100


def test_the_first_image_of_a_budget_goes_at_the_lowest_rate(service):
    encoder = FakeEncoder()
    with Client(service.url, encoder) as client:
        client.send(b"x", budget_ms=500)
        assert encoder.encoded == [100] and client.link.rtt_s is not None
        for _ in range(3):
            client.send(b"x", budget_ms=500)
        assert encoder.encoded[-1] == 4100  # loopback carries everything


# --- the outbox


def drained(client, **options):
    got = []
    return client.drain(got.append, **options), got


def test_the_outbox_is_drained_in_order(service, tmp_path):
    with Client(service.url, FakeEncoder(), outbox=tmp_path / "box") as client:
        keys = [client.submit(bytes([65 + i]), name=f"n{i}") for i in range(5)]
        assert not service.requests and len(client.outbox) == 5
        report, got = drained(client)
    assert (report.answered, report.refused, report.left) == (5, 0, 0)
    assert [answer.key for answer in got] == keys and [answer.name for answer in got] == [f"n{i}" for i in range(5)]
    for answer, body in zip(got, service.order, strict=True):
        np.testing.assert_array_equal(probabilities(answer), expected_probabilities(body))


def test_the_queue_goes_on_where_a_packet_is_refused(service, tmp_path):
    foreign = json.dumps({"error": {"type": "ForeignPacket", "message": "other"}}).encode()
    with Client(service.url, FakeEncoder(), outbox=tmp_path / "box") as client:
        for i in range(3):
            client.submit(bytes([65 + i]), name=str(i))
        service.script.extend(["ok", (409, {}, foreign)])
        report, got = drained(client)
    assert (report.answered, report.refused, report.left) == (2, 1, 0)
    assert [type(answer.error).__name__ for answer in got] == ["NoneType", "ForeignPacket", "NoneType"]
    assert got[1].to_json()["error"]["message"] == "other"


def test_a_wrong_token_keeps_the_queue(service, tmp_path):
    with Client(service.url, FakeEncoder(), outbox=tmp_path / "box") as client:
        client.submit(b"x")
        service.script.append((401, {}))
        with pytest.raises(errors.Unauthorized):
            drained(client)
        assert len(client.outbox) == 1
        assert drained(client)[0].answered == 1


def test_patience_ends_and_the_packets_stay(tmp_path):
    with FakeService() as gone:
        url = gone.url
    with Client(url, FakeEncoder(), outbox=tmp_path / "box") as client:
        client.submit(b"x")
        client.submit(b"y")
        report, got = drained(client, patience_s=0.2)
        assert (report.answered, report.left, got) == (0, 2, [])


def test_what_has_expired_is_not_sent(service, tmp_path):
    with Client(service.url, FakeEncoder(), outbox=tmp_path / "box") as client:
        client.submit(b"x", name="late", expires_s=-1)
        client.submit(b"y", name="good", expires_s=1000)
        _, got = drained(client)
    assert [(answer.name, type(answer.error).__name__) for answer in got] == [
        ("late", "DeadlinePassed"),
        ("good", "NoneType"),
    ]
    assert len(service.requests) == 1


def test_an_answer_that_the_program_did_not_take_is_handed_over_again(service, tmp_path):
    with Client(service.url, FakeEncoder(), outbox=tmp_path / "box") as client:
        client.submit(b"x", name="a")
        client.submit(b"y", name="b")

        def fails(answer):
            raise KeyError("the program's own fault")

        with pytest.raises(KeyError):
            client.drain(fails)
        assert len(service.requests) == 1 and len(client.outbox) == 1
    with Client(service.url, outbox=tmp_path / "box") as client:
        _, got = drained(client)
    assert [answer.name for answer in got] == ["a", "b"] and len(service.requests) == 2


def test_only_one_process_drains(service, tmp_path):
    with Outbox(tmp_path / "box") as box, box.draining(), Client(service.url, outbox=tmp_path / "box") as client:
        with pytest.raises(errors.OutboxError, match="box"):
            drained(client)


def test_a_link_that_is_down_and_comes_back(service, tmp_path, monkeypatch):
    """Silence, then refusals, while packets are submitted; all are answered once and in order."""
    monkeypatch.undo()
    with Link(service.address, QUICK) as link:
        options = ClientOptions(deadline_s=5, attempt_s=0.2, seed=1)
        with Client(link.url, FakeEncoder(), outbox=tmp_path / "box", options=options) as client:
            client.send(b"warm")
            link.down()
            for i in range(4):
                client.submit(bytes([65 + i]), name=str(i))
            assert drained(client, patience_s=0.3)[0].left == 4
            link.down(refuse=True)
            assert drained(client, patience_s=0.3)[0].left == 4
            threading.Timer(0.3, link.up).start()
            report, got = drained(client, patience_s=60)
    assert (report.answered, report.left) == (4, 0) and [answer.name for answer in got] == list("0123")
    assert set(service.computed.values()) == {1} and len(service.computed) == 5


@pytest.mark.slow
def test_a_link_that_is_down_for_twenty_seconds(service, tmp_path, monkeypatch):
    monkeypatch.undo()
    profile = Profile(up_bps=1e7, down_bps=1e7, delay_s=0.01, outages=[(0.5, 20)])
    with Link(service.address, profile) as link:
        options = ClientOptions(attempt_s=2, seed=1)
        with Client(link.url, FakeEncoder(), outbox=tmp_path / "box", options=options) as client:
            client.send(b"warm")
            time.sleep(0.6)
            keys = [client.submit(bytes([65 + i])) for i in range(10)]
            report, got = drained(client)
    assert report.left == 0 and [answer.key for answer in got] == keys and set(service.computed.values()) == {1}


CHILD = """
import os, sys
from splitreg.edge import Client, ClientOptions

def took(answer):
    with open(sys.argv[3], "ab", 0) as log:
        log.write(f"{answer.name} {answer.key}\\n".encode())

with Client(sys.argv[1], outbox=sys.argv[2], options=ClientOptions(deadline_s=30)) as client:
    client.drain(took)
"""


def test_kill_9_at_any_moment(service, tmp_path, monkeypatch):
    """Whatever moment the process dies at, every packet is computed once, recorded once, and handed over in order."""
    monkeypatch.undo()
    rng = np.random.default_rng(0)
    count, runs = 150, 0
    with Outbox(tmp_path / "box") as box:
        keys = [box.put(make_packet(bytes([i, i])), name=str(i)).key for i in range(count)]
    command = [sys.executable, "-c", CHILD, service.url, tmp_path / "box", tmp_path / "log"]
    service.script.extend([0.003] * 10_000)
    while True:
        seen = len(service.requests)
        child = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if runs < 6:
            while len(service.requests) < seen + int(rng.integers(1, 20)) and child.poll() is None:
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.01))
            child.kill()
        runs += 1
        if child.wait() == 0:
            break
        assert runs < 20
    assert runs > 3 and len(service.computed) == count and set(service.computed.values()) == {1}
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    once = list(dict.fromkeys(map(tuple, lines)))
    assert once == [(str(i), key) for i, key in enumerate(keys)]
    assert len(lines) <= count + runs  # handed over again at most where it died
    with Outbox(tmp_path / "box") as box:
        assert len(box) == 0 and box.answered() is None


def test_a_real_image_through_a_real_encoder(service, tmp_path):
    import splitreg

    bottleneck = {"name": "fp", "channels": 4, "hidden": 8, "from": "image"}
    heads = [{"name": "cls", "labels": 3}]
    model = splitreg.build(backbone="test_resnet", bottleneck=bottleneck, heads=heads, input={"size": [32, 32]})
    bundle = save_with_onnx(model, tmp_path / "b")
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "p.png")
    with Client(service.url, bundle) as client:
        answer = client.send(tmp_path / "p.png")
        with pytest.raises(errors.RecipeError, match="rates"):
            client.send(tmp_path / "p.png", budget_ms=100)
    assert service.requests[0][2] == client.encoder.encode(tmp_path / "p.png")[0]
    assert answer.packet_bytes == len(service.requests[0][2])
