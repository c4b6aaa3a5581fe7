"""Calibrate a bottleneck that needs no training: look at some images through a finished model.

::

    model = splitreg.build(backbone={"name": "resnet50", "pretrained": True}, bottleneck="calibrated", heads=[...])
    calibrate(model, images)          # (H, W, 3) uint8 arrays, a hundred or so; no labels
    splitreg.assembly.save(model, "my-bundle")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitreg.assembly.model import SplitModel
from splitreg.assembly.server import crop
from splitreg.errors import RecipeError
from splitreg.imaging import prepare
from splitreg.tasks import CLASSIFICATION, SEGMENTATION

#: Tasks whose outputs are logits of exclusive classes, (B, K, ...).
_EXCLUSIVE = (CLASSIFICATION, SEGMENTATION)
_BATCH = 8
#: Gradients per batch, each for other random outputs.
_DRAWS = 4
#: At most this many positions of the feature are kept, over all images.
_MAX_POSITIONS = 100_000


def calibrate(
    model: SplitModel, images: Sequence[NDArray[np.uint8]], *, seed: int = 0, probes: int | None = None
) -> None:
    """Set the bottleneck of a model from images, and freeze its tables.

    The bottleneck's ``calibrate`` gets the features at the cut and the sensitivity of the heads to
    them, see ``splitreg_classic.calibrated``. No weight of the backbone or the heads changes.

    Args:
        model: with a bottleneck that has ``calibrate`` and reads the feature at the cut.
        images: (H, W, 3), like those that will be sent; a hundred are enough.
        seed: of the random outputs whose gradients are taken.
        probes: number of images from which the sensitivity is taken, which costs most; None: all.

    Raises:
        RecipeError: the bottleneck needs training instead, or there are no images.
    """
    bottleneck: Any = model.bottleneck
    if not hasattr(bottleneck, "calibrate") or model.prefix is None:
        raise RecipeError(
            f"bottleneck {model.recipe.bottleneck.name} cannot be calibrated, it needs training (splitreg train); "
            "bottleneck calibrated can"
        )
    if not images:
        raise RecipeError("calibration needs at least one image")
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    features, total = [], torch.zeros(())
    probes = len(images) if probes is None else min(probes, len(images))
    for start in range(0, len(images), _BATCH):
        arrays = [prepare(image, model.coding.preprocess)[0] for image in images[start : start + _BATCH]]
        batch = torch.from_numpy(np.stack(arrays))
        with torch.no_grad():
            feature = model.prefix(batch)
        size = (batch.shape[-2], batch.shape[-1])
        if start < probes:
            total = total + _sensitivity(model, feature[: probes - start], size, generator)
        features.append(_thinned(feature, _MAX_POSITIONS // len(images)))
    bottleneck.calibrate(torch.cat(features, dim=-1), total / probes)
    model.trained = True
    model.freeze_tables()


def _thinned(feature: Tensor, positions: int) -> Tensor:
    """(B, C, h, w) -> (1, C, 1, N), with at most ``positions`` per image."""
    rows = feature.transpose(0, 1).flatten(1)
    step = max(1, rows.shape[1] // max(1, positions * len(feature)))
    return rows[None, :, None, ::step]


def _sensitivity(model: SplitModel, feature: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return the (C, C) outer products of the outputs' gradients for a feature, summed over a batch."""
    leaf = feature.detach().requires_grad_()
    restored = crop(leaf, model.plan.skeleton.shapes(size).feature)
    features = model.body(restored)
    outputs = model.run_heads(features, size)
    total = torch.zeros(feature.shape[1], feature.shape[1])
    for name, raw in outputs.items():
        head = model.head(name)
        output = head.distillation_output(raw)
        for draw in range(_DRAWS):
            if head.task in _EXCLUSIVE and isinstance(output, Tensor):
                target = _log_likelihood(output, generator)
            else:
                target = _projection({stride: features[stride] for stride in features}, generator)
            last = draw == _DRAWS - 1 and name == list(outputs)[-1]
            (gradient,) = torch.autograd.grad(target, leaf, retain_graph=not last)
            rows = gradient.transpose(0, 1).flatten(1)
            total += rows @ rows.T / (_DRAWS * max(float(rows.square().sum()), 1e-30)) * len(feature)
    return total


def _log_likelihood(logits: Tensor, generator: torch.Generator) -> Tensor:
    """Return the log-likelihood of classes drawn from the output itself: its gradient gives the Fisher information."""
    rows = logits.float().movedim(1, -1).flatten(0, -2)
    drawn = torch.multinomial(rows.detach().softmax(1), 1, generator=generator)
    return rows.log_softmax(1).gather(1, drawn).sum()


def _projection(features: Mapping[int, Tensor], generator: torch.Generator) -> Tensor:
    """Return a random projection of features, each divided by its root mean square."""
    terms = []
    for value in features.values():
        noise = torch.randn(value.shape, generator=generator)
        terms.append((value * noise).sum() / value.detach().square().mean().sqrt().clamp(min=1e-6))
    return torch.stack(terms).sum()
