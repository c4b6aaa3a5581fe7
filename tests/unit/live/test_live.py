"""Drawn frames, figures, the page, recordings, and the bytes of H.264."""

import http.client
import io
import json
import threading

import av
import numpy as np
import pytest
from PIL import Image

from splitreg.edge.stream_client import FrameAnswer
from splitreg.errors import RecipeError, SplitregError
from splitreg.live import H264Meter, LiveFigures, LivePage, LiveView, Recording
from splitreg.predictions import Classification, Depth, Detections, Segmentation, draw_all

FIGURES = LiveFigures(
    name="a", packet_bytes=90, answer_bytes=40, h264_bytes=1500, total_ms=31.4, fps=10.0, kbps=7.2, answer_kbps=3.2,
    h264_kbps=120.0, frames=7,
)  # fmt: skip


def segmentation(size):
    return Segmentation(mask=np.tile(np.arange(2), (size[0], size[1] // 2)), names=("road", "sky"))


def detections(box):
    return Detections(
        boxes=np.array([box], np.float32), scores=np.array([0.9], np.float32), labels=np.array([0]), names=("car",)
    )


def image(value, size=(260, 300)):
    return np.full((*size, 3), value, np.uint8)


def test_frames_are_joined_with_their_answers_and_rates_are_those_of_the_window():
    times = iter([10.0, 10.5, 11.0, 30.0, 30.5])
    view = LiveView(clock=lambda: next(times))
    frames = [(f"frame {i}", image(i)) for i in range(5)]
    assert [name for name, _ in view.keep(frames)] == [name for name, _ in frames]
    figures = []
    for name, _ in frames:
        drawn, figure = view.show(FrameAnswer(name=name, predictions={}, packet_bytes=100, answer_bytes=50))
        assert drawn.shape[1] == 300 and drawn.shape[0] > 260  # the figures are below
        figures.append(figure)
    assert (figures[0].fps, figures[0].kbps) == (0, 0)
    assert (figures[2].fps, figures[2].kbps, figures[2].answer_kbps) == pytest.approx((2, 1.6, 0.8))
    assert figures[4].frames == 5 and figures[4].fps == pytest.approx(2)  # the pause has left the window
    assert figures[4].h264_bytes is None and figures[4].h264_kbps is None
    assert view.show(FrameAnswer(name="frame 0", predictions={})) is None  # shown already


def test_frames_without_an_answer_are_forgotten():
    view = LiveView()
    for _ in view.keep((str(i), image(0, (8, 8))) for i in range(100)):
        pass
    assert view.show(FrameAnswer(name="0", predictions={})) is None
    assert view.show(FrameAnswer(name="99", predictions={})) is not None


def test_h264_codes_differences_and_survives_another_size():
    meter, noise = H264Meter(), np.random.default_rng(0).integers(0, 255, (65, 97, 3), np.uint8)
    first, second = meter.measure(noise), meter.measure(noise)
    assert first > 2000 and second < first / 10
    assert meter.measure(noise[:32, :32]) > second
    assert meter.measure(noise[:1]) == 0


def test_masks_and_boxes_are_one_drawing_and_depth_is_beside_it():
    pixels, size = image(100), (260, 300)
    mask, box = segmentation(size), detections((40, 40, 90, 90))
    both = draw_all(pixels, {"det": box, "seg": mask})
    np.testing.assert_array_equal(both, box.draw(mask.draw(pixels)))  # the box is on top
    depth = Depth(depth=np.ones(size, np.float32))
    three = draw_all(pixels, {"det": box, "depth": depth, "seg": mask})
    assert three.shape[1] == both.shape[1] + depth.draw(pixels).shape[1]
    np.testing.assert_array_equal(three[: both.shape[0], :300], both)
    np.testing.assert_array_equal(draw_all(pixels, {}), pixels)


def test_predictions_for_an_enlarged_image_are_beside_each_other():
    pixels = image(100, (64, 64))
    mask, box = segmentation((64, 64)), detections((10, 10, 20, 20))
    drawn = draw_all(pixels, {"det": box, "seg": mask})
    assert drawn.shape[1] == mask.draw(pixels).shape[1] + box.draw(pixels).shape[1]


@pytest.fixture
def page():
    with LivePage(0) as page:
        yield page


def get(page, path, host=None):
    connection = http.client.HTTPConnection("127.0.0.1", int(page.url.rpartition(":")[2]), timeout=10)
    connection.request("GET", path, headers={} if host is None else {"Host": host})
    return connection, connection.getresponse()


def test_the_page_shows_frames_and_figures(page):
    _, response = get(page, "/")
    assert response.status == 200 and b"/live.mjpeg" in response.read()
    page.show(image(7), FIGURES)
    _, response = get(page, "/figures")
    assert json.loads(response.read()) == [FIGURES.to_json()]
    connection, response = get(page, "/live.mjpeg")
    assert response.status == 200
    for value in (7, 200):
        assert response.readline().startswith(b"--")
        headers = http.client.parse_headers(response)
        picture = np.asarray(Image.open(io.BytesIO(response.read(int(headers["Content-Length"])))))
        assert abs(int(picture[0, 0, 0]) - value) < 4
        response.readline()
        page.show(image(200), FIGURES)
    connection.close()


def test_other_names_paths_and_too_many_browsers_are_refused(page):
    assert get(page, "/", host="evil.example")[1].status == 403
    assert get(page, "/etc/passwd")[1].status == 404
    connections = [get(page, "/live.mjpeg") for _ in range(8)]
    assert [response.status for _, response in connections] == [200] * 8
    assert get(page, "/live.mjpeg")[1].status == 503


def test_a_port_in_use_is_one_error(page):
    with pytest.raises(SplitregError, match=page.url.rpartition(":")[2]):
        LivePage(int(page.url.rpartition(":")[2]))


def test_closing_ends_waiting_browsers():
    page = LivePage(0)
    _, response = get(page, "/live.mjpeg")
    ended = threading.Thread(target=response.read, daemon=True)
    ended.start()
    page.close()
    ended.join(5)
    assert not ended.is_alive()


@pytest.mark.parametrize("suffix", [".mp4", ".webp"])
def test_a_recording_has_all_frames_and_appears_at_the_end(tmp_path, suffix):
    path = tmp_path / "new" / f"clip{suffix}"
    recording = Recording(path, 10)
    for i in range(12):
        recording.add(image(20 * i, (65 + i % 2, 80)))
    assert not path.exists()
    recording.close()
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    if suffix == ".webp":
        with Image.open(path) as animation:
            assert animation.n_frames == 12
    else:
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert [frame.shape for frame in frames] == [(64, 80, 3)] * 12
        assert frames[11].mean() > 150 > 60 > frames[0].mean()


def test_a_recording_without_frames_writes_nothing(tmp_path):
    Recording(tmp_path / "clip.mp4", 10).close()
    assert list(tmp_path.iterdir()) == []


def test_a_recording_of_another_kind_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"\.avi"):
        Recording(tmp_path / "clip.avi", 10)


def test_a_class_is_written_below():
    drawn = draw_all(image(0), {"cls": Classification(probabilities=np.array([1.0], np.float32), names=("cat",))})
    assert drawn.shape[0] > 260
