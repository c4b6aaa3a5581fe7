"""``splitreg fit-context``: smaller packets for a trained model, with the same answers."""

from __future__ import annotations

from pathlib import Path

import click

from splitreg.cli.tables import print_json


@click.command("fit-context")
@click.argument("bundle", type=click.Path())
@click.option("--data", metavar="NAME", help="Dataset.  [default: the bundle's, or the one that recognises the folder]")
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Option of the dataset.")
@click.option(
    "--images", default=600, show_default=True, type=click.IntRange(min=1), help="Images of the training split."
)
@click.option("--limit", type=click.IntRange(min=1), help="Measured images of the validation split.")
@click.option("--width", default=64, show_default=True, type=click.IntRange(1, 1024), help="Units of the network.")
@click.option("--steps", default=2000, show_default=True, type=click.IntRange(min=1), help="Updates.")
@click.option("--batch-size", default=8, show_default=True, type=click.IntRange(min=1), help="Images per update.")
@click.option(
    "--lr", default=3e-3, show_default=True, type=click.FloatRange(min=0, min_open=True), help="Learning rate."
)
@click.option("--seed", default=0, show_default=True, help="Seed of weights and batches.")
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), help="Write a bundle to this folder.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@click.option("--quiet", is_flag=True, help="No progress output.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    bundle: str, data: str | None, root: str | None, options: tuple[str, ...], images: int, limit: int | None,
    width: int, steps: int, batch_size: int, lr: float, seed: int, output: str, overwrite: bool, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Make a trained model's packets smaller.

    Its answers stay as they are. Fits a network that predicts each symbol of the latent from those coded before it (no
    label is used), and writes a bundle with it. Prints the bytes per image of the validation split before and after.

    \b
    splitreg fit-context my-bundle -o smaller
    splitreg fit-context zoo:splitreg-camvid --root camvid -o smaller
    """
    from dataclasses import replace

    from splitreg.assembly import load, save
    from splitreg.bundle import Bundle, check_free
    from splitreg.cli.eval_ import data_parts
    from splitreg.files import parse_json
    from splitreg.training.context import ContextOptions, fit_context, packet_sizes
    from splitreg.training.data import open_split

    check_free(Path(output), overwrite=overwrite)
    model = load(bundle)
    recipe = replace(model.recipe, data=tuple(data_parts(model.recipe, data, root, None, options)))
    train, val = (open_split(recipe, split, None) for split in ("train", "val"))
    chosen = ContextOptions(
        width=width, steps=steps, batch_size=batch_size, lr=lr, images=images, seed=seed, progress=not quiet
    )
    if len(train) == len(val) and train[0].name == val[0].name:
        click.echo(
            "the sizes are measured on the images of the fit, so they are too optimistic; --set hold_out=0.2 holds some out",
            err=True,
        )
    fitted = fit_context(model, train, chosen)
    before, after = (packet_sizes(one, val, limit=limit, progress=not quiet) for one in (model, fitted))
    source = Bundle.open(bundle)
    history = parse_json(source.read("metrics.json")).get("training", [])
    exports = [name for name in source.config.files if name.startswith(("edge.", "local.", "targets/"))]
    left_out = sorted(name for name in exports if name != "edge.safetensors")
    save(fitted, output, metrics={"training": history}, overwrite=overwrite)
    if as_json:
        rows = [{"rate": rate, "before": size, "after": after[rate]} for rate, size in before.items()]
        print_json({"bundle": output, "left_out": left_out, "bytes": rows})
        return
    for rate, size in before.items():
        at = "" if rate is None else f"rate {rate:g}: "
        click.echo(
            f"{at}{size:,.0f} bytes per image before, {after[rate]:,.0f} after ({after[rate] / size - 1:+.1%})",
            err=True,
        )
    if left_out:
        again = "splitreg publish" + (" and splitreg escalate" if "local.onnx" in left_out else "")
        click.echo(
            f"left out, because they belong to the packets before: {', '.join(left_out)}; {again} writes them again",
            err=True,
        )
    click.echo(output)
