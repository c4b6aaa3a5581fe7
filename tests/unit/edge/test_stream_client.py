"""Streams from a device: exact masks, lost connections, motion, refusals."""

import numpy as np
import pytest
from support.serving_toys import make_bundle, running

from splitreg.assembly import EdgeModel, ServerModel
from splitreg.edge.stream import StreamOptions
from splitreg.edge.stream_client import StreamClient, StreamClientOptions
from splitreg.edge.stream_control import Budget, StreamController
from splitreg.errors import ForeignPacket, RecipeError, Unauthorized, Unreachable
from splitreg.link_emulator import Link, Profile
from splitreg.serving.local import LocalBackend

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "toy", heads=("cls", "seg"))


@pytest.fixture(scope="module")
def server(bundle):
    with running(LocalBackend, bundles=(str(bundle),), workers=1, token="secret") as server:
        yield server


@pytest.fixture(scope="module")
def edge(bundle):
    return EdgeModel.load(bundle)


def clip(count, size=(48, 64), step=4):
    background = np.random.default_rng(0).integers(0, 90, (*size, 3), np.uint8)
    for i in range(count):
        frame = background.copy()
        frame[10:26, step * i % 48 : step * i % 48 + 16] = 230
        yield f"frame {i}", frame


def client(server, edge, url=None, **options):
    options = StreamClientOptions(**{"deadline_s": 10, "patience_s": 20, **options})
    return StreamClient(url or f"http://127.0.0.1:{server.port}", edge, token="secret", options=options)


def test_every_frame_is_answered_with_its_mask(server, edge, bundle):
    answers = []
    report = client(server, edge).run(clip(8), answers.append)
    assert [answer.name for answer in answers] == [name for name, _ in clip(8)]
    assert (report.answered, report.lost, report.keys, report.connections) == (8, 0, 1, 1)
    assert report.sent_bytes == sum(answer.packet_bytes for answer in answers)
    local = ServerModel.load(bundle)
    for (_, frame), answer in zip(clip(8), answers, strict=True):
        wanted = local.infer(edge.encode(frame))[0]
        np.testing.assert_array_equal(answer.predictions["seg"].mask, wanted["seg"].mask)
        assert answer.predictions["cls"].index == wanted["cls"].index
    assert [answer.key for answer in answers] == [True] + 7 * [False]


def test_a_lost_connection_is_opened_again_with_a_key_frame(server, edge):
    with Link(("127.0.0.1", server.port), Profile(up_bps=1e7, down_bps=1e7), seed=0) as link:
        answers = []

        def on_answer(answer):
            answers.append(answer)
            if len(answers) == 4:
                link.down(refuse=True)
            if len(answers) == 4:
                link.up()

        report = client(server, edge, url=link.url).run(clip(12), on_answer)
    assert report.connections >= 2 and report.keys >= 2
    assert report.answered + report.lost == 12 and report.answered >= 8 and report.lost <= 4


def test_a_frame_that_is_sent_again_is_not_lost(server, edge, monkeypatch):
    """The receiving thread sees the end of the connection before the thread that sends a frame does."""
    from websockets.sync.client import ClientConnection

    send, ended = ClientConnection.send, []

    def send_after_the_end(connection, message):
        if not ended and sent_frames[-1] == "frame 2":
            ended.append(connection)
            connection.close()
            with link._changed:
                assert link._changed.wait_for(lambda: link._socket is None, 10)
        send(connection, message)

    monkeypatch.setattr(ClientConnection, "send", send_after_the_end)
    link, answers, sent_frames = client(server, edge, max_in_flight=1), [], []

    def frames():
        for name, frame in clip(4):
            sent_frames.append(name)
            yield name, frame

    report = link.run(frames(), answers.append)
    assert [answer.name for answer in answers] == [f"frame {i}" for i in range(4)]
    assert (report.answered, report.lost, report.connections, report.keys) == (4, 0, 2, 2)


def test_images_of_another_size_begin_another_stream(server, edge):
    frames = [*clip(3), *clip(3, (60, 80))]
    answers = []
    report = client(server, edge).run(frames, answers.append)
    assert [answer.predictions["seg"].mask.shape for answer in answers] == 3 * [(48, 64)] + 3 * [(60, 80)]
    assert (report.answered, report.connections, report.keys) == (6, 2, 2)


def test_frames_without_motion_are_not_sent(server, edge):
    answers = []
    report = client(server, edge, motion=8.0).run([*clip(2), *clip(3, step=0)], answers.append)
    assert [answer.repeated for answer in answers].count(True) == report.repeated == 2
    assert report.answered == 3 and all("seg" in answer.predictions for answer in answers)


def test_key_frames_and_tolerance(server, edge):
    options = StreamOptions(key_interval_s=1e-9, tolerance=0.25)
    report = client(server, edge, stream=options).run(clip(4), lambda answer: None)
    assert report.keys == 4


def test_a_pace(server, edge):
    report = client(server, edge, budget=Budget(fps=20)).run(clip(6), lambda answer: None)
    assert report.answered == 6 and report.seconds >= 5 / 20


def test_after_a_late_answer_the_link_is_probed_before_each_frame(server, edge, monkeypatch):
    probes, probed = [], StreamController.probed
    monkeypatch.setattr(StreamController, "probed", lambda *args: probes.append(args[1]) or probed(*args))
    report = client(server, edge, budget=Budget(ms=0.01)).run(clip(6), lambda answer: None)
    assert (report.answered, report.lost, report.connections) == (6, 0, 1)
    assert len(probes) >= 4 and all(0 < seconds < 10 for seconds in probes)


def test_a_connection_that_ends_during_a_probe_is_opened_again(server, edge, monkeypatch):
    with Link(("127.0.0.1", server.port), Profile(up_bps=1e7, down_bps=1e7), seed=0) as link:

        def on_answer(answer):
            if answer.name == "frame 3":  # the link comes back, the connection does not
                link.down(refuse=True)
                link.up()

        report = client(server, edge, url=link.url, budget=Budget(ms=0.01)).run(clip(8), on_answer)
    assert report.connections >= 2 and report.answered + report.lost == 8 and report.answered >= 6


def test_a_server_that_is_not_there_is_named_at_once(server, edge, caplog):
    with caplog.at_level("WARNING"), pytest.raises(Unreachable, match="127.0.0.1:1"):
        client(server, edge, url="http://127.0.0.1:1", patience_s=0.6).run(clip(1), print)
    assert [record.name for record in caplog.records].count("splitreg.edge.stream_client") == 1
    assert "http://127.0.0.1:1" in caplog.text


def test_refused(server, edge, tmp_path):
    with pytest.raises(Unauthorized):
        StreamClient(f"http://127.0.0.1:{server.port}", edge, token="wrong").run(clip(1), print)
    other = EdgeModel.load(make_bundle(tmp_path / "other", channels=5, heads=("cls",)))
    with pytest.raises(ForeignPacket):
        client(server, other).run(clip(1), print)
    with pytest.raises(Unreachable):
        client(server, edge, url="http://127.0.0.1:1", patience_s=0.1).run(clip(1), print)
    for wrong in ({"deadline_s": 0}, {"max_in_flight": 0}, {"min_score": 2}, {"resolution": "1/3"}):
        with pytest.raises(RecipeError):
            StreamClientOptions(**wrong)
