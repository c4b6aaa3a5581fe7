"""``splitreg escalate``: add a local head to a bundle."""

from __future__ import annotations

import click

from splitreg.cli.tables import print_json, table


@click.command("escalate")
@click.argument("bundle", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder of the new bundle.")
@click.option("--head", metavar="NAME", help="Head for classes or labels it stands for.  [default: the only one]")
@click.option("--data", metavar="NAME", help="Dataset.  [default: the bundle's, or the one that recognises the folder]")
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Option of the dataset.")
@click.option("--max-loss", default=0.01, show_default=True, type=click.FloatRange(min=0),
              help="Accuracy that may be lost against sending every image.")  # fmt: skip
@click.option("--epochs", default=30, show_default=True, type=click.IntRange(min=1), help="Passes over the images.")
@click.option("--width", default=32, show_default=True, type=click.IntRange(min=1), help="Channels of the network.")
@click.option("--limit", type=click.IntRange(min=4), help="Largest number of images of each split.")
@click.option("--seed", default=0, show_default=True, help="Seed of weights and order.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@click.option("--quiet", is_flag=True, help="No progress output.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    bundle: str, output: str, head: str | None, data: str | None, root: str | None, options: tuple[str, ...],
    max_loss: float, epochs: int, width: int, limit: int | None, seed: int, overwrite: bool, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Add a head that answers on the device if it is sure.

    Trains a small network on the latents of BUNDLE, calibrates its temperature and threshold, and writes a copy of BUNDLE
    with it. Prints the share of images that are sent, and the accuracy. splitreg send --escalate uses it.

    \b
    splitreg escalate my-bundle -o my-escalating-bundle
    splitreg send my-escalating-bundle images --to http://localhost:8080 --heads cls --escalate
    """
    from dataclasses import replace

    from splitreg.bundle import Bundle
    from splitreg.cli.eval_ import data_parts
    from splitreg.publishing.local_head import LocalHeadOptions, add_local_head
    from splitreg.recipe import Recipe
    from splitreg.training.data import open_split

    recipe = Recipe.from_mapping(Bundle.open(bundle).config.recipe)
    recipe = replace(recipe, data=tuple(data_parts(recipe, data, root, None, options)))
    chosen = LocalHeadOptions(
        head=head, max_loss=max_loss, width=width, epochs=epochs, limit=limit, seed=seed, overwrite=overwrite,
        progress=not quiet,
    )  # fmt: skip
    train, val = (open_split(recipe, split, None) for split in ("train", "val"))
    result = add_local_head(bundle, output, train, val, chosen).calibration
    if as_json:
        print_json(result)
        return
    rows = [(f"{row['sent']:.1%}", f"{row['accuracy']:.4f}", f"{row['threshold']:.3f}") for row in result["curve"]]
    click.echo(table(("sent", "accuracy", "threshold"), rows))
    accuracy = result["accuracy"]
    click.echo(
        f"\nthreshold {result['threshold']:.3f}: {result['sent']:.1%} of the images sent, accuracy "
        f"{accuracy['escalated']:.4f}; everything sent {accuracy['server']:.4f}, nothing sent {accuracy['local']:.4f}"
    )
