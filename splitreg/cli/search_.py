"""``splitreg search``: the Pareto front over cut, bottleneck and rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from splitreg.cli.tables import print_json, table

if TYPE_CHECKING:
    from splitreg.search import Trial


@click.command("search")
@click.argument("recipe", metavar="RECIPE")
@click.option("--space", multiple=True, metavar="KEY=VALUES",
              help="Dimension: KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=VALUE,VALUE.  [default: rate, channels, cut]",
              )  # fmt: skip
@click.option("--trials", default=20, show_default=True, type=click.IntRange(min=1), help="Number of models in all.")
@click.option("--metric", metavar="HEAD.METRIC", help="What to make larger.  [default: the mean of all heads]")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Change a key of the recipe.")
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--limit", type=click.IntRange(min=1), help="Number of validation images of each measurement.")
@click.option("--on", default="local", show_default=True, metavar="local|ray|here", help="Where models are trained.")
@click.option("--device", metavar="DEVICE", help="Device of the training, such as cpu or cuda.")
@click.option("--seed", default=0, show_default=True, help="Seed of the proposals.")
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder of the search.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    recipe: str, space: tuple[str, ...], trials: int, metric: str | None, options: tuple[str, ...], root: str | None,
    limit: int | None, on: str, device: str | None, seed: int, output: str, as_json: bool,
) -> None:  # fmt: skip
    """Search for the Pareto front of accuracy and bytes.

    Trains models that optuna proposes, and measures a metric, bytes per image and the device's multiply-accumulates. The
    same command continues, also with more --trials. Needs 'splitreg[search]'.

    \b
    splitreg search camvid-small --root camvid --trials 30 -o search
    splitreg search scenes-small --space rate_lambda=0.1..3:log --space bottleneck.channels=8,16,32 -o search
    """
    from dataclasses import replace

    from splitreg.cli.recipes import read_recipe
    from splitreg.search import SearchOptions, parse_dimension, search
    from splitreg.sweep import SweepOptions
    from splitreg.sweep.run import DEFAULTS

    def print_trial(trial: Trial) -> None:
        result = trial.error or f"metric {trial.metric:.4f}, {trial.bytes:,.0f} bytes, {trial.macs:,.0f} MACs"
        click.echo(f"{trial.number}\t{_values(trial)}\t{result}", err=True)

    train = DEFAULTS if device is None else replace(DEFAULTS, device=device)
    chosen = SearchOptions(
        trials=trials,
        metric=metric,
        limit=limit,
        seed=seed,
        sweep=SweepOptions(on=on, train=train),
        on_trial=print_trial,
    )
    dimensions = dict(map(parse_dimension, space)) or None
    result = search(read_recipe(recipe, options, root), output, dimensions, chosen)
    if as_json:
        print_json(result.to_json())
        return
    rows = [(f"{t.metric:.4f}", f"{t.bytes:,.0f}", f"{t.macs:,.0f}", _values(t), t.bundle or "") for t in result.front]
    click.echo(table(("metric", "bytes", "device MACs", "values", "bundle"), rows))


def _values(trial: Trial) -> str:
    return ", ".join(f"{key}={value}" for key, value in trial.values.items())
