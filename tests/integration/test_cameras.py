"""Cameras: a real RTSP server that stalls, dies and returns, MJPEG and HLS over HTTP, standard input."""

import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner
from support.http_video import HttpCamera, jpeg, until, write_video
from support.rtsp_server import RtspServer, is_installed
from support.serving_toys import running

from splitreg.cli.send_ import command
from splitreg.edge import SourceOptions, open_source
from splitreg.errors import SourceError
from splitreg.serving.local import LocalBackend

pytestmark = pytest.mark.integration
needs_rtsp = pytest.mark.skipif(not is_installed(), reason="GStreamer's RTSP server is not installed")
BUNDLE = "zoo:splitreg-camvid"
QUICK = SourceOptions(open_timeout_s=5, read_timeout_s=1.5, retry_s=0.1, max_retry_s=0.3)


def take(source, count):
    return list(itertools.islice(source, count))


@needs_rtsp
@pytest.mark.parametrize(("path", "transport"), [("h264", "tcp"), ("jpeg", "tcp"), ("h264", "udp")])
def test_rtsp(path, transport):
    with RtspServer() as server:
        options = SourceOptions(rtsp_transport=transport)
        with open_source(server.url(path), options) as source:
            assert source.live
            frames = take(source, 10)
    assert all(frame.image.shape == (48, 64, 3) for frame in frames)
    assert frames[0].name == f"127-0-0-1-{server.port}-{path}#000000" and frames[0].seconds == 0
    assert all(a.number < b.number and a.seconds < b.seconds for a, b in itertools.pairwise(frames))
    assert 0.2 < frames[-1].seconds < 5, "20 frames per second"


@needs_rtsp
def test_the_newest_frame_wins():
    with RtspServer() as server, open_source(server.url()) as source:
        first = next(source)
        time.sleep(1.5)
        second = next(source)
        assert second.number >= first.number + 10 and second.skipped == second.number - first.number - 1
        assert source.dropped >= 9
        third = next(source)
        assert third.seconds - second.seconds < 1, "nothing has piled up"


@needs_rtsp
def test_a_server_that_dies_and_returns(caplog):
    with RtspServer() as server, open_source(server.url(), QUICK) as source:
        before = take(source, 3)[-1]
        server.kill()
        timer = threading.Timer(1.0, lambda: restarted.append(RtspServer(server.port)))
        restarted = []
        timer.start()
        after = take(source, 40)[-1]
        timer.join()
        restarted[0].kill()
        assert source.reconnects == 1
        assert after.number > before.number and after.seconds > before.seconds + 1
    assert any(record.levelno == logging.WARNING for record in caplog.records)


@needs_rtsp
def test_a_server_that_stalls_and_goes_on():
    with RtspServer() as server, open_source(server.url(), QUICK) as source:
        take(source, 3)
        server.stall()
        threading.Timer(4.0, server.resume).start()
        until(lambda: next(source) and source.reconnects >= 1)
        assert take(source, 3)[-1].image.shape == (48, 64, 3)


@needs_rtsp
def test_a_source_that_stays_away_is_given_up():
    options = SourceOptions(read_timeout_s=1, retry_s=0.1, max_offline_s=1.0)
    with RtspServer() as server, open_source(server.url(), options) as source:
        take(source, 3)
        server.kill()
        with pytest.raises(SourceError, match="offline"):
            take(source, 100)


@needs_rtsp
def test_what_the_server_does_not_have():
    with RtspServer() as server:
        url = server.url("nothing").replace("rtsp://", "rtsp://admin:hunter2@")
        with pytest.raises(SourceError, match="/nothing") as caught:
            open_source(url)
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_nobody_answers_or_listens(scheme):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/x"
        start = time.monotonic()
        with pytest.raises(SourceError, match="did not answer within 0.5 s"):
            open_source(url, SourceOptions(open_timeout_s=0.5))
        assert time.monotonic() - start < 5
    with pytest.raises(SourceError, match="refused"):
        open_source(url, SourceOptions(open_timeout_s=2))


def test_mjpeg_over_http_that_ends_is_opened_again(tmp_path):
    with HttpCamera(tmp_path, frames=20) as camera, open_source(camera.url(), QUICK) as source:
        assert source.live
        frames = take(source, 45)
        assert source.reconnects >= 2 and camera.connections >= 3
    assert all(a.number < b.number and a.seconds < b.seconds for a, b in itertools.pairwise(frames))
    assert frames[0].image.shape == (48, 64, 3)


def test_a_camera_is_closed_while_it_is_read(tmp_path):
    with HttpCamera(tmp_path) as camera:
        source = open_source(camera.url(), QUICK)
        taken = take(source, 2)
        start = time.monotonic()
        source.close()
        assert time.monotonic() - start < 3
        assert list(source) == [] and len(taken) == 2
        until(lambda: not any(thread.name == "capture" for thread in threading.enumerate()))


def test_files_and_recorded_hls_over_http_lose_no_frame(tmp_path):
    write_video(tmp_path / "v.mp4")
    write_video(tmp_path / "v.m3u8", 30, hls_time="1", hls_list_size="0")
    (tmp_path / "still.jpg").write_bytes(jpeg(90))
    with HttpCamera(tmp_path) as camera:
        for path, count in (("v.mp4", 10), ("v.m3u8", 30), ("still.jpg", 1)):
            with open_source(camera.url(path)) as source:
                assert not source.live
                frames = list(source)
            assert len(frames) == count
        assert abs(float(frames[0].image.mean()) - 90) < 3
        with open_source(camera.url("v.m3u8"), SourceOptions(every=10)) as source:
            frames = list(source)
        assert [frame.number for frame in frames] == [0, 10, 20] and frames[1].skipped == 9
        assert [frame.seconds for frame in frames] == pytest.approx([0, 1, 2])


def test_a_live_playlist_grows_and_becomes_a_recording(tmp_path):
    write_video(tmp_path / "v.m3u8", 60, hls_time="0.5", hls_list_size="0")
    whole = (tmp_path / "v.m3u8").read_text()
    live = whole.replace("#EXT-X-ENDLIST\n", "").replace("#EXT-X-PLAYLIST-TYPE:VOD\n", "")
    (tmp_path / "live.m3u8").write_text(live)
    with HttpCamera(tmp_path) as camera, open_source(camera.url("live.m3u8"), QUICK) as source:
        assert source.live
        take(source, 1)
        (tmp_path / "live.m3u8").write_text(whole)
        assert len(list(source)) >= 0, "it ends with the recording"


@pytest.mark.parametrize("live", [True, False])
def test_live_can_be_chosen(live, tmp_path):
    write_video(tmp_path / "v.ts", 20)
    with HttpCamera(tmp_path) as camera, open_source(camera.url("v.ts"), SourceOptions(live=live)) as source:
        assert source.live is live
        assert next(source).number == 0 or live


@pytest.mark.parametrize("kind", ["ts", "mjpeg", "jpeg", "text"])
def test_standard_input(kind, tmp_path):
    if kind == "jpeg":
        data, expected = jpeg(90), "1"
    elif kind == "text":
        data, expected = b"no video\n" * 1000, "standard input"
    else:
        codec = "mjpeg" if kind == "mjpeg" else "libx264"
        data, expected = write_video(tmp_path / f"v.{kind}", codec=codec).read_bytes(), "10"
    code = (
        "from splitreg.edge import open_source\nfrom splitreg.errors import SourceError\n"
        "try:\n    print(len(list(open_source('-'))))\nexcept SourceError as error:\n    print(error)"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, env=environment, timeout=60)
    assert done.stderr == b"" and expected in done.stdout.decode()


@pytest.mark.parametrize("way", [[], ["--stream"]])
def test_objects_keep_identities_on_their_way_through_a_server(way, tmp_path):
    clip = write_video(tmp_path / "v.mp4", 6, values=lambda i: 120)
    with running(LocalBackend, bundles=(BUNDLE,), workers=1) as server:
        arguments = [BUNDLE, str(clip), "--to", f"http://127.0.0.1:{server.port}", "--heads", "det", "--min-score", "0"]
        arguments += ["--track-score", "0"]
        done = CliRunner().invoke(command, [*arguments, *way, "--track", "--json"])
        assert done.exception is None, done.output
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        objects = [{item["id"] for item in row["predictions"]["det"]["objects"]} for row in rows]
        assert len(rows) == 6 and len(objects[0] & objects[5]) > 0.5 * len(objects[0]) > 0, "a still picture"
        done = CliRunner().invoke(command, [*arguments, *way, "--events"])
        assert done.exception is None, done.output
        events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
        assert events.count("enter") == events.count("leave") > 0
