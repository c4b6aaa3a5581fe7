"""Evaluation with real packets: image to bytes to predictions, measured in original pixels."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from splitreg.assembly import SplitModel
from splitreg.coding import Packet
from splitreg.data.classes import ClassMapping, match_heads
from splitreg.data.loading import Source
from splitreg.errors import DataError
from splitreg.evaluation.report import ByteCounts, Report
from splitreg.interfaces import Head
from splitreg.parsing import check_name
from splitreg.progress import Progress
from splitreg.recipe import REFUSE
from splitreg.tasks import Prediction, Sample, Target

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalOptions:
    """What ``evaluate`` and ``evaluate_image_codec`` measure.

    Args:
        heads: names of the heads; None: all of them.
        dataset: name of the dataset in the report.
        limit: number of images, spread evenly over the dataset; None: all of them.
        batch_size: images that the server half runs at once.
        progress: show a bar on stderr, if that is a terminal.
        unknown_classes: ``"refuse"`` or ``"ignore"`` classes of the dataset that a head lacks.
        observer: called with each image, e.g. ``Details.add``.
    """

    heads: tuple[str, ...] | None = None
    dataset: str = ""
    limit: int | None = None
    batch_size: int = 8
    progress: bool = False
    unknown_classes: str = REFUSE
    observer: Callable[[Observed], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """One image of an evaluation.

    Args:
        index: its index in the dataset.
        packet_bytes: bytes that were sent for it.
        predictions: head -> prediction.
        targets: head -> target with the head's classes, for heads of which it has a target.
    """

    index: int
    packet_bytes: int
    predictions: Mapping[str, Prediction]
    targets: Mapping[str, Target]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transmission:
    """What was sent for some samples, and what came back.

    Args:
        sizes: bytes per sample.
        headers: bytes of the header per sample, part of ``sizes``.
        predictions: head -> prediction, per sample.
    """

    sizes: Sequence[int]
    headers: Sequence[int]
    predictions: Sequence[dict[str, Prediction]]


#: Sends samples to some heads.
Sender = Callable[[Sequence[Sample], Sequence[str]], Transmission]


class Encoder(Protocol):
    """An edge half: images to packets."""

    def encode(self, images: Sequence[NDArray[np.uint8]], /, *, rate: float | None = None) -> list[bytes]:
        """Encode (H, W, 3) images to one packet each."""
        ...


def evaluate(
    model: SplitModel,
    source: Source,
    options: EvalOptions | None = None,
    *,
    edge: Encoder | None = None,
    rate: float | None = None,
    sent: str = "packet",
) -> Report:
    """Send images through a model as packets, and measure the predictions.

    Args:
        model: with frozen tables; its ``edge`` writes each packet, its ``server`` reads it.
        source: a dataset; its samples are not augmented.
        options: heads, number of images and so on.
        edge: another edge half to write the packets, e.g. one of a device's runtimes.
        rate: for a model with several rates: 0 (fewest bytes) to 1 (most).
        sent: name of the packets in the report.

    Raises:
        BundleError: the model has no tables yet.
        DataError: there is no image, or the dataset has other classes than the model.
        RecipeError: no such head or rate.
    """
    encoder = model.edge if edge is None else edge
    if rate is not None:
        model.coding.variable.position(rate)  # before the dataset is read

    def send(samples: Sequence[Sample], heads: Sequence[str]) -> Transmission:
        images = [sample.array() for sample in samples]
        packets = encoder.encode(images) if rate is None else encoder.encode(images, rate=rate)
        return Transmission(
            sizes=[len(packet) for packet in packets],
            headers=[Packet.parse(packet).header_bytes for packet in packets],
            predictions=model.server.infer(packets, heads),
        )

    return measure(model, source, send, sent if rate is None else f"{sent}, rate {rate:g}", options or EvalOptions())


def measure(model: SplitModel, source: Source, send: Sender, sent: str, options: EvalOptions) -> Report:
    """Measure any way from samples to predictions with the same metrics.

    Args:
        model: gives the heads' metrics.
        source: a dataset.
        send: sends samples and returns predictions in original pixels.
        sent: name of what is sent, in the report.
        options: see ``evaluate``.

    Raises:
        DataError: there is no image, or the dataset has other classes than the model.
        RecipeError: no such head.
    """
    heads = {head.name: head for head in model.plan.heads}
    names = list(heads) if options.heads is None else list(options.heads)
    for name in names:
        check_name(name, heads, "head")
    classes = match_heads([heads[name] for name in names], source.targets, options.unknown_classes)
    indexes = spread(len(source), options.limit)
    if not indexes:
        raise DataError("no image to evaluate: the dataset is empty, or limit is 0")
    metrics = {name: metric_of(model.head(name), classes[name]) for name in names}
    labelled = dict.fromkeys(names, 0)
    sizes, headers, pixels, start = list[int](), list[int](), 0, time.monotonic()
    batches = chunks(indexes, options.batch_size)
    count = -(-len(indexes) // options.batch_size)
    for batch in Progress(options.progress).track(batches, count, f"evaluating {sent}"):
        samples = [source[index].with_reconstruction() for index in batch]
        result = send(samples, names)
        sizes += result.sizes
        headers += result.headers
        pixels += sum(sample.image.shape[-2] * sample.image.shape[-1] for sample in samples)
        rows = [_targets_of(sample, classes) for sample in samples]
        for index, size, predictions, targets in zip(batch, result.sizes, result.predictions, rows, strict=True):
            if options.observer is not None:
                options.observer(Observed(index=index, packet_bytes=size, predictions=predictions, targets=targets))
        for name in names:
            pairs = [(p[name], row[name]) for p, row in zip(result.predictions, rows, strict=True) if name in row]
            if pairs:
                metrics[name].update([p for p, _ in pairs], [t for _, t in pairs])
                labelled[name] += len(pairs)
    height, width = model.plan.preprocess.size
    return Report(
        dataset=options.dataset, sent=sent, images=len(indexes), labelled=labelled, seed=model.recipe.seed,
        bytes=ByteCounts.of(sizes, headers, height * width, pixels), seconds=time.monotonic() - start,
        metrics={n: {k: float(v) for k, v in metrics[n].compute().items()} for n in names if labelled[n]},
        classes={name: sentence for name in names if (sentence := str(classes[name]))},
    )  # fmt: skip


def _targets_of(sample: Sample, classes: Mapping[str, ClassMapping]) -> dict[str, Target]:
    """Return the targets of a sample by head, with the classes of the heads."""
    pairs = ((name, mapping.apply(sample.targets.get(mapping.target))) for name, mapping in classes.items())
    return {name: target for name, target in pairs if target is not None}


def metric_of(head: Head, classes: ClassMapping | None) -> Any:
    """Return a new metric of a head, restricted to the classes that the dataset has if it can be."""
    metric = head.metric()
    if classes is not None and classes.missing and hasattr(metric, "restrict"):
        metric.restrict(classes.common)
    return metric


def spread(count: int, limit: int | None) -> list[int]:
    """Return ``limit`` indexes spread evenly over ``count`` (files are often sorted by class); None: all.

    >>> spread(10, 4)
    [0, 2, 5, 7]
    """
    if limit is None or limit >= count:
        return list(range(count))
    return [index * count // limit for index in range(limit)]


def chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Split a sequence into pieces of ``size``; the last one may be shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))
