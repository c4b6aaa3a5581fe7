"""``splitreg publish``: a checked copy of a bundle, with exports, results and example images."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from splitreg.cli.eval_ import unknown_option

if TYPE_CHECKING:
    from splitreg.assembly import SplitModel
    from splitreg.imaging import ImageLike

#: Number of calibration images for the 8-bit edge half.
CALIBRATION_IMAGES = 64


@click.command("publish")
@click.argument("bundle", type=click.Path())
@click.option("-o", "--output", type=click.Path(file_okay=False), help="Folder to create.  [required without --push]")
@click.option(
    "--push", "place", metavar="hf:ORG/NAME", help="Upload the copy to the Hugging Face Hub; add @BRANCH for a branch."
)
@click.option("--private", is_flag=True, help="With --push, create a private repository.")
@click.option(
    "--data", metavar="NAME", help="Dataset to measure on.  [default: that of the training, if --root is given]"
)
@click.option("--root", metavar="DIR", help="Folder of the dataset.")
@click.option("--split", help="Split of the dataset.  [default: the one that the bundle was validated on, or val]")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="Option of the dataset.")
@unknown_option
@click.option("--limit", type=click.IntRange(min=1), help="Largest number of images, spread evenly.")
@click.option("--examples", type=click.IntRange(min=0), default=4, show_default=True,
              help="Number of example images in the card.")  # fmt: skip
@click.option("--codec", metavar="NAME", help="Another codec: a name, or '{name=\"jpeg\",quality=85}'.")
@click.option("--target", "targets", multiple=True, metavar="NAME,...",
              help="Also export to targets: names, or '{name=\"c\",size=[96,96]}'.")  # fmt: skip
@click.option("--int8", is_flag=True, help="Also write an 8-bit edge half, if no head loses more than the gate.")
@click.option("--calibrate", metavar="DIR|NAME", help="Calibration images for --int8: a folder, or a dataset.")
@click.option("--gate", type=click.FloatRange(min=0), help="Largest loss of a head by --int8.  [default: 0.01]")
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@click.option("--quiet", is_flag=True, help="No progress output.")
def command(
    bundle: str, output: str | None, place: str | None, private: bool, data: str | None, root: str | None,
    split: str | None, options: tuple[str, ...], limit: int | None, examples: int, codec: str | None,
    targets: tuple[str, ...], int8: bool, calibrate: str | None, gate: float | None, overwrite: bool, quiet: bool,
    unknown: str | None,
) -> None:  # fmt: skip
    """Write a checked copy of a bundle with results and exports.

    BUNDLE is loaded and checked, measured on --data, and written with its edge half as ONNX, a new card and new test
    vectors. Without --data and --root, the results of BUNDLE are kept. With --int8, every head is measured with both
    edge halves, and nothing is written if one loses more than the gate. With --push, the copy is uploaded in one
    commit, with its results in the card's metadata; the token is that of HF_TOKEN or hf auth login.

    \b
    splitreg publish my-bundle -o published --data scenes
    splitreg publish my-bundle --push hf:me/my-model
    splitreg publish my-bundle -o published --target c
    splitreg publish my-bundle -o published --data scenes --int8 --calibrate scenes
    splitreg verify published
    """
    from splitreg.assembly import load
    from splitreg.bundle import check_free
    from splitreg.cli.eval_ import open_data
    from splitreg.hub import HubPlace
    from splitreg.publishing import Measurement, PublishOptions, publish, push
    from splitreg.publishing.int8 import GATE

    measured = data is not None or root is not None
    _check(click.get_current_context().params, measured=measured)
    target = None if place is None else HubPlace.parse(place)
    if output is not None:
        check_free(Path(output), overwrite=overwrite)
    measurement = None
    if measured:
        model = load(bundle)
        source, name, known = open_data(model, data, root, split, options)
        images = None
        if calibrate is not None:
            images = _calibration_images(model, calibrate, *((root, options) if calibrate == data else (None, ())))
        measurement = Measurement(
            source=source, dataset=name, limit=limit, examples=examples, calibration=images,
            gate=GATE if gate is None else gate, progress=not quiet, unknown_classes=unknown or known,
        )  # fmt: skip
    changes = PublishOptions(
        measurement=measurement,
        codec=_codec(codec),
        targets=_targets(targets) if targets else None,
        overwrite=overwrite,
    )
    with tempfile.TemporaryDirectory() as temporary:
        default = Path(temporary) / (target.repo.rpartition("/")[2] if target else "bundle")
        folder = publish(bundle, output or default, changes)
        if not quiet:
            _print_exports(folder, int8=int8, targets=bool(targets))
        if output is not None:
            click.echo(str(folder))
        if place is not None:
            click.echo(push(folder, place, private=private))


def _check(given: Mapping[str, Any], *, measured: bool) -> None:
    """Refuse options that need another one."""
    if given["output"] is None and given["place"] is None:
        raise click.UsageError("-o FOLDER or --push hf:ORG/NAME is required")
    if given["private"] and given["place"] is None:
        raise click.UsageError("--private requires --push hf:ORG/NAME")
    if not measured and (given["limit"] is not None or given["options"]):
        raise click.UsageError("--set and --limit require --data NAME or --root DIR")
    if not given["int8"] and (given["calibrate"] is not None or given["gate"] is not None):
        raise click.UsageError("--calibrate and --gate require --int8")
    if given["int8"] and (given["calibrate"] is None or not measured):
        raise click.UsageError(
            "--int8 requires calibration images, --calibrate DIR|NAME, and a dataset, --data NAME or --root DIR"
        )


def _print_exports(folder: Path, *, int8: bool, targets: bool) -> None:
    if int8:
        _print_int8(folder)
    if targets:
        _print_targets(folder)


def _print_int8(folder: Path) -> None:
    from splitreg.bundle import Bundle
    from splitreg.publishing.int8 import summary

    graph = Bundle.open(folder).config.graph
    if graph is not None and graph.int8 is not None:
        click.echo(f"8-bit edge half: {summary(graph.int8)}", err=True)


def _codec(text: str | None) -> Any:
    """Return a codec's name, or a table of a name and options."""
    from splitreg.overrides import parse_overrides

    return None if text is None else parse_overrides([f"codec={text}"])["codec"]


def _targets(values: tuple[str, ...]) -> list[Any]:
    """Return names, and tables of a name and options."""
    from splitreg.overrides import parse_overrides

    parts: list[Any] = []
    for value in values:
        texts = [value] if value.lstrip().startswith("{") else [text for text in value.split(",") if text]
        parts += [parse_overrides([f"target={text}"])["target"] for text in texts]
    return parts


def _print_targets(folder: Path) -> None:
    from splitreg.bundle import Bundle
    from splitreg.publishing.targets import targets_of

    for entry in targets_of(Bundle.open(folder)):
        figures = ", ".join(f"{key} {value}" for key, value in entry["report"].items())
        click.echo(f"target {entry['target']}: {figures}", err=True)


def _calibration_images(
    model: SplitModel, name: str, root: str | None, options: tuple[str, ...]
) -> Iterator[ImageLike]:  # fmt: skip
    """Return images of a folder, or of the train split of a dataset, spread evenly over it."""
    from splitreg.cli.eval_ import open_data
    from splitreg.evaluation.packets import spread
    from splitreg.publishing.int8 import images_in

    if Path(name).is_dir():
        paths = images_in(name)
        return (paths[index] for index in spread(len(paths), CALIBRATION_IMAGES))
    source, *_ = open_data(model, name, root, "train", options)
    return (source[index].array() for index in spread(len(source), CALIBRATION_IMAGES))
