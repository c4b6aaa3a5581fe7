"""Images from files, folders and videos."""

import sys

import numpy as np
import pytest
from PIL import Image

from splitreg.edge import frames
from splitreg.errors import ImageError, MissingExtra, RecipeError


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
