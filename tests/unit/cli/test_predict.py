import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from splitreg.assembly import build, save
from splitreg.cli.encode_ import command as encode
from splitreg.cli.infer_ import command as infer
from splitreg.cli.predict_ import command as predict
from splitreg.errors import CorruptPacket, ImageError
from splitreg.predictions import Detections


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    model = build(backbone="test_resnet", heads=[{"name": "det", "labels": ["cat"]}, {"name": "cls", "labels": ["a", "b"]}],
                  input={"size": [64, 64]})  # fmt: skip
    return str(save(model, tmp_path_factory.mktemp("predict") / "bundle"))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a.png", "b.jpg"):
        Image.new("RGB", (40, 30)).save(folder / name)
    return folder


def test_a_folder_is_predicted_through_packets_and_drawn(bundle, images, tmp_path):
    done = CliRunner().invoke(predict, [bundle, str(images), "--json", "--draw", str(tmp_path / "drawings")])
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    assert [row["image"] for row in rows] == ["a.png", "b.jpg"] and all(row["bytes"] > 20 for row in rows)
    assert set(rows[0]["predictions"]) == {"det", "cls"}
    names = {path.name for path in (tmp_path / "drawings").iterdir()}
    assert names == {"a-det.png", "a-cls.png", "b-det.png", "b-cls.png"}


def test_every_nth_frame_of_a_video_is_predicted_and_drawn(bundle, tmp_path):
    pytest.importorskip("av")
    from support.http_video import write_video

    write_video(tmp_path / "clip.mp4", count=6)
    arguments = [
        bundle,
        str(tmp_path / "clip.mp4"),
        "--every",
        "3",
        "--heads",
        "cls",
        "--json",
        "--draw",
        str(tmp_path / "d"),
    ]
    done = CliRunner().invoke(predict, arguments)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
    assert len(rows) == 2 == len(list((tmp_path / "d").iterdir())) and all(row["bytes"] > 20 for row in rows)


def test_draw_needs_no_folder(bundle, images, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(predict, [bundle, str(images / "a.png"), "--heads", "cls", "--draw"])
    assert done.exit_code == 0 and (tmp_path / "drawn" / "a-cls.png").is_file()


def test_images_of_one_name_keep_their_drawings(bundle, images, tmp_path):
    arguments = [bundle, str(images / "a.png"), str(images / "a.png"), "--heads", "cls", "--draw", str(tmp_path / "d")]
    assert CliRunner().invoke(predict, arguments).exit_code == 0
    assert len(list((tmp_path / "d").iterdir())) == 2


def test_a_numbered_drawing_does_not_replace_another(bundle, images, tmp_path):
    shutil.copy(images / "a.png", tmp_path / "a-2.png")
    paths = [str(images / "a.png"), str(images / "a.png"), str(tmp_path / "a-2.png")]
    done = CliRunner().invoke(predict, [bundle, *paths, "--heads", "cls", "--draw", str(tmp_path / "d")])
    assert done.exit_code == 0 and len(list((tmp_path / "d").iterdir())) == 3


@pytest.mark.parametrize("name", ["encode", "predict"])
def test_a_damaged_image_does_not_stop_the_others(bundle, images, tmp_path, name):
    (images / "aa.png").write_text("no image")
    (images / "ab.jpg").write_bytes((images / "b.jpg").read_bytes()[:200])
    command = {"encode": encode, "predict": predict}[name]
    more = ["-o", str(tmp_path / "packets")] if name == "encode" else []
    done = CliRunner().invoke(command, [bundle, str(images), *more])
    assert isinstance(done.exception, ImageError) and {"a", "b"} == {
        Path(r.split("\t")[0]).stem for r in done.output.splitlines()
    }
    assert all(fact in str(done.exception) for fact in ("2 of 4 images", "aa.png", "ab.jpg"))
    done = CliRunner().invoke(command, [bundle, str(images / "aa.png"), *more])
    assert isinstance(done.exception, ImageError) and "images failed" not in str(done.exception)


def test_packets_of_a_folder_are_inferred(bundle, images, tmp_path):
    packets = tmp_path / "packets"
    assert CliRunner().invoke(encode, [bundle, str(images), "-o", str(packets)]).exit_code == 0
    done = CliRunner().invoke(infer, [bundle, str(packets), "--heads", "cls"])
    assert done.exit_code == 0 and [Path(line.split("\t")[0]).stem for line in done.output.splitlines()] == ["a", "b"]
    assert "a 0." in done.output or "b 0." in done.output
    done = CliRunner().invoke(infer, [bundle, str(images)])
    assert isinstance(done.exception, CorruptPacket) and "no packet in" in str(done.exception)


def test_encode_takes_a_folder(bundle, images, tmp_path):
    done = CliRunner().invoke(encode, [bundle, str(images), "-o", str(tmp_path / "packets")])
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "packets").iterdir()} == {"a.splitreg", "b.splitreg"}


def test_a_drawing_without_objects_has_a_line_that_says_so():
    image = np.zeros((300, 300, 3), np.uint8)
    nothing = Detections(
        boxes=np.zeros((0, 4), np.float32), scores=np.zeros(0, np.float32), labels=np.zeros(0, np.int64), names=("cat",)
    )
    weak = Detections(
        boxes=np.array([[0, 0, 9, 9]], np.float32), scores=np.array([0.2], np.float32), labels=np.zeros(1, np.int64),
        names=("cat",),
    )  # fmt: skip
    for prediction in (nothing, weak):
        assert prediction.draw(image).shape[0] > 300
    assert (weak.draw(image)[300:] != 0).any()
