"""``splitreg publish``: a checked copy of a bundle with measured results and pictures in its card."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("publish")
@click.argument("bundle", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder to make.")
@click.option("--data", metavar="NAME", help="Measure on this dataset.")
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--split", default="val", show_default=True, help="Split of the dataset.")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Option of the dataset.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many images, spread evenly.")
@click.option("--pictures", default=4, show_default=True, help="Examples in the card.")
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def command(
    bundle: str, output: str, data: str | None, root: str | None, split: str, options: tuple[str, ...],
    limit: int | None, pictures: int, overwrite: bool, quiet: bool,
) -> None:  # fmt: skip
    """Publish BUNDLE: load and check it, measure it where --data says on what, write it with fresh card and test vectors.

    Without --data the results that the bundle has are kept.

    \b
    splitreg publish my-bundle -o published --data scenes
    splitreg verify published
    """
    from splitreg.cli.eval_ import open_data
    from splitreg.evaluation import evaluate
    from splitreg.evaluation.pictures import examples, jpeg, sheet
    from splitreg.publishing import load, publish
    from splitreg.publishing.files import refuse_taken

    refuse_taken(Path(output), replace=overwrite)  # before anything is measured
    if data is None and (root is not None or limit is not None or options):
        raise click.UsageError("--root, --set and --limit say how to measure; say --data NAME too")
    if data is None:
        click.echo(str(publish(bundle, output, overwrite=overwrite)))
        return
    model = load(bundle)
    source, name = open_data(model, data, root, split, options)
    report = evaluate(model, source, dataset=name, limit=limit, progress=not quiet)
    shown = [source[index * len(source) // max(1, pictures)] for index in range(pictures)]
    images = {"examples.jpg": jpeg(sheet(examples(model, shown)))} if shown else {}
    click.echo(
        str(publish(bundle, output, metrics={"evaluations": [report.to_json()]}, images=images, overwrite=overwrite))
    )
