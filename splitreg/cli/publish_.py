"""``splitreg publish``: a checked copy of a bundle with measured results and pictures in its card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from splitreg.assembly import SplitModel
    from splitreg.imaging import ImageLike

#: Pictures that the ranges of the 8-bit edge half are taken from.
CALIBRATION_PICTURES = 64


@click.command("publish")
@click.argument("bundle", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder to make.")
@click.option("--data", metavar="NAME", help="Measure on this dataset.")
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--split", default="val", show_default=True, help="Split of the dataset.")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Option of the dataset.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many images, spread evenly.")
@click.option("--pictures", default=4, show_default=True, help="Examples in the card.")
@click.option(
    "--codec", "asked", metavar="NAME", help="Write packets with another codec, or with '{name=\"jpeg\",quality=85}'."
)
@click.option("--int8", is_flag=True, help="Also write the edge half in 8-bit integers, where no head loses by it.")
@click.option("--calibrate", metavar="DIR|NAME", help="Pictures for --int8: a folder, or a dataset (its train split).")
@click.option(
    "--gate", type=click.FloatRange(min=0), help="What a head may lose by --int8, as a share.  [default: 0.01]"
)
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def command(
    bundle: str, output: str, data: str | None, root: str | None, split: str, options: tuple[str, ...],
    limit: int | None, pictures: int, int8: bool, calibrate: str | None, gate: float | None, overwrite: bool, quiet: bool,
    asked: str | None,
) -> None:  # fmt: skip
    """Publish BUNDLE: load and check it, measure it where --data says on what, write it with fresh card and test vectors.

    Without --data the results that the bundle has are kept. With --int8 every head is measured on the packets of both
    edge halves, and nothing is written where one loses more than the gate.

    \b
    splitreg publish my-bundle -o published --data scenes
    splitreg publish my-bundle -o published --data scenes --int8 --calibrate scenes
    splitreg verify published
    """
    from splitreg.assembly import load
    from splitreg.bundle import check_free
    from splitreg.cli.eval_ import open_data
    from splitreg.evaluation import EvalOptions, evaluate
    from splitreg.evaluation.examples import examples, jpeg, sheet
    from splitreg.overrides import parse_overrides
    from splitreg.publishing import PublishOptions, publish, quantise_edge, recode
    from splitreg.publishing.int8 import GATE, summary

    check_free(Path(output), overwrite=overwrite)  # before anything is measured
    if data is None and (root is not None or limit is not None or options):
        raise click.UsageError("--root, --set and --limit say how to measure; say --data NAME too")
    if not int8 and (calibrate is not None or gate is not None):
        raise click.UsageError("--calibrate and --gate are for the 8-bit edge half; say --int8 too")
    if int8 and (calibrate is None or data is None):
        raise click.UsageError(
            "--int8 needs pictures to calibrate on, --calibrate DIR|NAME, and a dataset to measure the heads on, --data NAME"
        )
    codec = None if asked is None else parse_overrides([f"codec={asked}"])["codec"]
    if data is None:
        click.echo(str(publish(bundle, output, PublishOptions(codec=codec, overwrite=overwrite))))
        return
    model = load(bundle) if codec is None else recode(load(bundle), codec)
    source, name = open_data(model, data, root, split, options)
    if calibrate is not None:
        ready = quantise_edge(
            model, _calibration(model, calibrate, *((root, options) if calibrate == data else (None, ()))), source,
            gate=GATE if gate is None else gate, dataset=name, limit=limit, progress=not quiet,
        )  # fmt: skip
        metrics = {}
        if not quiet:
            click.echo(f"8-bit edge half: {summary(ready.figures)}", err=True)
    else:
        ready = None
        wanted = EvalOptions(dataset=name, limit=limit, progress=not quiet)
        metrics = {"evaluations": [evaluate(model, source, wanted).to_json()]}
    shown = [source[index * len(source) // max(1, pictures)] for index in range(pictures)]
    images = {"examples.jpg": jpeg(sheet(examples(model, shown)))} if shown else {}
    changes = PublishOptions(metrics=metrics, images=images, int8=ready, codec=codec, overwrite=overwrite)
    click.echo(str(publish(bundle, output, changes)))


def _calibration(model: SplitModel, name: str, root: str | None, options: tuple[str, ...]) -> Iterator[ImageLike]:
    """Give the pictures of a folder, or of a dataset's train split, spread evenly over it."""
    from splitreg.cli.eval_ import open_data
    from splitreg.evaluation.packets import spread
    from splitreg.publishing.int8 import pictures_in

    if Path(name).is_dir():
        found = pictures_in(name)
        return (found[index] for index in spread(len(found), CALIBRATION_PICTURES))
    source, _ = open_data(model, name, root, "train", options)
    return (source[index].array() for index in spread(len(source), CALIBRATION_PICTURES))
