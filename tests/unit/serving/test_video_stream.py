"""Video streams over a WebSocket: exact answers, compact answers, loss, limits, a killed worker."""

import json
import os
import signal

import numpy as np
import pytest
from support.serving_toys import children, make_bundle, running, until
from websockets.exceptions import InvalidStatus

from splitreg.assembly import EdgeModel, ServerModel
from splitreg.coding import StreamPacket
from splitreg.edge.stream_client import StreamClient, StreamClientOptions
from splitreg.errors import KeyFrameNeeded, RecipeError
from splitreg.imaging import nearest
from splitreg.serving.local import LocalBackend
from splitreg.wire import protocol, unpack
from splitreg.wire.compact import CompactReader

pytestmark = pytest.mark.integration

HEADS = "&heads=cls,seg,det"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "toy")


@pytest.fixture(scope="module")
def server(bundle):
    with running(LocalBackend, bundles=(str(bundle),), workers=1, max_stream_state_bytes=1_000_000) as server:
        yield server


@pytest.fixture(scope="module")
def halves(bundle):
    return EdgeModel.load(bundle), ServerModel.load(bundle)


def frames(count, size=(48, 64)):
    """A bright square that moves over noise."""
    background = np.random.default_rng(0).integers(0, 90, (*size, 3), np.uint8)
    for i in range(count):
        frame = background.copy()
        frame[10:26, 4 * i : 4 * i + 16] = 230
        yield frame


def same(found, wanted):
    for head, prediction in wanted.items():
        for name, array in prediction.arrays().items():
            np.testing.assert_array_equal(found[head].arrays()[name], array)


def ask(socket, number, data):
    socket.send(protocol.write_request(number, data))
    answered, status, blob = protocol.read_answer(socket.recv(timeout=20))
    assert answered == number
    return status, blob


def test_answers_are_those_of_single_packets(server, halves):
    edge, local = halves
    stream = edge.stream()
    packets = [(frame, stream.encode(frame)) for frame in frames(5)]
    with server.stream(f"?answers=binary&video={stream.format}{HEADS}") as socket:
        for number, (frame, data) in enumerate(packets):
            status, blob = ask(socket, number, data)
            assert status == 200
            same(unpack(blob)[0], local.infer(edge.encode(frame), ("cls", "seg", "det"))[0])
        assert [StreamPacket.parse(data).key for _, data in packets] == [True, False, False, False, False]


def test_the_same_stream_without_a_server(halves):
    edge, local = halves
    stream = edge.stream(number=3)
    data = [stream.encode(frame) for frame in frames(3)]
    receiver = local.stream(stream.format)
    for frame, packet in zip(frames(3), data, strict=True):
        same(receiver.infer(packet, ("seg",)), local.infer(edge.encode(frame), ("seg",))[0])
    with pytest.raises(KeyFrameNeeded):
        local.stream(stream.format).infer(data[1])


def test_compact_answers_follow_each_other(server, halves):
    edge, local = halves
    stream, reader = edge.stream(), CompactReader()
    still = [next(iter(frames(1)))] * 2
    images = [*frames(3), *still]
    encoded = [stream.encode(frame) for frame in images]
    query = f"?answers=compact&resolution=network&video={stream.format}{HEADS}"
    sizes = []
    with server.stream(query) as socket:
        for number, (frame, data) in enumerate(zip(images, encoded, strict=True)):
            status, blob = ask(socket, number, data)
            assert status == 200
            sizes.append(len(blob))
            answer = reader.read(blob)
            wanted = local.infer(edge.encode(frame), ("cls", "seg", "det"))[0]
            np.testing.assert_array_equal(nearest(answer["seg"].mask, (48, 64)), wanted["seg"].mask)
            assert answer["cls"].index == wanted["cls"].index
    assert sizes[-1] < 30 < sizes[0]


def test_a_lost_frame_is_reported_and_a_key_frame_goes_on(server, halves):
    edge, _ = halves
    stream = edge.stream()
    first, _, third = [stream.encode(frame) for frame in frames(3)]
    with server.stream(f"?answers=binary&video={stream.format}") as socket:
        assert ask(socket, 0, first)[0] == 200
        status, blob = ask(socket, 1, third)
        assert (status, json.loads(blob)["error"]["type"]) == (409, "KeyFrameNeeded")
        assert ask(socket, 2, b"\0" * 40)[0] == 409
        assert ask(socket, 3, stream.encode(next(iter(frames(1))), key=True))[0] == 200
        assert ask(socket, 4, stream.encode(next(iter(frames(1)))))[0] == 200


def test_a_worker_that_dies_loses_no_state(server, halves):
    edge, _ = halves
    stream = edge.stream()
    first = stream.encode(next(iter(frames(1))))
    with server.stream(f"?answers=binary&video={stream.format}") as socket:
        assert ask(socket, 0, first)[0] == 200
        for pid in children(server.backend.pool.manager_pid):
            os.kill(pid, signal.SIGKILL)
        statuses = []
        for number, frame in enumerate(frames(12), 1):
            status, blob = ask(socket, number, stream.encode(frame))
            assert status == 200 or json.loads(blob)["error"]["type"] in ("WorkerLost", "Unavailable"), blob
            statuses.append(status)
        until(lambda: server.idle)
        assert ask(socket, 99, stream.encode(next(iter(frames(1)))))[0] == 200


@pytest.mark.parametrize(
    ("video", "status"),
    [
        ("nonsense", 400),
        ("00000001-48x64-64x96-6x4x6-0", 409),
        ("{id}-48x64-64x96-5x4x6-0", 400),
        ("{id}-48x64-64x96-6x900x900-0", 503),
    ],
)
def test_refused_before_it_begins(server, halves, video, status):
    edge, _ = halves
    with (
        pytest.raises(InvalidStatus) as refusal,
        server.stream(f"?video={video.format(id=f'{edge.coding.model_id:08x}')}"),
    ):
        pass
    assert refusal.value.response.status_code == status


def test_a_certificate_that_is_not_trusted_is_refused_at_once(certificate, halves):
    tls = {"tls_cert": str(certificate / "cert.pem"), "tls_key": str(certificate / "key.pem")}
    edge, _ = halves
    with running(**tls) as server, pytest.raises(RecipeError, match="ca"):
        options = StreamClientOptions(patience_s=None)  # would try for ever
        StreamClient(f"https://127.0.0.1:{server.port}", edge, options=options).run(
            [("a", next(iter(frames(1))))], print
        )


def test_memory_is_free_after_a_stream(server, halves):
    edge, _ = halves
    stream = edge.stream()
    stream.encode(next(iter(frames(1))))
    with server.stream(f"?video={stream.format}"):
        until(lambda: server.service.videos._budget.total > 0)
    until(lambda: server.service.videos._budget.total == 0)
