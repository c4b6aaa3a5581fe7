"""Baselines: the network on images that an ordinary image codec has compressed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from splitreg import imaging
from splitreg.assembly import ModelOutput, SplitModel
from splitreg.data.image_codecs import compress
from splitreg.data.loading import Source
from splitreg.errors import RecipeError
from splitreg.evaluation.packets import EvalOptions, Transmission, measure
from splitreg.evaluation.report import Report
from splitreg.imaging import Geometry
from splitreg.tasks import Prediction, Sample


def evaluate_image_codec(
    model: SplitModel,
    source: Source,
    codec: str = "jpeg",
    quality: int = 75,
    *,
    split: bool = True,
    options: EvalOptions | None = None,
) -> Report:
    """Measure a model on images that an image codec has compressed at the size of the network's input.

    Args:
        model: runs as a whole on the receiver, after decoding.
        source: a dataset.
        codec: see ``compress``.
        quality: see ``compress``.
        split: run the model's bottleneck too, with rounded latents. False runs the backbone without it, which
            is possible only if the bottleneck reads the feature at the cut.
        options: heads, number of images and so on.

    Returns:
        A report; its bytes are whole files of the image codec.

    Raises:
        RecipeError: no such codec or head, or no network without the bottleneck.
    """
    if not split and model.prefix is None:
        raise RecipeError(
            "this model's bottleneck replaces the first stages of its backbone, so there is no network without it; "
            "train one with bottleneck = { name = 'raw', from = 'feature' } for this baseline"
        )
    preprocess = model.plan.preprocess
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def send(samples: Sequence[Sample], heads: Sequence[str]) -> Transmission:
        inputs, sizes, geometries = [], [], []
        for sample in samples:
            original = sample.array()
            geometry = Geometry(
                original=(original.shape[0], original.shape[1]), coded=preprocess.size, mode=preprocess.mode
            )
            image, size = compress(imaging.letterbox(original, geometry), codec, quality)
            inputs.append(imaging.normalise(image, preprocess))
            sizes.append(size)
            geometries.append(geometry)
        outputs = _run(model, torch.from_numpy(np.stack(inputs)).to(device), heads, split)
        predictions: list[dict[str, Prediction]] = [{} for _ in samples]
        for name in heads:
            for row, prediction in enumerate(model.head(name).predict(outputs[name])):
                predictions[row][name] = prediction.restore(geometries[row])
        return Transmission(sizes=sizes, headers=[0] * len(sizes), predictions=predictions)

    return measure(
        model, source, send, codec if codec == "png" else f"{codec} {quality}", options or EvalOptions()
    )  # fmt: skip


def _run(model: SplitModel, images: Tensor, heads: Sequence[str], split: bool) -> dict[str, Any]:
    """Return head -> raw output."""
    model.eval()
    with torch.inference_mode():
        if split:
            output: ModelOutput = model(images, dict.fromkeys(heads))
            return output.outputs
        assert model.prefix is not None  # checked above
        features = model.body(model.prefix(images))
        return model.run_heads(features, (images.shape[-2], images.shape[-1]), dict.fromkeys(heads))
