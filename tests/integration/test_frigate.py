"""The bridge for Frigate, asked by clients that are written from the documentation of its two protocols."""

import io
import json
import threading
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image
from support.serving_toys import running

from splitreg import imaging
from splitreg.assembly import ServerModel
from splitreg.bundle import Bundle
from splitreg.edge import EdgeEncoder
from splitreg.edge.frigate import (
    DETECTION,
    FrigateBridge,
    FrigateOptions,
    deepstack_server,
    read_labels,
    read_tensor,
    serve_zmq,
)
from splitreg.errors import BadRequest, RecipeError
from splitreg.serving.local import LocalBackend

pytestmark = pytest.mark.integration
zmq = pytest.importorskip("zmq")
ZOO = "zoo:camvid-small"
SIDES = ("x_min", "y_min", "x_max", "y_max")


@pytest.fixture(scope="module")
def server():
    with running(LocalBackend, bundles=(ZOO,)) as server:
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def image():
    """An array as Frigate sends it: 320 x 320 pixels of RGB."""
    sheet = imaging.read(Bundle.open(ZOO).folder / "examples.jpg")[:360, :480]
    return np.asarray(Image.fromarray(sheet).resize((320, 320)))


@pytest.fixture(scope="module")
def expected(image):
    """Objects of the image by both halves in this process."""
    return ServerModel.load(ZOO).infer(EdgeEncoder.open(ZOO).encode(image))[0]["det"]


def bridge_to(url, **options):
    return FrigateBridge(url, EdgeEncoder.open(ZOO), options=FrigateOptions(timeout_s=20, min_score=0.05, **options))


class ZmqClient:
    """Frigate's side: REQ, header and tensor in, 20 x 6 float32 out, zeros where nothing comes in time."""

    def __init__(self, endpoint, timeout_ms):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.REQ)
        for option in (zmq.RCVTIMEO, zmq.SNDTIMEO):
            self.socket.setsockopt(option, timeout_ms)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(endpoint)

    def ask(self, *frames):
        self.socket.send_multipart(list(frames))
        reply = self.socket.recv_multipart()
        assert len(reply) == 1 and len(reply[0]) == 20 * 6 * 4
        return np.frombuffer(reply[0], np.float32).reshape(20, 6)

    def detect(self, tensor):
        header = {"shape": list(tensor.shape), "dtype": tensor.dtype.name, "model_type": "yologeneric"}
        return self.ask(json.dumps(header).encode(), tensor.tobytes())

    def close(self):
        self.socket.close()
        self.context.term()


@pytest.fixture
def zmq_detector(tmp_path):
    """Returns a function: bridge -> client; everything is closed at the end."""
    opened = []

    def start(bridge, timeout_ms=60_000):
        endpoint, stop = f"ipc://{tmp_path}/detector", threading.Event()
        thread = threading.Thread(target=serve_zmq, args=(bridge, endpoint, stop), daemon=True)
        thread.start()
        client = ZmqClient(endpoint, timeout_ms)
        opened.append((client, stop, thread, bridge))
        return client

    yield start
    for client, stop, thread, bridge in opened:
        client.close()
        stop.set()
        thread.join(30)
        bridge.close()


def check_rows(rows, expected, size=(320, 320)):
    found = expected.above(0.05)
    count = min(20, len(found.scores))
    assert count > 0
    assert (rows[count:] == 0).all()
    np.testing.assert_array_equal(rows[:count, 0], found.labels[:count])
    np.testing.assert_allclose(rows[:count, 1], found.scores[:count], atol=0.02)
    boxes = found.boxes[:count][:, [1, 0, 3, 2]] / [size[0], size[1], size[0], size[1]]
    np.testing.assert_allclose(rows[:count, 2:], boxes, atol=0.01)


def test_zmq_detector(server, image, expected, zmq_detector):
    bridge = bridge_to(server)
    client = zmq_detector(bridge)
    check_rows(client.detect(image[None]), expected)
    check_rows(client.detect(np.ascontiguousarray(image.transpose(2, 0, 1))[None]), expected)
    check_rows(client.detect((image[None] / np.float32(255)).astype(np.float32)), expected)
    assert bridge.report.answered == 3 and bridge.report.failed == 0
    assert image.nbytes == 307_200 and bridge.report.sent_bytes / 3 < 4000


def test_requests_that_are_not_frigates_get_no_objects(server, image, zmq_detector):
    bridge = bridge_to(server)
    client = zmq_detector(bridge)
    header = json.dumps({"shape": [1, 320, 320, 3], "dtype": "uint8"}).encode()
    for frames in ((header, b"short"), (b"{", image.tobytes()), (b"[]", b""), (header,), (header, b"", b"")):
        assert (client.ask(*frames) == 0).all()
    assert client.detect(image[None]).any()  # and the next one is answered
    assert bridge.report.failed == 5


def test_a_server_that_is_away_does_not_block_frigate(image, zmq_detector, capsys):
    bridge = FrigateBridge("http://127.0.0.1:9", EdgeEncoder.open(ZOO), options=FrigateOptions(timeout_s=0.3))
    client = zmq_detector(bridge)
    for _ in range(2):
        began = time.monotonic()
        assert (client.detect(image[None]) == 0).all()
        assert time.monotonic() - began < 10
    assert bridge.report.failed == 2


def test_classes_follow_the_label_map(server, image, expected, tmp_path, zmq_detector):
    (tmp_path / "labelmap.txt").write_text("0 bicycle\n2 car\n17 bicyclist\n")
    labels = read_labels(tmp_path / "labelmap.txt")
    assert (labels[0], labels[2], labels[17], len(labels)) == ("bicycle", "car", "bicyclist", 18)
    rows = zmq_detector(bridge_to(server, labels=labels)).detect(image[None])
    names = [expected.names[i] for i in expected.above(0.05).labels]
    assert [int(c) for c in rows[rows[:, 1] > 0][:, 0]] == [labels.index(n) for n in names if n in labels][:20]


def post(port, body, content_type):
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{DETECTION}", data=body, headers={"Content-Type": content_type}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def form(**fields):
    """A multipart form as an HTTP library writes it."""
    parts = []
    for name, value in fields.items():
        file = f'; filename="{name}"' if isinstance(value, bytes) else ""
        head = f'--border\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        parts.append(head + (value if isinstance(value, bytes) else value.encode()) + b"\r\n")
    return b"".join(parts) + b"--border--\r\n", "multipart/form-data; boundary=border"


def test_deepstack_detector(server, image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG")
    bridge = bridge_to(server)
    wanted = ServerModel.load(ZOO).infer(EdgeEncoder.open(ZOO).encode(stream.getvalue()))[0]["det"].above(0.05)
    with deepstack_server(bridge) as port:
        status, answer = post(port, *form(api_key="", image=stream.getvalue()))
        assert status == 200 and answer["success"] is True
        objects = answer["predictions"]
        assert objects and all(one.keys() == {"label", "confidence", *SIDES} for one in objects)
        strong = wanted.above(0.1)  # scores have 6 bits in compact answers
        for box, score, label in zip(strong.boxes, strong.scores, strong.labels, strict=True):
            assert any(
                one["label"] == strong.names[label] and one["confidence"] == pytest.approx(float(score), abs=0.02)
                and [one[side] for side in SIDES] == pytest.approx(list(box), abs=3) for one in objects
            )  # fmt: skip
        for body, kind in (form(other=b"x"), (b"", "image/jpeg"), form(image="")):
            assert post(port, body, kind)[0] == 400
        assert post(port, *form(image=b"not an image"))[1]["predictions"] == []
    bridge.close()


@pytest.mark.parametrize(
    "header",
    [{"shape": [1, 4, 4, 3], "dtype": "float64"}, {"shape": [1, 4, 4], "dtype": "uint8"}, {"shape": "4", "dtype": "uint8"},
     {"shape": [1, 10**9, 10**9, 3], "dtype": "uint8"}, {"shape": [1, -4, -4, 3], "dtype": "uint8"}, {}],
)  # fmt: skip
def test_read_tensor_refuses(header):
    with pytest.raises(BadRequest, match="shape"):
        read_tensor(header, b"\0" * 48)


@pytest.mark.parametrize(
    ("text", "labels"),
    [("person\n3 wheeler\n", ["person", "3 wheeler"]), ("\ufeff1: car\n0: person\n", ["person", "car"]), ("", [])],
)
def test_label_maps(tmp_path, text, labels):
    (tmp_path / "map").write_text(text, encoding="utf-8")
    assert read_labels(tmp_path / "map") == labels


@pytest.mark.parametrize("text", ["0 a\n0 b\n", "0 a\n99999999999 b\n", "0 a\n" + "9" * 5000 + " b\n"])
def test_label_maps_with_impossible_indexes(tmp_path, text):
    (tmp_path / "map").write_text(text)
    with pytest.raises(RecipeError, match="index"):
        read_labels(tmp_path / "map")
