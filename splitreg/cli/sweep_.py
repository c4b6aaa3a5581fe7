"""``splitreg sweep``: train every point of a recipe's sweep, and measure the curve."""

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
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False), help="Output folder; one subfolder per point."
)
@click.option("--on", type=click.Choice(("local", "ray")), default="local", show_default=True, help="Where to train.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Points at a time.")
@click.option(
    "--retries", type=click.IntRange(min=0), default=2, show_default=True,
    help="How often to continue a point whose process was killed.",
)  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any key, e.g. sweep.rate_lambda=[0.1,1].")
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--workers", default=0, show_default=True, help="Data loading processes per point.")
@click.option(
    "--validate-every", default=1, show_default=True, type=click.IntRange(min=0),
    help="Epochs between validations; 0: never.",
)  # fmt: skip
@click.option("--bench/--no-bench", default=True, show_default=True, help="Measure finished points into DIR/bench.")
@click.option("--limit", type=click.IntRange(min=1), help="Number of images to measure, spread evenly.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="No progress output.")
def command(
    recipe: str, output: str, on: str, jobs: int, retries: int, overrides: tuple[str, ...], root: str | None, device: str,
    workers: int, validate_every: int, bench: bool, limit: int | None, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Train every point of a sweep and measure the curve.

    Each point of the sweep of RECIPE is trained in its own folder; then all are measured as one curve.

    The same command resumes the sweep: finished points are kept, stopped points continue, failed points are tried
    again. A point whose rate collapses is stopped early. Exit status 1: a point failed.

    \b
    splitreg sweep camvid-small --set "sweep.rate_lambda=[0.1,0.3,1,3]" --root camvid -o sweep
    splitreg bench --series fp=sweep --images webp:80,webp:20 --data camvid --root camvid -o bench
    """
    from splitreg.cli.recipes import read_recipe
    from splitreg.sweep import SweepOptions, run
    from splitreg.training import TrainOptions

    loaded = read_recipe(recipe, overrides, root)
    train = TrainOptions(
        resume=True, device=device, workers=workers, validate_every=validate_every, tensorboard=False, progress=False
    )
    options = SweepOptions(on=on, jobs=jobs, retries=retries, train=train, on_event=None if quiet else print_event)
    points = run(loaded, output, options)
    bundles = [point.bundle for point in points if point.bundle is not None]
    curve = None
    if bench and bundles and loaded.data:
        from splitreg.bench import BenchOptions
        from splitreg.bench import run as measure

        curve = measure(
            {Path(output).name: bundles}, Path(output) / "bench", data=loaded.data,
            options=BenchOptions(limit=limit, progress=not quiet, resamples=0),
        )  # fmt: skip
    if as_json:
        print_json({"points": [p.to_json() for p in points], "bench": None if curve is None else curve.to_json()})
    else:
        click.echo(table(("point", "status", "bytes", "metrics", "seconds"), map(_cells, points)))
        if curve is not None:
            click.echo(f"\n{curve}")
    sys.exit(1 if any(point.outcome.status == "failed" for point in points) else 0)


def print_event(event: Mapping[str, Any]) -> None:
    """Print an event of a sweep to stderr."""
    outcome = event["outcome"]
    status = outcome.status + (f": {outcome.message}" if outcome.message else "") if outcome else ""
    text = {"known": f"{status} (known)", "start": "started", "retry": "killed, continues", "end": status}
    click.echo(f"{event['point']}\t{text[event['event']]}", err=True)


def _cells(point: SweepPoint) -> tuple[str, ...]:
    outcome = point.outcome
    firsts = [
        f"{head} {name} {value:.4f}"
        for head, metrics in outcome.validation.items()
        if isinstance(metrics, dict)
        for name, value in [*metrics.items()][:1]
        if value is not None
    ]
    size = f"{outcome.validation['bits'] / 8:,.0f}" if "bits" in outcome.validation else "-"
    return point.label, outcome.status, size, ", ".join(firsts) or outcome.message or "-", f"{outcome.seconds:.1f}"
