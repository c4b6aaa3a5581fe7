"""``splitreg import``: checkpoints of another project to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitreg.cli.tables import print_json, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from splitreg.assembly import SplitModel
    from splitreg.interop.importing import Misfit
    from splitreg.recipe import Recipe

#: Number of mismatched tensors in the table; ``--json`` has all.
SHOWN = 40


@click.command("import")
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...", type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(),
              help="Folder to create; or a .safetensors file, for the weights of --backbone alone.")  # fmt: skip
@click.option("--recipe", type=click.Path(dir_okay=False), help="Recipe of the model; keys for training are ignored.")
@click.option("--backbone", metavar="NAME", help="Backbone, e.g. resnet50.")
@click.option("--heads", metavar="NAME,...", help="Heads.  [default: those of the checkpoint]")
@click.option("--cut", metavar="STAGE", help="Stage after which to split.  [default: layer1 for torchvision's models]")
@click.option("--bottleneck", metavar="NAME", help='Bottleneck to insert, e.g. \'{name="fp",from="feature"}\'.')
@click.option("--codec", metavar="NAME", help="Codec.  [default: rans]")
@click.option("--input", "size", metavar="HxW", help="Input size in pixels.  [default: the recipe's, or 224x224]")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any key, e.g. bottleneck.channels=12.")
@click.option("--strict", is_flag=True, help="Fail unless every tensor fits.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON with every tensor that does not fit.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
def command(
    checkpoints: tuple[str, ...], output: str, recipe: str | None, backbone: str | None, heads: str | None,
    cut: str | None, bottleneck: str | None, codec: str | None, size: str | None, overrides: tuple[str, ...],
    strict: bool, as_json: bool, overwrite: bool,
) -> None:  # fmt: skip
    """Make a bundle from checkpoints of other projects.

    Known are torchvision, sc2bench and Ladon. CHECKPOINT is a file of torch.save or safetensors, hf:ORG/NAME, or
    torchvision:MODEL for what torchvision downloads. Every tensor that does not fit is reported: unused (no such tensor
    in the model), missing (keeps its initial value), of another shape, or new (of an inserted bottleneck). Nothing in a
    checkpoint is executed.

    Detectors, segmenters and ResNets of torchvision are read whole: backbone and heads are found by their tensors. With
    the bottleneck raw, the default, the split model predicts what torchvision's model does; another one is new and must
    be trained.

    A model of sc2bench or Ladon is a ResNet with a factorised-prior bottleneck that reads the image, and its heads.
    Several checkpoints are heads on one bitstream, as in Ladon. They need --backbone.

    With an output NAME.safetensors, CHECKPOINT holds the weights of a backbone alone, under its own names or those of a
    project that its plugin knows. The file has the plugin's names, for the option pretrained of a recipe.

    \b
    splitreg import efficientnet-lite0.pth --backbone tf_efficientnet_lite0 -o lite0.safetensors
    splitreg import torchvision:fasterrcnn_resnet50_fpn_v2 --input 800x800 -o detector
    splitreg import detector.pth --cut layer2 --bottleneck '{name="fp",from="feature",encoder="light"}' -o split
    splitreg import ladon.pt --backbone resnet50 --input 416x416 -o ladon
    splitreg import classes.pt boxes.pt masks.pt --backbone resnet50 --input 416x416 -o ladon --strict
    """
    from splitreg.assembly import save
    from splitreg.bundle import check_free
    from splitreg.interop import import_checkpoint
    from splitreg.recipe import Recipe

    if output.endswith(".safetensors"):
        _import_weights(checkpoints, output, backbone, overwrite=overwrite)
        return
    check_free(Path(output), overwrite=overwrite)
    base = Recipe.read(recipe) if recipe else None
    keys = _recipe_keys(click.get_current_context().params, base)
    imported = import_checkpoint(checkpoints, base, overrides=overrides, **keys)
    fit = imported.fit
    if as_json:
        print_json(fit.to_json())
    else:
        _print_misfits(fit.misfits)
        click.echo(_found(imported.model), err=True)
    if strict:
        fit.check()
    save(imported.model, output, overwrite=overwrite)
    click.echo(
        f"wrote {output}: {fit.used} tensors from {fit.layout}, {fit.derived} derived, {len(fit.misfits)} misfits",
        err=True,
    )


def _recipe_keys(given: Mapping[str, Any], base: Recipe | None) -> dict[str, Any]:
    """Return the keys of the recipe that options name."""
    from splitreg.cli.build_ import read_size
    from splitreg.overrides import parse_overrides

    keys = {name: given[name] for name in ("backbone", "cut", "codec") if given[name] is not None}
    if given["bottleneck"] is not None:
        keys["bottleneck"] = parse_overrides([f"bottleneck={given['bottleneck']}"])["bottleneck"]
    if given["heads"] is not None:
        keys["heads"] = given["heads"].split(",")
    if given["size"] is not None:
        keys["input"] = {**(base.input.to_mapping() if base else {"mode": "resize"}), "size": read_size(given["size"])}
    return keys


def _print_misfits(misfits: Sequence[Misfit]) -> None:
    if misfits:
        click.echo(table(("misfit", "tensor", "detail"), [(m.kind, m.name, m.detail) for m in misfits[:SHOWN]]))
    if len(misfits) > SHOWN:
        click.echo(f"... and {len(misfits) - SHOWN} more, see --json")


def _found(model: SplitModel) -> str:
    """Return one line about the parts of the model."""
    recipe = model.recipe
    heads = ", ".join(f"{head.plugin} with {len(head.labels or ())} classes" for head in recipe.heads)
    trained = "" if model.trained else "; it needs training"
    return f"{recipe.backbone.name} cut after {recipe.cut}, bottleneck {recipe.bottleneck.name}, {heads}{trained}"


def _import_weights(checkpoints: tuple[str, ...], output: str, backbone: str | None, *, overwrite: bool) -> None:
    from splitreg.interop import import_weights

    if backbone is None or len(checkpoints) > 1:
        raise click.UsageError(f"{output} is written from one checkpoint for one backbone: --backbone NAME is required")
    written = import_weights(checkpoints[0], backbone, output, overwrite=overwrite)
    click.echo(f"wrote {output}: {written.tensors} tensors of {backbone}", err=True)
