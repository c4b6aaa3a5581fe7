"""``splitreg train``: train the model of a recipe, or add a head to a bundle."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from splitreg.cli.resuming import RunCommand
    from splitreg.recipe import DataPart, Recipe
    from splitreg.training import TrainOptions


@click.command("train")
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option(
    "-o", "--output", type=click.Path(file_okay=False), help="Bundle to write.  [default: runs/RECIPE/bundle]"
)
@click.option(
    "--run",
    type=click.Path(file_okay=False),
    help="Folder of checkpoints and logs.  [default: runs/BUNDLE, or runs/RECIPE without -o]",
)
@click.option("--resume", is_flag=True, help="Continue the run with its options.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Any key, e.g. stages.0.epochs=3.")
@click.option(
    "--epochs", type=click.IntRange(min=1), help="Passes over the data in the last stage; at most as many before."
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Images per step, in every stage.")
@click.option("--lr", type=click.FloatRange(min=0, min_open=True), help="Learning rate, in the last stage.")
@click.option("--backbone", metavar="NAME", help="Another backbone.")
@click.option("--weights", metavar="FILE", help="Weights of the backbone; true: download the published ones.")
@click.option("--heads", metavar="NAME,...", help="Other heads.")
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--add-head", "added", metavar="NAME", help="Train only this head of the recipe, for the bundle --from.")
@click.option("--from", "source", metavar="BUNDLE", type=click.Path(), help="Bundle to start from.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or mps.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads on the CPU.  [default: the CPUs that are available]"
)
@click.option("--workers", default=0, show_default=True, help="Data loading processes.")
@click.option(
    "--validate-every", "every", type=click.IntRange(min=0), default=1, show_default=True,
    help="Epochs between validations; 0: never.",
)  # fmt: skip
@click.option(
    "--pictures", type=click.IntRange(min=0), default=4, show_default=True,
    help="Validation images whose predictions are drawn into RUN/predictions.",
)  # fmt: skip
@click.option("--logger", "loggers", metavar="NAME,...", help="Also log to wandb or mlflow, or to another logger.")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle and, without --resume, its run.")
@click.option("--dry-run", is_flag=True, help="Check the recipe, its data and the model, and print the plan only.")
@click.option("--quiet", is_flag=True, help="No progress output.")
@click.pass_context
def command(
    context: click.Context, recipe: str, output: str | None, run: str | None, resume: bool, overrides: tuple[str, ...],
    epochs: int | None, batch_size: int | None, lr: float | None, backbone: str | None, weights: str | None,
    heads: str | None, root: str | None, added: str | None, source: str | None, device: str, threads: int | None,
    workers: int, every: int, pictures: int, loggers: str | None, overwrite: bool, dry_run: bool, quiet: bool,
) -> None:  # fmt: skip
    """Train the model of a recipe and write a bundle.

    A recipe with a sweep gives one bundle per point. Ctrl-C writes a checkpoint; the same recipe with --resume continues
    and ends with the same weights. Other options need no repetition, and --resume --epochs N trains longer.

    \b
    splitreg train model_zoo/recipes/scenes-small.toml -o my-bundle
    splitreg train recipe.toml --root my-images --epochs 20 --batch-size 8 --lr 5e-4
    splitreg train model_zoo/recipes/scenes-depth.toml --add-head depth --from my-bundle -o bigger-bundle
    """
    from splitreg.cli.recipes import read_recipe
    from splitreg.cli.resuming import RunCommand, run_folder
    from splitreg.errors import RecipeError
    from splitreg.threads import set_threads
    from splitreg.training import TrainOptions

    folder = Path(run) if run else run_folder(recipe, output, resume=resume)
    before = RunCommand.read(folder) if resume else None
    if resume and not folder.exists():
        click.echo(f"no run in {folder} to resume; starting a new one", err=True)
    flags = {"epochs": epochs, "batch_size": batch_size, "optimizer.lr": lr}
    overrides = (
        *model_overrides(recipe, backbone, weights, heads),
        *stage_overrides(recipe, flags, only_last=before is not None), *overrides,
    )  # fmt: skip
    memory = (before or RunCommand(recipe=Path(recipe).stem)).then(overrides, given_options(context))
    root, output, source, added, loggers, every, pictures = (
        memory.options.get(name, context.params[name]) for name in _REMEMBERED
    )
    if added is not None and source is None:
        raise click.UsageError("--add-head needs --from BUNDLE")
    loaded = read_recipe(recipe, memory.overrides, root)
    if not quiet:
        for part in loaded.data:
            _describe(part)
    if dry_run:
        from splitreg.cli.build_ import describe
        from splitreg.training.checks import check_recipe
        from splitreg.training.devices import check_device

        check_device(device)
        click.echo(describe(check_recipe(loaded).to_json()))
        return
    set_threads(threads)
    options = TrainOptions(
        resume=resume, overwrite=overwrite, device=device, workers=workers, validate_every=every, progress=not quiet,
        pictures=pictures,
        loggers=tuple(loggers.split(",")) if loggers else (),
    )  # fmt: skip
    if not loaded.sweep:
        options = dataclasses.replace(options, hooks=memory.hooks())
        _train(loaded, folder, Path(output) if output else folder / "bundle", options, source, added, overwrite)
    elif source is not None:
        raise RecipeError("the points of a sweep start from initial weights; remove --from or the sweep")
    else:
        _sweep(loaded, folder, None if output is None else Path(output), options, memory, overwrite)


#: Options that a resumed run gets again, besides the overrides of the recipe.
_REMEMBERED = ("root", "output", "source", "added", "loggers", "every", "pictures")


def given_options(context: click.Context) -> dict[str, Any]:
    """Return the options of ``_REMEMBERED`` that are on the command line."""
    default = click.core.ParameterSource.DEFAULT
    return {name: context.params[name] for name in _REMEMBERED if context.get_parameter_source(name) is not default}


def model_overrides(recipe: str, backbone: str | None, weights: str | None, heads: str | None) -> tuple[str, ...]:
    """Return the overrides for ``--backbone``, ``--weights`` and ``--heads``.

    Another backbone keeps ``pretrained = true``, but no option of the one before it.
    """
    from splitreg.overrides import text_override
    from splitreg.recipe import Recipe

    overrides: list[str] = []
    if backbone is not None:
        published = Recipe.read(recipe).backbone.options.get("pretrained") is True
        overrides.append(text_override("backbone", backbone))
        overrides += ["backbone.pretrained=true"] if published else []
    if weights is not None:
        on = weights.lower() == "true"
        overrides.append("backbone.pretrained=true" if on else text_override("backbone.pretrained", weights))
    return (*overrides, *([] if heads is None else [text_override("heads", heads)]))


def stage_overrides(recipe: str, flags: Mapping[str, float | None], *, only_last: bool = False) -> tuple[str, ...]:
    """Return the overrides for flags that set a key of a stage.

    The learning rate is for the last stage, the batch size for all. The number of epochs is for the last stage,
    and stages before it get at most as many; with fewer epochs its ``rate_warmup`` is shorter, too.

    Args:
        recipe: file or name of the recipe.
        flags: key of a stage -> its value; None: not set.
        only_last: leave the epochs of the other stages as they are.
    """
    from splitreg.recipe import Recipe

    values = {key: value for key, value in flags.items() if value is not None}
    if not values:
        return ()
    stages = Recipe.read(recipe).stages
    last = max(0, len(stages) - 1)
    overrides = [] if stages else ["stages=[{}]"]
    if "epochs" in values and not only_last and stages:
        stage, epochs = stages[last], values["epochs"]
        if epochs < stage.epochs and stage.rate_warmup:  # the warm-up keeps its share
            overrides.append(f"stages.{last}.rate_warmup={round(stage.rate_warmup * epochs / stage.epochs, 3)}")
    for key, value in values.items():
        places = list(range(last + 1)) if key == "batch_size" else [last]
        if key == "epochs" and not only_last:
            places += [place for place in range(last) if stages[place].epochs > value]
        overrides += [f"stages.{place}.{key}={value}" for place in places]
    return tuple(overrides)


def _describe(part: DataPart) -> None:
    """Print what a dataset finds in its folder."""
    from splitreg.data.recognition import describe_folder

    line = None if part.root is None else describe_folder(part.name, part.root)
    if line is not None:
        click.echo(line, err=True)


def _train(
    recipe: Recipe, folder: Path, bundle: Path, options: TrainOptions, source: str | None, added: str | None, overwrite: bool
) -> None:  # fmt: skip
    """Train one model and print the path of its bundle."""
    from splitreg.assembly import load, save
    from splitreg.bundle import check_free
    from splitreg.training import TrainResult, train, train_late_head
    from splitreg.training.checks import check_same_model
    from splitreg.training.devices import rank

    check_free(bundle, overwrite=overwrite)
    if bundle.resolve() == folder.resolve():
        raise click.UsageError(f"{bundle} cannot be both the bundle and the folder of the run; change -o or --run")
    model = load(source) if source else None
    result: TrainResult
    if added is None or model is None:
        if model is not None:
            check_same_model(recipe, model)
        result = train(recipe, folder, model=model, options=options)
    else:
        result = train_late_head(model, recipe, added, folder, options=options)
    if rank() == 0:
        save(result.model, bundle, metrics={"training": result.history[-1:]}, overwrite=overwrite)
        click.echo(str(bundle))


def _sweep(
    recipe: Recipe, folder: Path, bundles: Path | None, options: TrainOptions, memory: RunCommand, overwrite: bool
) -> None:  # fmt: skip
    """Train the points of a sweep in this process and print the paths of their bundles."""
    from splitreg.cli.sweep_ import print_event
    from splitreg.errors import TrainingError
    from splitreg.sweep import SweepOptions, run
    from splitreg.training.devices import rank

    if bundles is not None and bundles.resolve() == folder.resolve():
        raise click.UsageError(f"{bundles} cannot hold both the bundles and the runs; change -o or --run")
    first = rank() == 0

    def on_event(event: Mapping[str, Any]) -> None:  # the recipe has been compared with that of the folder
        memory.write(folder)
        print_event(event)

    points = run(
        recipe, folder,
        SweepOptions(
            on="here", train=options, bundles=bundles, overwrite=overwrite,
            on_event=on_event if first else None,
        ),
    )  # fmt: skip
    if first:
        for point in points:
            if point.bundle is not None and not point.known:
                click.echo(str(point.bundle))
        failed = [f"{point.label}: {point.outcome.message}" for point in points if point.outcome.status == "failed"]
        if failed:
            raise TrainingError(f"{len(failed)} of {len(points)} points failed; {'; '.join(failed)}")
