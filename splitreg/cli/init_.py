"""``splitreg init``: a recipe for a folder of images."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("init")
@click.option("--root", required=True, metavar="DIR", type=click.Path(exists=True), help="Folder of the dataset.")
@click.option("--data", metavar="NAME", help="Dataset.  [default: the one that recognises the folder]")
@click.option(
    "-o", "--output", default="recipe.toml", show_default=True, type=click.Path(dir_okay=False, allow_dash=True),
    help="File to write; - prints it.",
)  # fmt: skip
@click.option("--backbone", metavar="NAME", help="Backbone.  [default: mobilenetv3_small_100]")
@click.option(
    "--weights", metavar="FILE", help="Pretrained weights of the backbone; true: download the published ones."
)
@click.option("--classes", metavar="NAME,...", help="Classes to learn.  [default: all]")
@click.option("--overwrite", is_flag=True, help="Replace an existing file.")
def command(
    root: str, data: str | None, output: str, backbone: str | None, weights: str | None, classes: str | None,
    overwrite: bool,
) -> None:  # fmt: skip
    """Write a recipe for a folder of images.

    Detects the layout of the folder, reads some images, and chooses heads, input size, batch size and epochs. Comments
    in the recipe state why.

    \b
    splitreg init --root my-images --backbone resnet18 --weights true
    splitreg train recipe.toml --root my-images
    """
    from splitreg.errors import RecipeError
    from splitreg.files import disk_errors, write_atomic

    path = Path(output)
    if output != "-" and path.exists() and not overwrite:
        raise RecipeError(f"{path} exists already; replace it with --overwrite, or choose another file with -o")
    from splitreg.training.starter import starter_recipe

    chosen = [name.strip() for name in classes.split(",")] if classes else []
    text = starter_recipe(root, data, backbone=backbone, weights=weights, classes=chosen)
    if output == "-":
        click.echo(text, nl=False)
        return
    with disk_errors(path, RecipeError, "choose another file"):
        write_atomic(path, text.encode())
    click.echo(text.splitlines()[0].removeprefix("# "), err=True)
    click.echo(str(path))
