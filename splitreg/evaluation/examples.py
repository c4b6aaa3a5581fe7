"""Example images: the input, the bytes sent, and each head's prediction beside the ground truth."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splitreg import drawing
from splitreg.data.classes import ClassMapping
from splitreg.tasks import Prediction, Sample

if TYPE_CHECKING:
    from splitreg.assembly import SplitModel, Trainable


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One image with drawn predictions.

    Args:
        name: name of the sample.
        image: (H, W, 3) uint8, the original.
        packet_bytes: size of the packet.
        predictions: head -> drawn prediction, (h, w, 3) uint8.
        truths: head -> drawn ground truth, for targets that the sample has.
    """

    name: str
    image: NDArray[np.uint8]
    packet_bytes: int
    predictions: Mapping[str, NDArray[np.uint8]]
    truths: Mapping[str, NDArray[np.uint8]]


def example(
    model: Trainable,
    sample: Sample,
    packet_bytes: int,
    predictions: Mapping[str, Prediction],
    classes: Mapping[str, ClassMapping] | None = None,
) -> Example:
    """Draw the predictions and the ground truth of one sample; ``classes`` are those of its dataset, by head."""
    image, sample = sample.array(), sample.with_reconstruction()
    truths = {}
    for head in model.plan.heads:
        target = sample.targets.get(head.target)
        if classes is not None and head.name in classes:
            target = classes[head.name].apply(target)
        if target is not None and head.name in predictions:
            truths[head.name] = model.head(head.name).truth(target).draw(image)
    return Example(
        name=sample.name, image=image, packet_bytes=packet_bytes, truths=truths,
        predictions={name: prediction.draw(image) for name, prediction in predictions.items()},
    )  # fmt: skip


def examples(
    model: SplitModel,
    samples: Iterable[Sample],
    heads: Sequence[str] | None = None,
    classes: Mapping[str, ClassMapping] | None = None,
) -> list[Example]:
    """Send samples through a model as packets, and draw the predictions; see ``example``."""
    drawn = []
    for sample in samples:
        packet = model.edge.encode(sample.array())[0]
        drawn.append(example(model, sample, len(packet), model.server.infer(packet, heads)[0], classes))
    return drawn


def sheet(drawn: Sequence[Example], width: int = 240) -> NDArray[np.uint8]:
    """Return one image with a row per example: the input, then each prediction and its ground truth.

    Args:
        drawn: the examples.
        width: pixels per column.
    """
    rows = []
    for item in drawn:
        image, _ = drawing.enlarge(item.image)
        cells = [_fit(drawing.legend(image, [f"input, {item.packet_bytes} bytes sent"]), width)]
        for head, prediction in item.predictions.items():
            cells.append(_fit(drawing.legend(prediction, [f"{head}: prediction"]), width))
            if head in item.truths:
                cells.append(_fit(drawing.legend(item.truths[head], [f"{head}: truth"]), width))
        height = max(cell.shape[0] for cell in cells)
        rows.append(np.concatenate([_pad(cell, height, width) for cell in cells], axis=1))
    widest = max(row.shape[1] for row in rows)
    return np.concatenate([_pad(row, row.shape[0], widest) for row in rows], axis=0)


def jpeg(image: NDArray[np.uint8], quality: int = 88) -> bytes:
    """Return an image as JPEG, for model cards and pages."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _fit(image: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def _pad(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    frame = np.full((height, width, 3), 255, np.uint8)
    frame[: image.shape[0], : image.shape[1]] = image
    return frame
