"""``splitreg bridge``: let other software use a far server; never torch."""

from __future__ import annotations

from contextlib import suppress

import click


@click.group("bridge")
def command() -> None:
    """Connect other software to a splitreg server.

    \b
    pip install 'splitreg[frigate]'
    splitreg bridge frigate my-bundle --to https://server:8443
    """


@command.command("frigate")
@click.argument("bundle", type=click.Path())
@click.option("--to", "url", required=True, metavar="URL", help="Address of the splitreg server.")
@click.option("--protocol", type=click.Choice(("zmq", "deepstack")), default="zmq", show_default=True,
              help="Type of the detector in Frigate's configuration.")  # fmt: skip
@click.option("--listen", metavar="ADDRESS",
              help="Where Frigate connects.  [default: ipc:///tmp/cache/zmq_detector, or 127.0.0.1:5000]")  # fmt: skip
@click.option("--head", default="det", show_default=True, help="Head with boxes.")
@click.option("--labels", type=click.Path(exists=True, dir_okay=False), metavar="FILE",
              help="Frigate's label map.  [default: the order of the head's classes]")  # fmt: skip
@click.option("--min-score", type=click.FloatRange(0, 1), default=0.3, show_default=True, help="Smallest score.")
@click.option("--timeout-ms", type=click.FloatRange(0, min_open=True), default=180.0, show_default=True,
              help="Reply without objects after this time.")  # fmt: skip
@click.option("--rate", type=click.FloatRange(0, 1), help="0 (fewest bytes) to 1 (most), if BUNDLE has several rates.")
@click.option("--token-file", type=click.Path(), help="File with the token.  [default: the variable SPLITREG_TOKEN]")
def frigate(
    bundle: str, url: str, protocol: str, listen: str | None, head: str, labels: str | None, min_score: float,
    timeout_ms: float, rate: float | None, token_file: str | None,
) -> None:  # fmt: skip
    """Detect objects for Frigate by a far server.

    Frigate sends its images to this command, which encodes them and sends packets to the server. Runs until Ctrl-C.

    \b
    splitreg bridge frigate my-bundle --to https://server:8443
    splitreg bridge frigate my-bundle --to https://server:8443 --protocol deepstack --listen 127.0.0.1:5000
    """
    from pathlib import Path

    from splitreg.edge import EdgeEncoder
    from splitreg.edge.frigate import PROTOCOLS, FrigateBridge, FrigateOptions, read_labels, run
    from splitreg.edge.transport import read_token

    token = None if token_file is None else read_token(token_file)
    options = FrigateOptions(
        head=head, min_score=min_score, timeout_s=timeout_ms / 1000, rate=rate,
        labels=None if labels is None else read_labels(Path(labels)),
    )  # fmt: skip
    bridge = FrigateBridge(url, EdgeEncoder.open(bundle), token=token, options=options)
    with suppress(KeyboardInterrupt):
        run(
            bridge, protocol, listen or PROTOCOLS[protocol], lambda place: click.echo(f"listening on {place}", err=True)
        )
    report = bridge.report
    click.echo(
        f"{report.answered} answered, {report.failed} without an answer; {report.received_bytes} bytes received, "
        f"{report.sent_bytes} sent", err=True,
    )  # fmt: skip
