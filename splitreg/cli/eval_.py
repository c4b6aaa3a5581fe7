"""``splitreg eval``: bytes an image and each task's metric, with real packets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from splitreg.cli.tables import print_json

if TYPE_CHECKING:
    from splitreg.assembly import SplitModel
    from splitreg.data.loading import Source


@click.command("eval")
@click.argument("bundle", type=click.Path())
@click.option("--data", metavar="NAME", help="Dataset.  [default: the one that trained the bundle]")
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--split", default="val", show_default=True, help="Split of the dataset.")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Option of the dataset.")
@click.option("--heads", metavar="NAME,...", help="Only these heads.  [default: all]")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many images, spread evenly.")
@click.option("--rate", "rates", metavar="RATE,...", help="At these rates, 0 to 1, where BUNDLE has several.")
@click.option(
    "--images", metavar="CODEC:QUALITY,...", help="Also send pictures instead of packets, e.g. png,jpeg:50,webp:20."
)
@click.option(
    "--unsplit", is_flag=True, help="Pictures go around the bottleneck (one that reads the feature at the cut)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def command(
    bundle: str, data: str | None, root: str | None, split: str, options: tuple[str, ...], heads: str | None,
    limit: int | None, rates: str | None, images: str | None, unsplit: bool, as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Measure BUNDLE on a dataset: every image becomes a packet, and every packet predictions.

    \b
    splitreg eval my-bundle --data scenes --split val
    splitreg eval my-bundle --data scenes --rate 0,0.25,0.5,0.75,1
    splitreg eval my-bundle --data camvid --root camvid --images jpeg:50,webp:20 --json
    """
    from splitreg.assembly import load
    from splitreg.evaluation import evaluate, evaluate_image_codec, table

    model = load(bundle)
    source, name = open_data(model, data, root, split, options)
    names = None if heads is None else heads.split(",")
    reports = [
        evaluate(model, source, names, rate=rate, dataset=name, limit=limit, progress=not quiet)
        for rate in _rates(rates)
    ]
    for item in images.split(",") if images else []:
        codec, _, quality = item.partition(":")
        if quality and not quality.isdigit():
            raise click.UsageError(f"--images reads CODEC:QUALITY, as in jpeg:50; got {item!r}")
        reports.append(
            evaluate_image_codec(
                model, source, codec, int(quality or 75), heads=names, split=not unsplit, dataset=name, limit=limit,
                progress=not quiet,
            )
        )  # fmt: skip
    if as_json:
        alone = images is None and rates is None
        print_json(reports[0].to_json() if alone else [report.to_json() for report in reports])
    else:
        click.echo(str(reports[0]))
        if len(reports) > 1:
            click.echo("\n" + table(reports))


def _rates(asked: str | None) -> list[float | None]:
    try:
        return [None] if asked is None else [float(item) for item in asked.split(",")]
    except ValueError:
        raise click.UsageError(f"--rate reads numbers from 0 to 1, as in 0,0.5,1; got {asked!r}") from None


def open_data(
    model: SplitModel, data: str | None, root: str | None, split: str, options: tuple[str, ...]
) -> tuple[Source, str]:
    """Open a dataset by name, or the one that trained the model; returns it and what to call it."""
    from dataclasses import replace

    from splitreg.errors import RecipeError
    from splitreg.overrides import parse_overrides
    from splitreg.recipe import DataPart
    from splitreg.training.data import open_split

    if data is None and not model.recipe.data:
        raise RecipeError("this bundle does not say what trained it; say --data NAME")
    parts = model.recipe.data if data is None else (DataPart(name=data),)
    given = parse_overrides(options)
    parts = tuple(replace(part, root=root or part.root, val=split, options={**part.options, **given}) for part in parts)
    return open_split(replace(model.recipe, data=parts), "val"), f"{'+'.join(p.name for p in parts)} {split}"
