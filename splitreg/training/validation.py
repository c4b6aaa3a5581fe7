"""Validation on the training path: quick, without packets. Published figures come from ``splitreg.evaluation``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from splitreg.tasks import Prediction, Target

if TYPE_CHECKING:
    from splitreg.assembly import SplitModel
    from splitreg.training.step import Work

#: Images whose predictions are kept to look for collapse.
PROBE = 256


@dataclass(kw_only=True)
class Validation:
    """What a validation found.

    Args:
        metrics: head -> metric -> value; a head whose target never came is absent.
        bits: mean bits an image, as the model estimates them.
        images: how many there were.
        probes: head -> (predictions, targets) of some images spread over the set.
    """

    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    bits: float = 0.0
    images: int = 0
    probes: dict[str, tuple[list[Prediction], list[Target]]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return {**self.metrics, "bits": self.bits, "images": self.images}


@torch.no_grad()
def validate(model: SplitModel, works: Iterable[Work], *, images: int, probe: bool = False) -> Validation:
    """Run the model over a validation set, in evaluation mode; metrics are measured in the network's pixels.

    Args:
        model: left in evaluation mode.
        works: the batches.
        images: how many images they hold in all.
        probe: keep some predictions.
    """
    model.eval()
    found = Validation()
    metrics = {name: local(model.head(name).metric()) for name in model.heads}
    every = max(1, -(-images // PROBE))
    bits = 0.0
    for work in works:
        output = model(work.images, work.select)
        bits += float(output.rate.sum())
        for name, raw in output.outputs.items():
            predictions, targets = model.head(name).predict(raw), list(work.targets[name])
            metrics[name].update(predictions, targets)
            rows = work.select[name]
            places = range(len(targets)) if rows is None else rows.tolist()
            kept = found.probes.setdefault(name, ([], []))
            for row, place in enumerate(places):
                if probe and (found.images + place) % every == 0:
                    kept[0].append(predictions[row])
                    kept[1].append(targets[row])
        found.images += len(work.images)
    found.bits = bits / max(1, found.images)
    found.metrics = {name: numbers(metrics[name].compute()) for name in found.probes}
    return found


def local(metric: Any) -> Any:
    """Keep a torchmetrics metric to this process: every process sees the whole validation set."""
    for module in metric.modules():
        if hasattr(module, "sync_on_compute"):
            module.sync_on_compute = False
    return metric


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Metric values as floats."""
    return {name: float(value) for name, value in values.items()}


def score(metric: Any, primary: str, predictions: Sequence[Prediction], targets: Sequence[Target]) -> float:
    """Return the primary value of a fresh metric for these pairs."""
    metric = local(metric)
    metric.update(list(predictions), list(targets))
    return numbers(metric.compute())[primary]
