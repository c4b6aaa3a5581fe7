"""``splitreg demo``: the main job in a few minutes."""

from __future__ import annotations

import click

from splitreg.cli.tables import table


@click.command("demo")
@click.option("-o", "--output", default="splitreg-demo", show_default=True, type=click.Path(file_okay=False))
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change the recipe, e.g. stages.0.epochs=2."
)
@click.option("--quiet", is_flag=True, help="No progress bars.")
def command(output: str, overrides: tuple[str, ...], quiet: bool) -> None:
    """Train class, boxes and mask on drawn scenes, publish, run the halves in two processes, write an HTML report.

    Takes a few minutes on two cores. A demo that was stopped goes on when it is called again.

    \b
    splitreg demo
    splitreg demo -o somewhere --set stages.0.epochs=2
    """
    from splitreg.demo import demo

    done = demo(output, overrides=overrides, progress=not quiet, say=lambda line: click.echo(line, err=True))
    ours = done.packet_bytes
    click.echo(table(("sent", "bytes an image", ""), [(k, f"{v:.0f}", f"{v / ours:.1f}x") for k, v in done.rates]))
    click.echo()
    rows = [(head, name, f"{value:.3f}") for head, values in done.metrics.items() for name, value in values.items()]
    click.echo(table(("head", "metric", "value"), rows))
    click.echo(f"\nbundle  {done.bundle}\nreport  {done.report}\n{done.seconds:.0f} s")
