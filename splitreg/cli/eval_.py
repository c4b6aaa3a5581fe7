"""``splitreg eval``: bytes per image and metrics, with real packets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from splitreg.cli.tables import print_json

if TYPE_CHECKING:
    from splitreg.assembly import SplitModel
    from splitreg.data.loading import Source
    from splitreg.evaluation import EvalOptions, Report
    from splitreg.recipe import DataPart, Recipe


#: The option of every command that measures on a dataset.
unknown_option = click.option(
    "--unknown-classes", "unknown", type=click.Choice(("refuse", "ignore")),
    help="Classes of the dataset that the model lacks.  [default: refuse]",
)  # fmt: skip


@click.command("eval")
@click.argument("bundle", type=click.Path())
@click.option("--data", metavar="NAME", help="Dataset.  [default: the bundle's, or the one that recognises the folder]")
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--split", help="Split of the dataset.  [default: the one that the bundle was validated on, or val]")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Option of the dataset.")
@unknown_option
@click.option("--heads", metavar="NAME,...", help="Only these heads.  [default: all]")
@click.option("--limit", type=click.IntRange(min=1), help="Number of images, spread evenly.")
@click.option("--rate", "rates", metavar="RATE,...", help="Rates, 0 to 1, of a model with several.")
@click.option(
    "--images", metavar="CODEC:QUALITY,...", help="Also send images of ordinary codecs, e.g. png,jpeg:50,webp:20."
)
@click.option("--unsplit", is_flag=True, help="Run images without the bottleneck, if it reads the feature at the cut.")
@click.option(
    "--plots", type=click.Path(file_okay=False),
    help="Folder for figures: confusion matrices, precision-recall curves, worst images. Adds metrics per class.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quiet", is_flag=True, help="No progress output.")
def command(
    bundle: str, data: str | None, root: str | None, split: str | None, options: tuple[str, ...], heads: str | None,
    unknown: str | None, limit: int | None, rates: str | None, images: str | None, unsplit: bool, plots: str | None,
    as_json: bool, quiet: bool,
) -> None:  # fmt: skip
    """Measure bytes and metrics of BUNDLE on a dataset.

    Every image is encoded to a packet, and every packet decoded to predictions. Classes are matched by name: a dataset
    with fewer classes than the model is measured on the common ones. Without --data, the dataset of the training is
    used, with its options; its folder is not stored in bundles: --root.

    \b
    splitreg eval my-bundle --root my-images --plots figures
    splitreg eval my-bundle --data scenes --split val
    splitreg eval my-bundle --data scenes --rate 0,0.25,0.5,0.75,1
    splitreg eval my-bundle --data camvid --root camvid --images jpeg:50,webp:20 --json
    """
    from splitreg.assembly import load
    from splitreg.data.image_codecs import parse_codec
    from splitreg.evaluation import EvalOptions, evaluate, evaluate_image_codec, table

    codecs = [parse_codec(item) for item in images.split(",")] if images else []
    model = load(bundle)
    source, name, known = open_data(model, data, root, split, options)
    names = None if heads is None else tuple(heads.split(","))
    wanted = EvalOptions(
        heads=names, dataset=name, limit=limit, progress=not quiet,
        unknown_classes=unknown or known,
    )  # fmt: skip
    chosen: Sequence[float | None] = read_rates(rates) or [None]
    reports = [
        _with_plots(model, source, wanted, rate, Path(plots))
        if plots is not None and number == 0
        else evaluate(model, source, wanted, rate=rate)
        for number, rate in enumerate(chosen)
    ]
    reports += [
        evaluate_image_codec(model, source, codec, quality or 75, split=not unsplit, options=wanted)
        for codec, quality in codecs
    ]
    if as_json:
        single = images is None and rates is None
        print_json(reports[0].to_json() if single else [report.to_json() for report in reports])
    else:
        click.echo(str(reports[0]))
        if len(reports) > 1:
            click.echo("\n" + table(reports))


def _with_plots(
    model: SplitModel, source: Source, options: EvalOptions, rate: float | None, folder: Path
) -> Report:  # fmt: skip
    """Evaluate, and write the figures into a folder."""
    from splitreg.cli.writing import write_output
    from splitreg.evaluation.plots import evaluate_with_figures

    report, files = evaluate_with_figures(model, source, options, rate=rate)
    for name, data in files.items():
        write_output(folder / name, data)
        click.echo(folder / name, err=True)
    return report


def read_rates(text: str | None) -> list[float]:
    """Read ``"0,0.5,1"``; an empty list without a text."""
    try:
        return [float(item) for item in text.split(",")] if text else []
    except ValueError:
        raise click.UsageError(f"rates must be numbers from 0 to 1, e.g. 0,0.5,1; got {text!r}") from None


def open_data(
    model: SplitModel, data: str | None, root: str | None, split: str | None, options: tuple[str, ...]
) -> tuple[Source, str, str]:
    """Open a dataset by name, or the one that the model was trained on.

    Returns:
        The dataset, its name, and what becomes of its classes that the model lacks.
    """
    from dataclasses import replace

    from splitreg.training.data import hold_out_validation, open_split

    parts = data_parts(model.recipe, data, root, split, options)
    recipe = hold_out_validation(replace(model.recipe, data=parts))
    splits = "+".join(dict.fromkeys(part.val for part in parts))
    return open_split(recipe, "val"), f"{'+'.join(part.name for part in parts)} {splits}", recipe.unknown_classes


def data_parts(
    recipe: Recipe, data: str | None, root: str | None, split: str | None, options: tuple[str, ...]
) -> tuple[DataPart, ...]:
    """Return the datasets of a recipe, or one by name; a dataset of the recipe keeps its options.

    Args:
        recipe: of a bundle.
        data: name of a dataset; None: those of the recipe, or the one that recognises the folder if it has none.
        root: folder; None: the recipe's, which bundles do not store.
        split: split to measure on; None: the recipe's for validation, or ``val``.
        options: ``KEY=VALUE`` of the dataset, or of the recipe's table for it, such as ``classes=[...]``.

    Raises:
        RecipeError: neither a name nor a folder is given, and the recipe has no dataset.
        DataError: no dataset recognises the folder.
    """
    from dataclasses import replace

    from splitreg.data.recognition import detect
    from splitreg.errors import RecipeError
    from splitreg.overrides import parse_overrides
    from splitreg.recipe import DataPart

    if data is None and not recipe.data:
        if root is None:
            raise RecipeError("this bundle does not name its training data; add --root DIR or --data NAME")
        data = detect(root)[0]
    known = tuple(part for part in recipe.data if data in (None, part.name))
    changes = parse_overrides(options)
    chosen = known or (DataPart(name=str(data)),)
    parts = (DataPart.parse({**part.to_mapping(), **changes}, f"dataset {part.name}") for part in chosen)
    return tuple(replace(part, root=root or part.root, val=split or part.val) for part in parts)
