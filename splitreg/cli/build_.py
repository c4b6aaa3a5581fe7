"""``splitreg build``: assemble a model, or print its plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitreg.cli.tables import count, print_json, table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from splitreg.assembly import Plan
    from splitreg.recipe import Recipe


@click.command("build")
@click.option("--backbone", metavar="NAME", help="Backbone, e.g. resnet50.")
@click.option("--heads", metavar="NAME,...", help="Heads, e.g. det,seg.")
@click.option("--bottleneck", metavar="NAME", help="Bottleneck.  [default: fp]")
@click.option("--codec", metavar="NAME", help="Codec.  [default: the first that fits the bottleneck]")
@click.option("--cut", metavar="STAGE", help="Last stage before the cut.  [default: the first of stride 4]")
@click.option("--input", "size", metavar="HxW", help="Input size in pixels.  [default: 224x224]")
@click.option("--recipe", type=click.Path(dir_okay=False), help="Recipe to start from.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any key, e.g. bottleneck.channels=24.")
@click.option("--dry-run", is_flag=True, help="Print the plan and its costs only; allocate no weights.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan and its costs as JSON.")
@click.option(
    "--calibrate",
    "images",
    type=click.Path(exists=True, file_okay=False),
    help="Calibrate the bottleneck on the images in this folder, instead of training.",
)
@click.option(
    "--calibration-images",
    "number",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    help="Images to calibrate on, spread evenly over the folder.",
)
@click.option("-o", "--output", type=click.Path(file_okay=False), help="Write a bundle to this folder.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
def command(
    backbone: str | None, heads: str | None, bottleneck: str | None, codec: str | None, cut: str | None, size: str | None,
    recipe: str | None, overrides: tuple[str, ...], dry_run: bool, as_json: bool, images: str | None, number: int,
    output: str | None, overwrite: bool,
) -> None:  # fmt: skip
    """Assemble a model from plugins.

    \b
    splitreg build --backbone resnet50 --heads det,seg --dry-run
    splitreg build --backbone resnet18 --heads cls --set bottleneck.channels=12 -o my-bundle
    splitreg build --recipe calibrated.toml --calibrate my-images -o my-bundle
    """
    from splitreg.assembly import build, calibrate, save
    from splitreg.recipe import Recipe

    if recipe is None and (backbone is None or heads is None):
        raise click.UsageError(
            "--backbone and --heads, or --recipe, are required, as in --backbone resnet50 --heads det,seg"
        )
    keys: dict[str, Any] = Recipe.read(recipe).to_mapping() if recipe else {}
    options = {"backbone": backbone, "bottleneck": bottleneck, "codec": codec, "cut": cut}
    keys.update({key: value for key, value in options.items() if value is not None})
    if heads is not None:
        keys["heads"] = heads.split(",")
    if size is not None:
        keys["input"] = {**keys.get("input", {}), "size": read_size(size)}
    planned = _plan(Recipe.from_mapping(keys, overrides), with_training=recipe is not None or bool(overrides))
    if as_json:
        print_json(planned.to_json())
    else:
        click.echo(describe(planned.to_json()))
    if dry_run:
        return
    model = build(planned)
    if images is not None:
        calibrate(model, read_images(Path(images), number))
    if output is not None:
        save(model, output, overwrite=overwrite)
        state = "untrained; see splitreg train" if images is None else "calibrated, not trained"
        click.echo(f"wrote {output} ({state})", err=True)


def _plan(recipe: Recipe, *, with_training: bool) -> Plan:
    """Plan a model; with training also check stages and data, which imports the libraries that train."""
    if not with_training:
        from splitreg.assembly import plan

        return plan(recipe)
    from splitreg.training.checks import check_recipe

    return check_recipe(recipe)


def read_images(folder: Path, number: int) -> list[NDArray[np.uint8]]:
    """Read images of a folder and its folders, evenly spread.

    Raises:
        UsageError: there are none.
    """
    from splitreg import imaging
    from splitreg.files import is_image

    paths = sorted(path for path in folder.rglob("*") if is_image(path.name))
    if not paths:
        raise click.UsageError(f"--calibrate needs a folder with images, and there are none in {folder}")
    wanted = min(number, len(paths))
    return [imaging.read(paths[index * len(paths) // wanted]) for index in range(wanted)]


def read_size(text: str) -> list[int]:
    """Read ``416x416`` or ``416`` as height and width.

    Raises:
        UsageError: it is neither.
    """
    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and (width.isdigit() or not width)):
        raise click.UsageError(f"--input must be HEIGHTxWIDTH, such as 416x416; got {text!r}")
    return [int(height), int(width or height)]


def describe(plan: dict[str, Any]) -> str:
    """Return the JSON of a plan as text, with a table of costs."""
    feature, latent = ("x".join(map(str, plan[key])) for key in ("feature", "latent"))
    lines = [
        f"backbone    {plan['backbone']}, cut after {plan['cut']} (feature {feature})",
        "stages      " + ", ".join(f"{n} (C {s['channels']}, /{s['stride']})" for n, s in plan["stages"].items()),
        f"bottleneck  {plan['bottleneck']['name']} reading the {plan['bottleneck']['from']}, latent {latent}",
        f"codec       {plan['codec']}",
        f"input       {plan['input'][0]}x{plan['input'][1]}",
    ]
    for name, head in plan["heads"].items():
        adapter = ", ".join(f"/{missing} from /{origin}" for missing, origin in head["adapter"].items())
        lines.append(
            f"head        {name}: {head['task']}, {head['classes']} classes, reads strides {head['reads']}"
            + (f"; adapter computes {adapter}" if adapter else "")
        )
    rows = [
        (name, count(cost["parameters"]), count(cost["macs"]), f"{cost['peak_bytes'] / 2**20:.1f} MiB")
        for name, cost in plan["costs"].items()
    ]
    return "\n".join(lines) + "\n\n" + table(("part", "parameters", "MACs", "activation peak"), rows)
