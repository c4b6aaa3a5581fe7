"""Both programs: ``splitreg serve`` in a process, the client before it, a bad link between them."""

import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from support.bundles import save_with_onnx

import splitreg
from splitreg.assembly import ServerModel
from splitreg.edge import Client, ClientOptions, EdgeEncoder
from splitreg.errors import ForeignPacket, RecipeError, Unauthorized
from splitreg.link_emulator import PRESETS, Link, Profile
from splitreg.wire import pack

pytest.importorskip("starlette")
pytest.importorskip("httptools")

PATIENT = ClientOptions(deadline_s=60)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    bottleneck = {"name": "fp", "channels": 6, "hidden": 8, "from": "image", "rates": 3}
    heads = [{"name": "cls", "labels": 3}, {"name": "seg", "labels": 4}, {"name": "depth"}]
    model = splitreg.build(backbone="test_resnet", bottleneck=bottleneck, heads=heads, input={"size": [64, 96]})
    return save_with_onnx(model, tmp_path_factory.mktemp("two") / "bundle")


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory):
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text("secret-0123456789\n")
    command = [sys.executable, "-m", "splitreg", "serve", str(bundle), "--port", "0", "--threads", "1"]
    command += ["--token-file", str(tokens)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                             env={**os.environ, "OMP_NUM_THREADS": "1"})  # fmt: skip
    with child:
        yield json.loads(child.stdout.readline())["url"]
        child.terminate()
        assert child.wait(60) == 0


@pytest.fixture(scope="module")
def images():
    return [np.random.default_rng(i).integers(0, 256, (50 + i, 70, 3), dtype=np.uint8) for i in range(4)]


def address(url):
    host, port = url.removeprefix("http://").split(":")
    return host, int(port)


def same(answer, expected):
    assert set(answer.predictions) == set(expected)
    for head, prediction in expected.items():
        arrays = answer.predictions[head].arrays()
        assert answer.predictions[head].to_json() == prediction.to_json() and list(arrays) == list(prediction.arrays())
        for name, array in prediction.arrays().items():
            np.testing.assert_array_equal(arrays[name], array, strict=True)


def test_answers_over_the_wire_are_those_in_process(bundle, server, images):
    model, encoder = ServerModel.load(bundle), EdgeEncoder.open(bundle)
    with Client(server, encoder, token="secret-0123456789", options=PATIENT) as client:
        for image in images:
            answer = client.send(image, rate=0.7)
            same(answer, model.infer(encoder.encode(image, rate=0.7))[0])
            assert answer.times.compute_ms > 0
            assert answer.received_bytes < len(pack([answer.predictions]))  # compressed
    with Client(server, encoder, token="secret-0123456789", heads=["depth", "cls"], options=PATIENT) as client:
        same(client.send(images[0]), model.infer(encoder.encode(images[0]), ["depth", "cls"])[0])


def test_what_the_server_refuses_has_its_type(bundle, server, images):
    with Client(server, bundle, token="wrong") as client, pytest.raises(Unauthorized):
        client.send(images[0])
    with (
        Client(server, bundle, token="secret-0123456789", heads="segg") as client,
        pytest.raises(RecipeError, match="seg"),
    ):
        client.send(images[0])
    other = EdgeEncoder.open("zoo:camvid-small")
    with Client(server, other, token="secret-0123456789") as client, pytest.raises(ForeignPacket):
        client.send(images[0])


def test_a_queue_over_a_link_that_fails(bundle, server, images, tmp_path):
    model, encoder = ServerModel.load(bundle), EdgeEncoder.open(bundle)
    profile = Profile(up_bps=1e6, down_bps=4e6, delay_s=0.002, jitter_s=0.002, loss=0.02)
    with Link(address(server), profile, seed=2) as link:
        options = ClientOptions(attempt_s=0.5, seed=0)
        with Client(link.url, encoder, token="secret-0123456789", outbox=tmp_path / "box", options=options) as client:
            for i, image in enumerate(images * 3):
                client.submit(image, name=str(i))
            got = []

            def take(answer):
                got.append(answer)
                if len(got) in (2, 5, 8):
                    {2: link.down, 5: link.half_open, 8: link.reset}[len(got)]()
                    threading.Timer(0.3, link.up).start()

            report = client.drain(take, patience_s=60)
    assert (report.answered, report.left) == (12, 0) and [answer.name for answer in got] == [str(i) for i in range(12)]
    for answer, image in zip(got, images * 3, strict=True):
        same(answer, model.infer(encoder.encode(image))[0])


def test_a_budget_of_time_is_spent_on_bytes(bundle, server, images):
    """On a slow link, less time is fewer bytes, and no time the fewest."""
    with Link(address(server), PRESETS["lora"], seed=1) as link:
        with Client(link.url, bundle, heads="cls", token="secret-0123456789", options=PATIENT) as client:
            fewest = len(client.encoder.encode(images[0], rate=0.0)[0])
            most = len(client.encoder.encode(images[0], rate=1.0)[0])
            assert client.send(images[0], budget_ms=100_000).packet_bytes == fewest  # nothing is known yet
            assert client.send(images[0], budget_ms=100_000).packet_bytes == most
            assert client.send(images[0], budget_ms=1).packet_bytes == fewest < most
