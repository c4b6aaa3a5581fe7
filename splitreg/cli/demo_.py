"""``splitreg demo``: train, publish and run a small model in a few minutes."""

from __future__ import annotations

import click

from splitreg.cli.tables import table


@click.command("demo")
@click.option(
    "-o",
    "--output",
    default="splitreg-demo",
    show_default=True,
    type=click.Path(file_okay=False),
    help="Folder of the model and the report.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the recipe, e.g. stages.0.epochs=2."
)
@click.option("--quiet", is_flag=True, help="No progress output.")
def command(output: str, overrides: tuple[str, ...], quiet: bool) -> None:
    """Train, publish and run a small model; write a report.

    Trains classification, detection and segmentation on procedural scenes, publishes the model, runs its two halves in
    two processes, and writes an HTML report. Takes a few minutes on two CPU cores; prints an estimate after the first
    steps. A demo that was stopped continues when it is called again.

    \b
    splitreg demo
    splitreg demo -o somewhere --set stages.0.epochs=2
    """
    from splitreg.demo import demo

    result = demo(output, overrides=overrides, progress=not quiet)
    packet = result.packet_bytes
    rows = [(name, f"{size:.0f}", f"{size / packet:.1f}x") for name, size in result.rates]
    click.echo(table(("sent", "bytes per image", "relative"), rows))
    click.echo()
    metrics = [
        (head, name, "-" if value is None else f"{value:.3f}")
        for head, values in result.metrics.items()
        for name, value in values.items()
    ]
    click.echo(table(("head", "metric", "value"), metrics))
    click.echo(f"\nbundle  {result.bundle}\nreport  {result.report}\n{result.seconds:.0f} s")
