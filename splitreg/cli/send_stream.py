"""``splitreg send --stream``: the frames of a camera or a video over one WebSocket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from splitreg.cli.tables import brief

if TYPE_CHECKING:
    from splitreg.cli.tracking_options import Follower
    from splitreg.edge.stream_client import FrameAnswer, StreamClientOptions, StreamReport
    from splitreg.imaging import ImageLike


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamTarget:
    """Where a stream goes, and what it asks for.

    Args:
        bundle: with the edge half.
        url: of the server.
        heads: names of heads; None: all.
        token: None: the variable SPLITREG_TOKEN, if set.
        context: use the model's context network, if it has one.
    """

    bundle: str
    url: str
    heads: tuple[str, ...] | None
    token: str | None
    context: bool = True


def send_stream(
    target: StreamTarget,
    frames: Iterator[tuple[str, ImageLike]],
    options: StreamClientOptions,
    *,
    as_json: bool,
    follower: Follower | None = None,
) -> None:
    """Send frames and print their answers, one line each, and a summary on stderr.

    With a follower, answers have identities and events are printed.

    Raises:
        SplitregError: the bundle, the source or the server refuse.
    """
    from splitreg.edge import EdgeEncoder
    from splitreg.edge.stream_client import StreamClient

    client = StreamClient(
        target.url,
        EdgeEncoder.open(target.bundle, context=target.context),
        heads=target.heads,
        token=target.token,
        options=options,
    )

    def print_answer(answer: FrameAnswer) -> None:
        if follower is not None:
            answer = replace(answer, predictions=follower.follow(answer.name, answer.predictions))
            if follower.options.events and not as_json:
                return
        click.echo(json.dumps(answer.to_json()) if as_json else _line(answer))

    try:
        client.run(frames, print_answer)
    except KeyboardInterrupt:
        pass  # the usual way to end a camera's stream
    click.echo(summary(client.report), err=True)


def _line(answer: FrameAnswer) -> str:
    kind = "unchanged" if answer.repeated else f"{answer.packet_bytes} bytes{' (key)' if answer.key else ''}"
    heads = "\t".join(f"{head}: {brief(prediction)}" for head, prediction in answer.predictions.items())
    return f"{answer.name}\t{kind}\t{answer.answer_bytes} bytes back\t{answer.total_ms:.0f} ms\t{heads}"


def summary(report: StreamReport) -> str:
    """Return what happened to the frames of a stream, in one line."""
    frames = report.answered + report.repeated + report.lost
    seconds = max(report.seconds, 1e-6)
    return (
        f"{frames} frames in {seconds:.1f} s: {report.answered} answered, {report.repeated} unchanged, {report.lost} lost; "
        f"{report.keys} key frames, {report.connections} connections; {report.sent_bytes} bytes sent "
        f"({report.sent_bytes * 8 / 1000 / seconds:.1f} kbit/s), {report.received_bytes} received"
    )
