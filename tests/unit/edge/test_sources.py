"""Images from files, folders and videos."""

import sys

import numpy as np
import pytest
from PIL import Image

from splitreg.edge import SourceOptions, frames, open_source
from splitreg.edge.sources import without_password
from splitreg.errors import ImageError, MissingExtra, RecipeError, SourceError


def image(path, value=0):
    Image.fromarray(np.full((8, 10, 3), value, np.uint8)).save(path)
    return path


def test_a_folder_in_the_order_of_names(tmp_path):
    for name in ("b.png", "a.jpg", "C.PNG"):
        image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "folder.png").mkdir()
    assert [name for name, _ in frames(tmp_path)] == ["C.PNG", "a.jpg", "b.png"]
    assert list(frames(str(tmp_path / "b.png"))) == [("b.png", tmp_path / "b.png")]


@pytest.mark.parametrize("wrong", ["none.png", "none.mp4", "empty", "bad.mp4"])
def test_what_is_not_there(wrong, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(ImageError):
        list(frames(tmp_path / wrong))


def test_images_in_folders_of_a_folder_are_named(tmp_path):
    for name in ("dark", "labels"):
        (tmp_path / "val" / name).mkdir(parents=True)
    image(tmp_path / "val" / "dark" / "a.jpg")
    with pytest.raises(ImageError, match=r"val; .*val/dark$"):
        list(frames(tmp_path / "val"))


@pytest.mark.parametrize(("source", "every"), [("camera:x", 1), ("camera:", 1), ("camera:-1", 1), ("x.png", 0)])
def test_options_that_are_none(source, every):
    with pytest.raises(RecipeError):
        list(frames(source, every=every))


def test_a_camera_that_is_not_there():
    with pytest.raises(ImageError, match="camera:9871"):
        list(frames("camera:9871"))


def test_a_video_without_what_reads_it(tmp_path, monkeypatch):
    (tmp_path / "v.mp4").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"splitreg\[video\]"):
        list(frames(tmp_path / "v.mp4"))


def test_a_video(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 20 * i, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    images = list(frames(tmp_path / "v.mp4", every=3))
    assert [name for name, _ in images] == [f"v.mp4#{i:06d}" for i in (0, 3, 6, 9)]
    for i, (_, pixels) in zip((0, 3, 6, 9), images, strict=True):
        assert pixels.shape == (48, 64, 3) and abs(float(pixels.mean()) - 20 * i) < 8


def test_images_have_no_time(tmp_path):
    for number, name in enumerate(("a.png", "b.png")):
        image(tmp_path / name, number)
    with open_source(tmp_path) as source:
        listed = [(frame.name, frame.number, frame.seconds, int(frame.image.max())) for frame in source]
    assert not source.live and listed == [("a.png", 0, 0.0, 0), ("b.png", 1, 0.0, 1)]


@pytest.mark.parametrize(
    ("wrong", "value"),
    [("every", 0), ("open_timeout_s", 0), ("retry_s", -1), ("max_offline_s", float("nan")), ("rtsp_transport", "x")],
)
def test_source_options_out_of_range(wrong, value):
    with pytest.raises(RecipeError, match=wrong):
        SourceOptions(**{wrong: value})


@pytest.mark.parametrize("source", ["ftp://user:pw@host/x", "file:///etc/passwd", "concat://a|b", "http://[x/y"])
def test_addresses_of_other_kinds(source):
    with pytest.raises(SourceError) as caught:
        open_source(source, SourceOptions(open_timeout_s=2))
    assert "pw" not in str(caught.value).replace("passwd", "")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://a:b@cam:554/s?user=a&pw=b", "rtsp://cam:554/s"), ("http://a:p@ss@cam/s#x", "http://cam/s"),
        ("camera:0", "camera:0"), ("http://[::1", "http://..."),
    ],
)  # fmt: skip
def test_passwords_are_not_shown(url, shown):
    assert without_password(url) == shown


def test_a_damaged_video_says_so_in_one_line(tmp_path):
    pytest.importorskip("av")
    (tmp_path / "bad.mp4").write_bytes(b"no video\n" * 100)
    with pytest.raises(SourceError, match=r"bad\.mp4") as caught:
        open_source(tmp_path / "bad.mp4")
    assert "\n" not in str(caught.value)
