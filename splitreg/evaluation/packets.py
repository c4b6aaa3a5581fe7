"""Evaluation with real packets: image to bytes to predictions, measured in the pixels of the original images."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from splitreg.coding import Packet
from splitreg.data.loading import Source
from splitreg.errors import DataError, RecipeError, suggest
from splitreg.evaluation.report import ByteCounts, Report
from splitreg.tasks import Prediction, Sample

if TYPE_CHECKING:
    from splitreg.assembly import SplitModel

_T = TypeVar("_T")

#: What turns samples into predictions: (samples, heads) -> bytes sent, header bytes among them, predictions.
Sender = Callable[[Sequence[Sample], Sequence[str]], tuple[list[int], list[int], list[dict[str, Prediction]]]]


class Encoder(Protocol):
    """What turns pictures into packets."""

    def encode(self, images: Sequence[NDArray[np.uint8]], /, *, rate: float | None = None) -> list[bytes]:
        """(H, W, 3) pictures -> one packet each."""
        ...


def evaluate(
    model: SplitModel,
    source: Source,
    heads: Iterable[str] | None = None,
    *,
    edge: Encoder | None = None,
    sent: str = "packet",
    rate: float | None = None,
    dataset: str = "",
    limit: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> Report:
    """Send images through a model as packets, and measure what comes back.

    Args:
        model: with frozen tables; its ``edge`` writes each packet, its ``server`` reads it.
        source: a dataset; samples as they come, not augmented.
        heads: which heads; all by default.
        edge: another edge half that writes the packets, e.g. one of a device's runtimes.
        sent: what to call its packets in the report.
        rate: for a model with several rates; 0 (fewest bytes) to 1 (most).
        dataset: what to call the images in the report.
        limit: only so many images, spread evenly over the dataset.
        batch_size: packets the server reads at once.
        progress: show a bar on stderr, on a terminal.

    Raises:
        BundleError: the model has no tables yet.
        DataError: there is no image.
        RecipeError: no such head or rate.
    """
    encoder = model.edge if edge is None else edge

    def send(
        samples: Sequence[Sample], names: Sequence[str]
    ) -> tuple[list[int], list[int], list[dict[str, Prediction]]]:
        pictures = [sample.array() for sample in samples]
        packets = encoder.encode(pictures) if rate is None else encoder.encode(pictures, rate=rate)
        headers = [Packet.parse(packet).header_bytes for packet in packets]
        return [len(packet) for packet in packets], headers, model.server.infer(packets, names)

    return measure(
        model, source, send, sent=sent if rate is None else f"{sent}, rate {rate:g}", heads=heads, dataset=dataset,
        limit=limit, batch_size=batch_size, progress=progress,
    )  # fmt: skip


def measure(
    model: SplitModel,
    source: Source,
    send: Sender,
    *,
    sent: str,
    heads: Iterable[str] | None,
    dataset: str,
    limit: int | None,
    batch_size: int,
    progress: bool,
) -> Report:
    """Measure any way from samples to predictions with the same metrics; see ``evaluate``."""
    targets = {head.name: head.target or "" for head in model.recipe.heads}
    names = list(targets) if heads is None else list(heads)
    for name in names:
        if name not in targets:
            raise RecipeError(f"no head {name!r} here.{suggest(name, targets)} There are: {', '.join(targets)}")
    chosen = spread(len(source), limit)
    if not chosen:
        raise DataError("there is no image to evaluate: the dataset is empty, or limit is 0")
    metrics = {name: model.head(name).metric() for name in names}
    labelled = dict.fromkeys(names, 0)
    sizes: list[int] = []
    headers: list[int] = []
    pixels = 0
    started = time.monotonic()
    for numbers in shown(chunks(chosen, batch_size), -(-len(chosen) // batch_size), f"evaluating {sent}", progress):
        samples = [source[number].with_reconstruction() for number in numbers]
        size, header, predictions = send(samples, names)
        sizes += size
        headers += header
        pixels += sum(sample.image.shape[-2] * sample.image.shape[-1] for sample in samples)
        for name in names:
            pairs = [
                (found[name], target)
                for found, sample in zip(predictions, samples, strict=True)
                if (target := sample.targets.get(targets[name])) is not None
            ]
            if pairs:
                metrics[name].update([p for p, _ in pairs], [t for _, t in pairs])
                labelled[name] += len(pairs)
    height, width = model.plan.preprocess.size
    return Report(
        dataset=dataset, sent=sent, images=len(chosen), labelled=labelled, seed=model.recipe.seed,
        bytes=ByteCounts.of(sizes, headers, height * width, pixels),
        metrics={n: _floats(metrics[n].compute()) for n in names if labelled[n]},
        seconds=time.monotonic() - started,
    )  # fmt: skip


def spread(count: int, limit: int | None) -> list[int]:
    """Return ``limit`` indexes spread evenly over ``count`` (files often lie sorted by class); all without a limit.

    >>> spread(10, 4)
    [0, 2, 5, 7]
    """
    if limit is None or limit >= count:
        return list(range(count))
    return [index * count // limit for index in range(limit)]


def chunks(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    """Cut a sequence into pieces of ``size``, the last one shorter."""
    return (items[start : start + size] for start in range(0, len(items), size))


def shown(items: Iterator[_T], total: int, title: str, progress: bool) -> Iterator[_T]:
    """Pass items on; with ``progress``, show a bar on stderr where that is a terminal."""
    if not progress:
        yield from items
        return
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(
        items, description=title, total=total, console=console, transient=True, disable=not console.is_terminal
    )


def _floats(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}
