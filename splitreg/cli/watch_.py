"""``splitreg watch``: a live stream with its predictions, bytes and rates."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitreg.cli.send_stream import summary
from splitreg.cli.stream_options import RESOLUTIONS, stream_client_options, stream_options
from splitreg.cli.tracking_options import Follower, TrackingOptions, follow_frames, tracking_options

if TYPE_CHECKING:
    from splitreg.edge.stream_client import FrameAnswer
    from splitreg.live import LivePage, LiveView, Recording


@click.command("watch")
@click.argument("bundle", type=click.Path())
@click.argument("source", type=click.Path())
@click.option("--to", "url", required=True, metavar="URL", help="Address of the service, such as https://server:8080.")
@click.option("--port", type=click.IntRange(0, 65535), default=8090, show_default=True,
              help="Port of the page on this machine; 0: a free one.")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True,
              help="Address of the page. Others than the default show your camera to the network.")  # fmt: skip
@click.option("--no-page", is_flag=True, help="Serve no page, for --record.")
@click.option(
    "--record", type=click.Path(dir_okay=False), metavar="FILE", help="Write the drawn frames to .mp4 or .webp."
)
@click.option("--no-h264", is_flag=True, help="Do not code the frames as H.264 for comparison.")
@click.option("--heads", metavar="NAME,...", help="Heads to compute.  [default: all]")
@click.option("--min-score", type=click.FloatRange(0, 1),
              help="Smallest score of returned detections.  [default: 0.3, or 0.1 if tracked]")  # fmt: skip
@click.option("--rate", type=float, help="0 (fewest bytes) to 1 (most), if BUNDLE has several rates.")
@click.option("--budget-ms", type=click.FloatRange(0, min_open=True),
              help="Milliseconds from image to predictions for 95 % of the frames.")  # fmt: skip
@click.option("--resolution", type=click.Choice(RESOLUTIONS), help="Size of masks in answers.  [default: network]")
@click.option("--deadline-s", type=click.FloatRange(0, min_open=True), default=10.0, show_default=True,
              help="Seconds without an answer.")  # fmt: skip
@click.option("--token-file", type=click.Path(), help="File with the token.  [default: the variable SPLITREG_TOKEN]")
@click.option("--ca", type=click.Path(), help="PEM file of trusted authorities.  [default: the system's]")
@click.option("--insecure", is_flag=True, help="Allow a token without TLS, and any certificate.")
@click.option("--every", type=click.IntRange(min=1), default=1, metavar="N", help="One frame out of N.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures of each frame as JSON, one per line.")
@stream_options
@tracking_options
def command(
    bundle: str, source: str, url: str, port: int, host: str, no_page: bool, record: str | None, no_h264: bool,
    heads: str | None, token_file: str | None, every: int, as_json: bool, fps: float | None, tracking: TrackingOptions,
    **_: Any,
) -> None:  # fmt: skip
    """Show a stream with its predictions and bytes.

    The bytes are compared with those of the same frames as H.264.

    SOURCE is a video, rtsp://, http:// (MJPEG, HLS, files), camera:0 or a folder of images, as for splitreg send. The
    frames go to the service as with splitreg send --stream; the drawings are on a page on this machine.

    \b
    splitreg watch zoo:splitreg-camvid camera:0 --to http://localhost:8080 --track
    splitreg watch my-bundle street.mp4 --to http://localhost:8080 --fps 10 --no-page --record seen.mp4
    """
    from splitreg.edge import EdgeEncoder
    from splitreg.edge.stream_client import StreamClient
    from splitreg.edge.transport import read_token
    from splitreg.live import H264Meter, LivePage, LiveView, Recording

    if no_page and record is None and not as_json:
        raise click.UsageError("--no-page needs --record or --json")
    options = stream_client_options(click.get_current_context().params, tracked=bool(tracking))
    names = None if heads is None else tuple(heads.split(","))
    token = None if token_file is None else read_token(token_file)
    view = LiveView(None if no_h264 else H264Meter())
    client = StreamClient(url, EdgeEncoder.open(bundle), heads=names, token=token, options=options)
    with contextlib.ExitStack() as stack:
        follower = stack.enter_context(Follower(tracking)) if tracking else None
        recording = (
            None if record is None else stack.enter_context(contextlib.closing(Recording(Path(record), fps or 10)))
        )
        page = None if no_page else stack.enter_context(LivePage(port, host))
        if page is not None:
            click.echo(f"watch at {page.url} (Ctrl-C ends)", err=True)
        show = _Output(view, follower, page, recording, as_json)
        with contextlib.suppress(KeyboardInterrupt):  # the usual way to end a camera's stream
            client.run(view.keep(follow_frames([source], every, follower)), show)
    click.echo(summary(client.report), err=True)


class _Output:
    """Shows, records and prints each answer."""

    def __init__(
        self,
        view: LiveView,
        follower: Follower | None,
        page: LivePage | None,
        recording: Recording | None,
        as_json: bool,
    ) -> None:
        self._view, self._follower, self._page, self._recording = view, follower, page, recording
        self._as_json = as_json

    def __call__(self, answer: FrameAnswer) -> None:
        if self._follower is not None:
            answer = replace(answer, predictions=self._follower.follow(answer.name, answer.predictions))
        shown = self._view.show(answer)
        if shown is None:
            return
        drawn, figures = shown
        if self._page is not None:
            self._page.show(drawn, figures)
        if self._recording is not None:
            self._recording.add(drawn)
        if self._as_json:
            click.echo(json.dumps(figures.to_json()))
