"""Baselines: the same network fed with pictures that an ordinary image codec has compressed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from splitreg import imaging
from splitreg.data.compressed import compress
from splitreg.data.loading import Source
from splitreg.errors import RecipeError
from splitreg.evaluation.packets import measure
from splitreg.evaluation.report import Report
from splitreg.imaging import Geometry
from splitreg.tasks import Prediction, Sample

if TYPE_CHECKING:
    from splitreg.assembly import ModelOutput, SplitModel


def evaluate_image_codec(
    model: SplitModel,
    source: Source,
    codec: str = "jpeg",
    quality: int = 75,
    *,
    heads: Iterable[str] | None = None,
    split: bool = True,
    dataset: str = "",
    limit: int | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> Report:
    """Measure what a model says of pictures that were sent by an image codec, at the size of the network's input.

    Args:
        model: its whole network runs on the receiver, after decoding.
        source: a dataset.
        codec: see ``compress``.
        quality: likewise.
        heads: which heads; all by default.
        split: go through the model's own bottleneck too (with rounded latents). False leaves it out: the plain backbone,
            which only a model has whose bottleneck reads the feature at the cut.
        dataset: what to call the images in the report.
        limit: only so many images, spread evenly over the dataset.
        batch_size: images the network reads at once.
        progress: show a bar on stderr, on a terminal.

    Returns:
        A report whose bytes are those of the image codec's files, whole.

    Raises:
        RecipeError: no such codec or head, or there is no way around the bottleneck.
    """
    if not split and model.prefix is None:
        raise RecipeError(
            "this model's bottleneck replaces the first stages of its backbone, so there is no network without it; "
            "train one with bottleneck = { name = 'raw', from = 'feature' } for this baseline"
        )
    preprocess = model.plan.preprocess
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def send(
        samples: Sequence[Sample], names: Sequence[str]
    ) -> tuple[list[int], list[int], list[dict[str, Prediction]]]:
        pictures, sizes, geometries = [], [], []
        for sample in samples:
            original = sample.array()
            geometry = Geometry(
                original=(original.shape[0], original.shape[1]), coded=preprocess.size, mode=preprocess.mode
            )
            picture, size = compress(imaging.letterbox(original, geometry), codec, quality)
            pictures.append(imaging.normalise(picture, preprocess))
            sizes.append(size)
            geometries.append(geometry)
        outputs = _run(model, torch.from_numpy(np.stack(pictures)).to(device), names, split)
        found: list[dict[str, Prediction]] = [{} for _ in samples]
        for name in names:
            for row, prediction in enumerate(model.head(name).predict(outputs[name])):
                found[row][name] = prediction.restore(geometries[row])
        return sizes, [0] * len(sizes), found

    return measure(
        model, source, send, sent=codec if codec == "png" else f"{codec} {quality}", heads=heads, dataset=dataset,
        limit=limit, batch_size=batch_size, progress=progress,
    )  # fmt: skip


def _run(model: SplitModel, images: Tensor, names: Sequence[str], split: bool) -> dict[str, Any]:
    """Head -> raw output."""
    model.eval()
    with torch.inference_mode():
        if split:
            output: ModelOutput = model(images, dict.fromkeys(names))
            return output.outputs
        assert model.prefix is not None  # checked above
        features = model.body(model.prefix(images))
        return model.run_heads(features, (images.shape[-2], images.shape[-1]), dict.fromkeys(names))
