"""``splitreg audit``: what can be reconstructed from packets."""

from __future__ import annotations

import click

from splitreg.cli.eval_ import unknown_option
from splitreg.cli.tables import print_json


@click.command("audit")
@click.argument("bundle", type=click.Path())
@click.option("--data", metavar="NAME", help="Dataset.  [default: the bundle's, or the one that recognises the folder]")
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Option of the dataset.")
@unknown_option
@click.option("--train-images", type=click.IntRange(min=1), help="Pairs of packet and image for the attacker.")
@click.option("--limit", type=click.IntRange(min=1), help="Number of measured images.")
@click.option("--steps", default=2000, show_default=True, type=click.IntRange(min=1), help="Updates of the attacker.")
@click.option("--batch-size", default=16, show_default=True, type=click.IntRange(min=1), help="Pairs per update.")
@click.option("--width", default=96, show_default=True, type=click.IntRange(min=1), help="Channels of the attacker.")
@click.option("--rate", type=float, help="Rate of the packets, 0 to 1, if BUNDLE has several.")
@click.option("--seed", default=0, show_default=True, help="Seed of weights and batches.")
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Folder for the results.")
@click.option("--quiet", is_flag=True, help="No progress output.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    bundle: str, data: str | None, root: str | None, options: tuple[str, ...], unknown: str | None,
    train_images: int | None, limit: int | None, steps: int, batch_size: int, width: int, rate: float | None, seed: int,
    output: str, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Measure what an attacker reconstructs from packets.

    Trains a network from packets to images on the training split, and reports on the other split: PSNR, a perceptual
    distance, and how much the model's own heads recognise in the reconstructions, beside JPEG files of the same size.

    \b
    splitreg audit zoo:splitreg-camvid --data camvid --root camvid -o audit
    splitreg audit my-bundle --steps 10000 --width 192 -o audit
    """
    from dataclasses import replace

    from splitreg.audit import AuditOptions, audit
    from splitreg.bundle import Bundle
    from splitreg.cli.eval_ import data_parts
    from splitreg.recipe import Recipe
    from splitreg.training.data import open_split

    recipe = Recipe.from_mapping(Bundle.open(bundle).config.recipe)
    parts = tuple(data_parts(recipe, data, root, None, options))
    recipe = replace(recipe, data=parts)
    chosen = AuditOptions(
        train_images=train_images, val_images=limit, steps=steps, batch_size=batch_size, width=width, rate=rate,
        seed=seed, progress=not quiet,
        unknown_classes=unknown or recipe.unknown_classes,
    )  # fmt: skip
    train, val = (open_split(recipe, split, None) for split in ("train", "val"))
    result = audit(bundle, output, train, val, chosen)
    if as_json:
        print_json(result.to_json())
    else:
        click.echo(result.markdown().rstrip())
