"""``splitreg send``: send images to a service and print its predictions; never torch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitreg.cli.encode_ import context_option
from splitreg.cli.stream_options import RESOLUTIONS, stream_client_options, stream_options
from splitreg.cli.tables import brief
from splitreg.cli.tracking_options import Follower, TrackingOptions, follow_frames, tracking_options
from splitreg.cli.writing import stem_of, write_drawings, write_output

if TYPE_CHECKING:
    from splitreg.edge import Answer, Client
    from splitreg.errors import SplitregError
    from splitreg.imaging import ImageLike

_WHEN_FULL = ("refuse", "drop-oldest")


@click.command("send")
@click.argument("bundle", type=click.Path())
@click.argument("images", nargs=-1, metavar="IMAGE...", type=click.Path())
@click.option("--to", "url", required=True, metavar="URL", help="Address of the service, such as https://server:8080.")
@click.option("--heads", metavar="NAME,...", help="Heads to compute.  [default: all]")
@click.option("--min-score", type=click.FloatRange(0, 1),
              help="Smallest score of returned detections.  [default: 0; with --stream 0.3, or 0.1 if tracked]")  # fmt: skip
@click.option(
    "--rate", type=float, help="0 (fewest bytes) to 1 (most), if BUNDLE has several rates.  [default: middle]"
)
@click.option("--budget-bytes", type=click.IntRange(min=1), help="Use the largest rate within this packet size.")
@click.option("--budget-ms", type=float, help="Use the largest rate whose answer usually arrives in time.")
@click.option("--draw", type=click.Path(file_okay=False), help="Folder for drawings of the predictions.")
@click.option("--answers", type=click.Path(file_okay=False), help="Folder for answers, one NAME.json per image.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per image, one per line.")
@click.option("--outbox", type=click.Path(dir_okay=False), help="Keep packets in this file until they are answered.")
@click.option("--when-full", type=click.Choice(_WHEN_FULL), default="refuse", show_default=True,
              help="What to do when the outbox is full.")  # fmt: skip
@click.option("--deadline-s", type=float, default=10.0, show_default=True,
              help="Seconds per image, retries included.")  # fmt: skip
@click.option("--token-file", type=click.Path(), help="File with the token.  [default: the variable SPLITREG_TOKEN]")
@click.option("--ca", type=click.Path(), help="PEM file of trusted authorities.  [default: the system's]")
@click.option("--insecure", is_flag=True, help="Allow a token without TLS, and any certificate.")
@click.option("--every", type=click.IntRange(min=1), default=1, metavar="N",
              help="Send one frame out of N of a video or camera.")  # fmt: skip
@click.option("--compact", is_flag=True, help="Ask for small answers: rounded boxes and scores, exact masks.")
@click.option("--resolution", type=click.Choice(RESOLUTIONS), help="Size of masks in answers.  [default: full]")
@context_option
@click.option("--escalate", is_flag=True, help="Send only images of which the bundle's local head is not sure.")
@click.option("--threshold", type=click.FloatRange(0, 1),
              help="Smallest confidence of a local answer.  [default: the calibrated one]")  # fmt: skip
@click.option("--stream", is_flag=True, help="Send frames over one WebSocket, each coded given the ones before.")
@stream_options
@tracking_options
def command(
    bundle: str, images: tuple[str, ...], url: str, heads: str | None, min_score: float | None, rate: float | None,
    budget_bytes: int | None, budget_ms: float | None, draw: str | None, answers: str | None, as_json: bool,
    outbox: str | None, when_full: str, deadline_s: float, token_file: str | None, ca: str | None, insecure: bool,
    every: int, compact: bool, resolution: str | None, stream: bool, fps: float | None, budget_kbps: float | None,
    motion: float | None, tolerance: float, key_interval_s: float, tracking: TrackingOptions,
    escalate: bool, threshold: float | None, context: bool,
) -> None:  # fmt: skip
    """Send images to a service and print its predictions.

    Loads only the edge half of BUNDLE. IMAGE is an image, a folder, a video, rtsp://, http:// (MJPEG, HLS, files),
    camera:0, or - (standard input); all but the first two need 'splitreg[video]'. Cameras are read newest frame first
    and are opened again when they are lost. With --outbox, packets are kept in a file while there is no connection and
    are sent in order; without IMAGE, the packets of the outbox are sent.

    \b
    splitreg send my-bundle photo.jpg --to http://localhost:8080
    splitreg send my-bundle camera:0 --to http://localhost:8080 --stream --motion 6 --budget-kbps 40
    splitreg send my-bundle images --to http://localhost:8080 --heads seg --draw drawn --outbox waiting.db
    splitreg send my-bundle rtsp://cam/1 --to http://localhost:8080 --events --zone door=0,0,80,200
    """
    from splitreg.cli.send_stream import StreamTarget, send_stream
    from splitreg.edge import Client, ClientOptions, EdgeEncoder, EscalatingClient, LocalHead, Outbox, upload
    from splitreg.edge.transport import read_token

    _check_options(click.get_current_context().params)
    names = None if heads is None else tuple(heads.split(","))
    token = None if token_file is None else read_token(token_file)
    following = Follower(tracking) if tracking else contextlib.nullcontext()
    if stream:
        options = stream_client_options(click.get_current_context().params, tracked=bool(tracking))
        target = StreamTarget(bundle=bundle, url=url, heads=names, token=token, context=context)
        with following as follower:
            send_stream(target, follow_frames(images, every, follower), options, as_json=as_json, follower=follower)
        return
    local = LocalHead.open(bundle, threshold=threshold) if escalate else None
    if local is not None:
        names = names or (local.head,)
    client = (EscalatingClient if escalate else Client)(
        url,
        EdgeEncoder.open(bundle, context=context) if images else None,
        heads=names,
        token=token,
        options=ClientOptions(
            min_score=min_score or 0.0, compact=compact, resolution=resolution or "full", deadline_s=deadline_s, ca=ca,
            insecure=insecure,
        ),
    )  # fmt: skip
    if isinstance(client, EscalatingClient):
        client.local = local
    with client, following as follower:
        printer = _Printer(as_json, draw, answers, follower)
        if outbox is not None:
            printer.keep_frames = False  # many may be queued
            client.outbox = Outbox(outbox, when_full=when_full)
        budget = {"rate": rate, "budget_bytes": budget_bytes, "budget_ms": budget_ms}
        report = upload(client, _named_images(images, every, printer), printer, on_error=_print_error, rate=budget)
        if isinstance(client, EscalatingClient):
            click.echo(f"{client.answered} answered on the device, {client.escalated} sent", err=True)
        _check(client, report.failed, report.left, printer, f"splitreg send {bundle} --to {url} --outbox {outbox}")


def _check_options(given: Mapping[str, Any]) -> None:
    """Refuse options that need or exclude another one."""
    if given["threshold"] is not None and not given["escalate"]:
        raise click.UsageError("--threshold is that of the local head; add --escalate")
    if given["escalate"] and (given["outbox"] is not None or given["stream"]):
        raise click.UsageError("--escalate excludes --outbox and --stream")
    if given["stream"]:
        if not given["images"]:
            raise click.UsageError("--stream needs a source: a video, a camera, or images")
        for name in ("outbox", "draw", "answers", "budget_bytes"):
            if given[name] is not None:
                watch = "; to see a stream: splitreg watch" if name == "draw" else ""
                raise click.UsageError(f"--stream excludes --{name.replace('_', '-')}{watch}")
        return
    if any(given[name] is not None for name in ("fps", "budget_kbps", "motion")) or given["tolerance"]:
        raise click.UsageError("--fps, --budget-kbps, --motion and --tolerance require --stream")
    if not given["images"] and given["outbox"] is None:
        raise click.UsageError("name an image, a folder, a video or a camera; or --outbox FILE, to send its packets")


def _check(client: Client, failed: int, left: int, printer: _Printer, again: str) -> None:
    """Report dropped packets; raise if something was not sent or not answered.

    Raises:
        SplitregError: packets are left, images failed, or packets were refused.
    """
    from splitreg.errors import SplitregError

    outbox = client.outbox
    if outbox is None:
        if failed:
            raise SplitregError(f"no answer for {failed} of {printer.count + failed} images")
        return
    if outbox.dropped:
        click.echo(f"{outbox.dropped} packets were dropped since {outbox.path} was created", err=True)
    if left:
        raise SplitregError(f"{left} packets are left in {outbox.path}; send them with: {again}")
    if failed or printer.refused:
        raise SplitregError(f"{failed} images failed, {printer.refused} packets were refused")


def _print_error(name: str, error: SplitregError) -> None:
    click.echo(f"{name}: {error}", err=True)


class _Printer:
    """Prints, writes and draws answers; with a follower, with identities."""

    def __init__(self, as_json: bool, draw: str | None, answers: str | None, follower: Follower | None = None) -> None:
        self.as_json = as_json
        self.follower = follower
        self.draw = None if draw is None else Path(draw)
        self.answers = None if answers is None else Path(answers)
        self.images: dict[str, Any] = {}  # to draw on
        self.keep_frames = True
        self.count = self.refused = 0
        self.notes: set[str] = set()  # each is printed once

    def __call__(self, answer: Answer) -> None:
        self.refused += answer.error is not None
        self.count += 1
        if self.follower is not None and answer.error is None:
            answer = replace(answer, predictions=self.follower.follow(answer.name, answer.predictions))
        table = answer.to_json()
        if self.answers is not None:
            write_output(self.answers / f"{stem_of(answer.name)}.json", json.dumps(table, indent=1).encode())
        if self.as_json:
            click.echo(json.dumps(table))
        elif self.follower is None or not self.follower.options.events or answer.error is not None:
            click.echo("\n".join(self._lines(answer)))
        if self.draw is not None:
            self._draw(answer, self.draw)
        self.images.pop(answer.name, None)

    @staticmethod
    def _lines(answer: Answer) -> Iterator[str]:
        if answer.error is not None:
            yield f"{answer.name}\terror\t{answer.error}"
            return
        times = answer.times
        yield (
            f"{answer.name}\t{answer.packet_bytes} bytes\t{times.total_ms:.0f} ms (encode {times.encode_ms:.0f}, "
            f"link {times.link_ms:.0f}, queue {times.queue_ms:.0f}, compute {times.compute_ms:.0f})"
        )
        for head, prediction in answer.predictions.items():
            yield f"{answer.name}\t{head}\t{brief(prediction)}"

    def _draw(self, answer: Answer, folder: Path) -> None:
        from splitreg import imaging
        from splitreg.predictions import GenericPrediction

        if not answer.predictions:
            return
        image = self.images.get(answer.name)
        if image is None:  # submitted by another run, or a frame
            click.echo(f"{answer.name} is not drawn: its image is not available", err=True)
            return
        for head, prediction in answer.predictions.items():
            note = prediction.note if isinstance(prediction, GenericPrediction) else ""
            if note and note not in self.notes:
                self.notes.add(note)
                click.echo(f"head {head}: {note}", err=True)
        list(write_drawings(folder, stem_of(answer.name), imaging.read(image), answer.predictions))


def _named_images(sources: tuple[str, ...], every: int, printer: _Printer) -> Iterator[tuple[str, ImageLike]]:
    """Yield (name, image); two images that would be written to one file are a usage error."""
    stems: set[str] = set()
    for name, image in follow_frames(sources, every, printer.follower):
        if printer.draw is not None or printer.answers is not None:
            if stem_of(name) in stems:
                raise click.UsageError(f"two images would be written as {stem_of(name)}; send them in two runs")
            stems.add(stem_of(name))
            if printer.draw is not None and (printer.keep_frames or isinstance(image, Path)):
                printer.images[name] = image
        yield name, image
