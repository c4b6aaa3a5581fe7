"""``splitreg send`` with identities and events."""

import itertools
import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.fake_service import FakeService
from support.http_video import write_video

from splitreg.cli.send_ import command
from splitreg.cli.tracking_options import Follower, FrameTime, TrackingOptions
from splitreg.errors import RecipeError, SplitregError
from splitreg.predictions import Detections

BUNDLE = "zoo:camvid-small"


def detections(*objects):
    """(x, label, score) per object."""
    return Detections(
        boxes=np.array([[x, 10, x + 10, 30] for x, *_ in objects], np.float32).reshape(-1, 4),
        scores=np.array([score for *_, score in objects], np.float32),
        labels=np.array([label for _, label, _ in objects], np.int64),
        names=("person", "car"),
    )


@pytest.fixture
def service():
    """Answers a person that moves right by 2 pixels per image, and a car that stands."""
    steps = itertools.count()
    with FakeService() as running:
        running.predict = lambda packet: {"det": detections((2 * next(steps), 0, 0.9), (60, 1, 0.8), (90, 0, 0.3))}
        yield running


def send(service, *arguments):
    return CliRunner().invoke(command, [BUNDLE, *map(str, arguments), "--to", service.url])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "v.mp4", 12)


def test_frames_of_a_video_get_identities(service, clip, tmp_path):
    done = send(service, clip, "--track", "--json", "--answers", tmp_path / "a", "--draw", tmp_path / "d")
    assert done.exception is None, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    for row in rows:
        objects = row["predictions"]["det"]["objects"]
        assert [(item["label"], item["id"]) for item in objects] == [("person", 1), ("car", 2)]
    assert len(rows) == len(list((tmp_path / "a").iterdir())) == len(list((tmp_path / "d").iterdir())) == 12
    saved = json.loads((tmp_path / "a/v-000003.json").read_text())
    assert saved["predictions"]["det"]["objects"][0]["id"] == 1


def test_events_are_printed_instead_of_answers(service, clip):
    done = send(service, clip, "--events", "--zone", "right=15,0,50,100", "--labels", "person")
    assert done.exception is None, done.output
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(e["event"], e.get("id"), e.get("count")) for e in events] == [
        ("enter", 1, None), ("count", None, 1), ("leave", 1, None), ("count", None, 0),
    ]  # fmt: skip
    # the middle of the lower side is at 5 + 2 i: inside from frame 5 on, in at the first frame at least 0.3 s later
    assert events[0]["time"] == pytest.approx(0.8) and events[0]["name"] == "v.mp4#000008"
    assert events[0]["head"] == "det" and events[0]["zone"] == "right"


def test_every_nth_frame_and_the_outbox(service, clip, tmp_path):
    done = send(service, clip, "--events", "--every", 4, "--outbox", tmp_path / "box")
    assert done.exception is None, done.output
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {(e["label"], e["id"]) for e in events if e["event"] == "enter"} == {("person", 1), ("car", 2)}


def test_with_json_both_are_printed(service, clip):
    rows = [json.loads(line) for line in send(service, clip, "--events", "--json").stdout.splitlines()]
    assert sum("event" in row for row in rows) == 8 and sum("predictions" in row for row in rows) == 12


def test_another_source_starts_anew(service, clip, tmp_path):
    for i in range(3):
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(tmp_path / f"p{i}.png")
    done = send(service, clip, tmp_path, "--events", "--labels", "car")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(e["event"], e.get("name", "")[:3]) for e in events if e["event"] != "count"] == [
        ("enter", "v.m"), ("leave", ""), ("enter", "p1."), ("leave", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "names"),
    [(["--zone", "a=0,0,1,1"], "--events"), (["--labels", "x", "--track"], "--events"), (["--device", "x", "--events"], "--mqtt")],
)  # fmt: skip
def test_options_that_need_another(service, clip, arguments, names):
    done = send(service, clip, *arguments)
    assert done.exit_code == 2 and names in done.output


@pytest.mark.parametrize("arguments", [["--events", "--zone", "a=1,2"], ["--mqtt", "http://x"]])
def test_values_that_are_none(service, clip, arguments):
    assert isinstance(send(service, clip, *arguments).exception, RecipeError)


def test_a_model_that_detects_nothing():
    with Follower(TrackingOptions(track=True)) as follower, pytest.raises(SplitregError, match="detects"):
        follower.follow("a", {})


def test_a_class_that_no_head_detects():
    with (
        Follower(TrackingOptions(events=True, labels="bus")) as follower,
        pytest.raises(SplitregError, match=f"'bus'.*{detections().names[0]}"),
    ):
        follower.follow("a", {"det": detections((0, 0, 0.9))})


def test_frames_that_were_never_answered_count_as_time():
    lines = []
    with Follower(TrackingOptions(events=True), lines.append) as follower:
        for number in (0, 1, 2, 12, 13):
            follower.remember(f"f{number}", FrameTime("s", number, number / 10))
            result = follower.follow(f"f{number}", {"det": detections((0.5 * number, 0, 0.9))})
            assert result["det"].identities.tolist() == [1]
        assert follower.follow("unknown", {"det": detections((7, 0, 0.9))})["det"].identities.tolist() == [1]
    assert [json.loads(line)["event"] for line in lines] == ["enter", "count", "leave", "count"]


def test_low_scores_start_nothing_unless_told():
    for score, count in ((0.6, 0), (0.2, 1)):
        with Follower(TrackingOptions(track=True, track_score=score)) as follower:
            result = follower.follow("a", {"det": detections((5, 0, 0.25))})
            assert len(result["det"].identities) == count
