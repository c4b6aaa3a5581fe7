"""``splitreg predict``: images to predictions in one process, through real packets."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from splitreg.cli.tables import brief
from splitreg.cli.writing import check_failures, stem_of, write_drawings

if TYPE_CHECKING:
    from splitreg.imaging import ImageLike
    from splitreg.predictions import Prediction

#: Folder of the drawings, where ``--draw`` names none.
DRAWN = "drawn"


@click.command("predict")
@click.argument("bundle", type=click.Path())
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path())
@click.option("--heads", metavar="NAME,...", help="Heads to run.  [default: all]")
@click.option("--draw", is_flag=False, flag_value=DRAWN, type=click.Path(file_okay=False), metavar="[DIR]",
              help=f"Draw the predictions into a folder; without a name, into {DRAWN!r}.")  # fmt: skip
@click.option("--min-score", type=click.FloatRange(0, 1), help="Smallest score of detections.")
@click.option(
    "--rate", type=float, help="0 (fewest bytes) to 1 (most), if BUNDLE has several rates.  [default: middle]"
)
@click.option("--budget-bytes", type=click.IntRange(min=1), help="Use the largest rate within this packet size.")
@click.option(
    "--every", type=click.IntRange(min=1), default=1, metavar="N", help="One frame out of N of a video or camera."
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="Threads on the CPU.  [default: the CPUs that are available]"
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per image, one per line.")
def command(
    bundle: str, images: tuple[str, ...], heads: str | None, draw: str | None, min_score: float | None, rate: float | None,
    budget_bytes: int | None, every: int, device: str, threads: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Predict on images, in one process.

    Each image is encoded to a packet, and the packet is decoded to predictions, as between a device and a server.
    IMAGE is an image, a folder, a video, a stream or a camera, as for splitreg send.

    \b
    splitreg predict my-bundle photo.jpg --draw
    splitreg predict my-bundle images --heads seg --draw drawings
    splitreg predict my-bundle clip.mp4 --every 10 --json
    """
    from splitreg.assembly import load
    from splitreg.errors import ImageError
    from splitreg.imaging import read
    from splitreg.threads import set_threads

    set_threads(threads)
    model = load(bundle)
    server = model.server.place(device)
    names = None if heads is None else heads.split(",")
    count, failures = 0, list[ImageError]()
    for name, label, source in _images(images, every):
        count += 1
        try:
            image = read(source)
        except ImageError as error:
            failures.append(error)
            continue
        (packet,) = model.edge.encode(image, rate=rate, budget_bytes=budget_bytes)
        (predictions,) = server.infer(packet, names)
        predictions = {head: _above(prediction, min_score) for head, prediction in predictions.items()}
        _print(name, len(packet), predictions, as_json=as_json)
        if draw is not None:
            for path in write_drawings(Path(draw), label, image, predictions):
                click.echo(str(path), err=as_json)
    check_failures(failures, count)


def _images(sources: tuple[str, ...], every: int) -> Iterator[tuple[str, str, ImageLike]]:
    """Yield (name, name of its drawings, image); no drawing replaces another."""
    from splitreg.edge import frames

    given: set[str] = set()
    for source in sources:
        for name, image in frames(source, every=every):
            stem = stem_of(name)
            numbered = (f"{stem}-{number}" for number in itertools.count(2))
            label = next(label for label in itertools.chain([stem], numbered) if label not in given)
            given.add(label)
            yield name, label, image


def _above(prediction: Prediction, score: float | None) -> Prediction:
    """Return the prediction with another smallest score, which also holds for its drawing."""
    from splitreg.predictions import Detections

    if score is None:
        return prediction
    prediction = prediction.above(score)
    return replace(prediction, threshold=score) if isinstance(prediction, Detections) else prediction


def _print(name: str, size: int, predictions: Mapping[str, Prediction], *, as_json: bool) -> None:
    if as_json:
        tables = {head: prediction.to_json() for head, prediction in predictions.items()}
        click.echo(json.dumps({"image": name, "bytes": size, "predictions": tables}))
        return
    for head, prediction in predictions.items():
        click.echo(f"{name}\t{size} bytes\t{head}\t{brief(prediction)}")
