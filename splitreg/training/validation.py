"""Validation during training: fast, without packets. ``splitreg.evaluation`` measures published results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from splitreg.assembly import Trainable
from splitreg.data.classes import ClassMapping
from splitreg.evaluation.packets import metric_of
from splitreg.tasks import Prediction, Target
from splitreg.training.step import StepBatch

#: Number of images whose predictions are kept to detect collapse.
MAX_PROBES = 256


@dataclass(kw_only=True)
class Validation:
    """Result of a validation.

    Args:
        metrics: head -> metric -> value; a head without any target is absent.
        bits: mean bits per image, as estimated by the model.
        images: number of images.
        probes: head -> (predictions, targets) of some images spread over the set.
    """

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    bits: float = 0.0
    images: int = 0
    probes: dict[str, tuple[list[Prediction], list[Target]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as plain data."""
        return {**self.metrics, "bits": self.bits, "images": self.images}


@torch.no_grad()
def validate(
    model: Trainable,
    batches: Iterable[StepBatch],
    *,
    images: int,
    classes: Mapping[str, ClassMapping] | None = None,
    probe: bool = False,
) -> Validation:
    """Run the model on a validation set; metrics are measured in the pixels of the network's input.

    Args:
        model: left in evaluation mode.
        batches: the set.
        images: number of images in it.
        classes: head -> classes of the set; None: the heads' own.
        probe: keep some predictions.
    """
    model.eval()
    result, bits = Validation(), 0.0
    metrics = {name: unsynced(metric_of(model.head(name), (classes or {}).get(name))) for name in model.heads}
    stride = max(1, -(-images // MAX_PROBES))
    for batch in batches:
        output = model(batch.images, batch.select)
        bits += float(output.rate.sum())
        for name, raw in output.outputs.items():
            predictions, targets = model.head(name).predict(raw), list(batch.targets[name])
            metrics[name].update(predictions, targets)
            rows = batch.select[name]
            places = range(len(targets)) if rows is None else rows.tolist()
            probes = result.probes.setdefault(name, ([], []))
            for prediction, target, place in zip(predictions, targets, places, strict=True):
                if probe and (result.images + place) % stride == 0:
                    probes[0].append(prediction)
                    probes[1].append(target)
        result.images += len(batch.images)
    result.bits = bits / max(1, result.images)
    result.metrics = {name: floats(metrics[name].compute()) for name in result.probes}
    return result


def unsynced(metric: Any) -> Any:
    """Turn off the synchronisation of a torchmetrics metric: each process sees the whole set."""
    for module in metric.modules():
        if hasattr(module, "sync_on_compute"):
            module.sync_on_compute = False
    return metric


def floats(values: Mapping[str, Any]) -> dict[str, float]:
    """Return metric values as floats."""
    return {name: float(value) for name, value in values.items()}


def score(metric: Any, primary: str, predictions: Sequence[Prediction], targets: Sequence[Target]) -> float:
    """Return the primary value of a new metric for these pairs."""
    metric = unsynced(metric)
    metric.update(list(predictions), list(targets))
    return floats(metric.compute())[primary]
