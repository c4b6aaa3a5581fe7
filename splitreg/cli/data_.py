"""``splitreg data``: look at a dataset before training."""

from __future__ import annotations

from pathlib import Path

import click

from splitreg.cli.tables import print_json, table
from splitreg.cli.writing import write_output


@click.group("data")
def command() -> None:
    """Look at a dataset before training.

    \b
    splitreg data check --root my-images --sheet samples.png
    splitreg data augment --root my-images -o augmented.png --set preset=detection
    """


@command.command("check")
@click.argument("name", required=False)
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Option of the dataset.")
@click.option("--limit", type=click.IntRange(min=1), help="Largest number of images per split.")
@click.option("--sheet", type=click.Path(dir_okay=False), help="PNG with samples and their labels.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(
    name: str | None, root: str | None, options: tuple[str, ...], limit: int | None, sheet: str | None, as_json: bool
) -> None:
    """Count images, objects and classes of a dataset.

    NAME is a dataset; by default the one that recognises the folder of --root.

    Reads every image. Reports sizes, images without labels, the share of unknown pixels, classes that a split lacks,
    and images that are in two splits.
    """
    from splitreg.data import checking
    from splitreg.evaluation.packets import spread
    from splitreg.overrides import parse_overrides
    from splitreg.wire import write_png

    sources = checking.open_splits(name or _recognise(root), root, parse_overrides(options))
    report = checking.check_dataset(sources, limit)
    if as_json:
        print_json(report.to_json())
    else:
        for split, result in report.splits.items():
            sizes = ", ".join(f"{width}x{height}" for width, height in result.sizes)
            count = f"{result.images} images" if result.checked == result.images else (
                f"{result.checked} of {result.images} images checked"
            )  # fmt: skip
            click.echo(f"{split}: {count}; smallest, median, largest: {sizes}")
        for target in next(iter(sources.values())).targets:
            labels = next(iter(sources.values())).targets[target].labels
            if labels:
                rows = [(label, *(str(r.counts[target][label]) for r in report.splits.values())) for label in labels]
                rows.append(("(without)", *(str(r.unlabelled[target]) for r in report.splits.values())))
                if any(target in r.unknown for r in report.splits.values()):
                    rows.append(("(unknown)", *(f"{r.unknown.get(target, 0):.1%}" for r in report.splits.values())))
                click.echo("\n" + table((target, *report.splits), rows))
        for line in report.warnings:
            click.echo(f"warning: {line}", err=True)
    if sheet is not None:
        source = next(iter(sources.values()))
        samples = [source[index] for index in spread(len(source), 8)]
        write_output(Path(sheet), write_png(checking.sheet(samples, checking.truth_of(source.targets))))
        click.echo(sheet, err=as_json)


def _recognise(root: str | None) -> str:
    """Return the dataset that recognises a folder."""
    from splitreg.data.recognition import detect

    if root is None:
        raise click.UsageError("name a dataset, or the folder of one with --root DIR")
    name, line, _ = detect(root)
    click.echo(line, err=True)
    return name


@command.command("augment")
@click.argument("name", required=False)
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--recipe", type=click.Path(dir_okay=False), help="Recipe with the augmentation.")
@click.option("--set", "augment", multiple=True, metavar="KEY=VALUE", help="Key of augment, e.g. preset=detection.")
@click.option(
    "--index", default=0, show_default=True, type=click.IntRange(min=0),
    help="Number of the image in train, or in the first split.",
)  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), help="PNG to write.")
def augment_(
    name: str | None, root: str | None, recipe: str | None, augment: tuple[str, ...], index: int, output: str
) -> None:
    """Draw an image with random augmentations.

    NAME is a dataset; by default the first one of --recipe, or the one that recognises the folder of --root.

    The first tile is the image as it is; the labels move with the pixels.
    """
    from splitreg.data import checking
    from splitreg.overrides import apply_overrides
    from splitreg.recipe import Recipe
    from splitreg.training.data import augmentation
    from splitreg.wire import write_png

    loaded = None if recipe is None else Recipe.read(recipe)
    parts = loaded.data if loaded else ()
    name = name or (parts[0].name if parts else _recognise(root))
    root = root or next((part.root for part in parts if part.name == name), None)
    options = {
        key: value
        for part in parts
        if part.name == name
        for key, value in part.to_mapping().items()
        if key not in ("name", "root")
    }
    augment = tuple(key.removeprefix("augment.") for key in augment)  # as for train
    change = augmentation(apply_overrides(dict(loaded.augment) if loaded else {}, augment))
    sources = checking.open_splits(name, root, options)
    split = "train" if "train" in sources else next(iter(sources))
    source = sources[split]
    if index >= len(source):
        raise click.UsageError(f"there is no image {index}: {split} has {len(source)} images, counted from 0")
    samples = checking.augmented(source, change, index, 11)
    write_output(Path(output), write_png(checking.sheet(samples, checking.truth_of(source.targets))))
    click.echo(output)
