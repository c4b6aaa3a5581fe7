"""Options of commands that send a stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from splitreg.edge.stream_client import StreamClientOptions

#: Names of ``imaging.RESOLUTIONS``; here without numpy, so that help is fast.
RESOLUTIONS = ("full", "network", "1/2", "1/4", "1/8")
_OPTIONS = (
    click.option("--fps", type=click.FloatRange(0, min_open=True), help="Most frames per second of a stream."),
    click.option("--budget-kbps", type=click.FloatRange(0, min_open=True), help="Most kilobits per second of a stream."),
    click.option("--motion", type=click.FloatRange(0, min_open=True), metavar="GREY",
                 help="Do not send frames in which no part changed by this many grey values."),
    click.option("--tolerance", type=click.FloatRange(0, 0.5), default=0.0, show_default=True,
                 help="Quantisation steps that a stream may be off, to save bytes."),
    click.option("--key-interval-s", type=click.FloatRange(0), default=10.0, show_default=True,
                 help="Seconds between frames of a stream that are coded alone."),
)  # fmt: skip


def stream_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def stream_client_options(given: Mapping[str, Any], *, tracked: bool) -> StreamClientOptions:
    """Return the options of a stream.

    Args:
        given: parameters of a command: those of ``stream_options``, ``rate``, ``budget_ms``, ``min_score``,
            ``resolution``, ``deadline_s``, ``ca`` and ``insecure``.
        tracked: a tracker also uses detections with low scores.
    """
    from splitreg.edge import StreamOptions
    from splitreg.edge.stream_client import StreamClientOptions
    from splitreg.edge.stream_control import Budget

    min_score = given["min_score"]
    return StreamClientOptions(
        stream=StreamOptions(key_interval_s=given["key_interval_s"], tolerance=given["tolerance"], rate=given["rate"]),
        budget=Budget(fps=given["fps"], kbps=given["budget_kbps"], ms=given["budget_ms"]),
        motion=given["motion"],
        min_score=(0.1 if tracked else 0.3) if min_score is None else min_score,
        resolution=given["resolution"] or "network",
        deadline_s=given["deadline_s"],
        ca=given["ca"],
        insecure=given["insecure"],
    )
