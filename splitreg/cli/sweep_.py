"""``splitreg sweep``: train every point of a recipe's sweep, and draw its curve."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitreg.cli.tables import print_json, table

if TYPE_CHECKING:
    from splitreg.sweep import SweepPoint


@click.command("sweep")
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder: a folder a point in it.")
@click.option("--on", type=click.Choice(("local", "ray")), default="local", show_default=True, help="What trains.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Points at a time.")
@click.option(
    "--retries", type=click.IntRange(min=0), default=2, show_default=True, help="For a point whose process is killed."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any key, e.g. sweep.rate_lambda=[0.1,1].")
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--workers", default=0, show_default=True, help="Processes a point that load batches ahead.")
@click.option(
    "--validate-every",
    default=1,
    show_default=True,
    type=click.IntRange(min=0),
    help="Epochs between validations; 0: none.",
)
@click.option("--bench/--no-bench", default=True, show_default=True, help="Measure the finished points into DIR/bench.")
@click.option("--limit", type=click.IntRange(min=1), help="Measure only so many images.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="No talk on stderr.")
def command(
    recipe: str, output: str, on: str, jobs: int, retries: int, overrides: tuple[str, ...], root: str | None, device: str,
    workers: int, validate_every: int, bench: bool, limit: int | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Train every point of the sweep of RECIPE, each in its own folder; then measure them as one curve.

    The same command again goes on: finished points are kept, stopped ones go on where they were, failed ones are tried
    again. A point whose rate collapses is given up early. Exit status 1 if a point failed.

    \b
    splitreg sweep camvid-small --set "sweep.rate_lambda=[0.1,0.3,1,3]" --root camvid -o sweep
    splitreg bench --series fp=sweep --images webp:80,webp:20 --data camvid --root camvid -o bench
    """
    from splitreg.overrides import text_override
    from splitreg.recipe import Recipe
    from splitreg.sweep import run

    if root is not None:
        overrides = (*overrides, text_override("data.root", root))
    asked = Recipe.read(recipe, overrides)

    def say(event: Mapping[str, Any]) -> None:
        outcome = event.get("outcome")
        said = outcome.status + (f": {outcome.message}" if outcome.message else "") if outcome else ""
        what = {"known": f"{said} (known)", "start": "begins", "retry": "was killed, goes on", "end": said}[
            event["event"]
        ]
        click.echo(f"{event['point']}\t{what}", err=True)

    points = run(
        asked,
        output,
        on=on,
        jobs=jobs,
        retries=retries,
        device=device,
        workers=workers,
        validate_every=validate_every,
        on_event=None if quiet else say,
    )
    bundles = [point.bundle for point in points if point.bundle is not None]
    curve = None
    if bench and bundles and asked.data:
        from splitreg.bench import run as measure

        curve = measure(
            {Path(output).name: bundles}, Path(output) / "bench", data=asked.data, limit=limit, progress=not quiet
        )
    if as_json:
        print_json({"points": [p.to_json() for p in points], "bench": None if curve is None else curve.to_json()})
    else:
        click.echo(table(("point", "status", "bytes", "metrics", "seconds"), map(_cells, points)))
        if curve is not None:
            click.echo(f"\n{curve}")
    sys.exit(1 if any(point.outcome.status == "failed" for point in points) else 0)


def _cells(point: SweepPoint) -> tuple[str, ...]:
    found = point.outcome
    firsts = [
        f"{head} {name} {value:.4f}"
        for head, m in found.validation.items()
        if isinstance(m, dict)
        for name, value in [*m.items()][:1]
    ]
    size = f"{found.validation['bits'] / 8:,.0f}" if "bits" in found.validation else "-"
    return point.label, found.status, size, ", ".join(firsts) or found.message or "-", f"{found.seconds:.1f}"
