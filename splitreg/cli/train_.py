"""``splitreg train``: run a recipe, or add a head to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from splitreg.training import TrainResult


@click.command("train")
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option(
    "-o", "--output", type=click.Path(file_okay=False), help="Bundle to write.  [default: runs/RECIPE/bundle]"
)
@click.option("--run", type=click.Path(file_okay=False), help="Folder of checkpoints and logs.  [default: runs/RECIPE]")
@click.option("--resume", is_flag=True, help="Go on where the run in this folder stopped.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any key, e.g. stages.0.epochs=3.")
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--add-head", "added", metavar="NAME", help="Train this head of the recipe alone, on the bundle --from.")
@click.option("--from", "source", metavar="BUNDLE", type=click.Path(), help="Bundle to begin with.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option("--workers", default=0, show_default=True, help="Processes that load batches ahead.")
@click.option(
    "--validate-every",
    "every",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Epochs between validations; 0: none.",
)
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there.")
@click.option("--quiet", is_flag=True, help="No progress bars.")
def command(
    recipe: str, output: str | None, run: str | None, resume: bool, overrides: tuple[str, ...], root: str | None,
    added: str | None, source: str | None, device: str, workers: int, every: int,
    overwrite: bool, quiet: bool,
) -> None:  # fmt: skip
    """Train the model of RECIPE and write a bundle; a recipe with a sweep gives one bundle a point.

    Ctrl-C writes a checkpoint; --resume goes on and ends with the same weights.

    \b
    splitreg train model_zoo/recipes/scenes-small.toml -o my-bundle
    splitreg train model_zoo/recipes/scenes-depth.toml --add-head depth --from my-bundle -o bigger-bundle
    """
    from splitreg.assembly import load, save
    from splitreg.bundle import check_free, is_bundle
    from splitreg.errors import RecipeError
    from splitreg.overrides import text_override
    from splitreg.recipe import Recipe
    from splitreg.training import TrainOptions, train, train_late_head
    from splitreg.training.devices import rank

    if root is not None:
        overrides = (*overrides, text_override("data.root", root))
    if added is not None and source is None:
        raise click.UsageError("--add-head wants --from BUNDLE")
    asked = Recipe.read(recipe, overrides)
    folder = Path(run) if run else Path("runs") / Path(recipe).stem
    points = list(asked.points())
    if len(points) > 1 and source is not None:
        raise RecipeError("a sweep begins with fresh weights; leave --from out")
    for label, point in points:
        place = folder / label
        target = Path(output) / label if output else place / "bundle"
        if label and resume and not overwrite and is_bundle(target):
            click.echo(f"point {label} is done: {target}", err=True)
            continue
        check_free(target, overwrite=overwrite)
        if target.resolve() == place.resolve():
            raise click.UsageError(
                f"{target} is to be the bundle and the run's folder; -o or --run must be another one"
            )
        if label:
            click.echo(f"point {label}", err=True)
        options = TrainOptions(resume=resume, device=device, workers=workers, validate_every=every, progress=not quiet)
        model = load(source) if source else None
        result: TrainResult = (
            train(point, place, model=model, options=options)
            if added is None or model is None
            else train_late_head(model, point, added, place, options=options)
        )
        if rank() == 0:
            save(result.model, target, metrics={"training": result.history[-1:]}, overwrite=overwrite)
            click.echo(str(target))
