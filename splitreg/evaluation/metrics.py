"""Metrics of the first-party tasks: torchmetrics that take predictions and targets, and return floats by name.

``update(predictions, targets)`` wants both in the same pixels. What cannot be measured (no object, no known pixel) is NaN.
States are plain sums wherever the measure allows, so that they add up over devices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric, detection
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.utilities import dim_zero_cat

from splitreg.errors import DataError, ShapeMismatch
from splitreg.predictions import Classification, Depth, Detections, MultiLabel, Reconstruction, Segmentation
from splitreg.tasks import IGNORE, BoxTarget, ClassTarget, DepthTarget, ImageTarget, MaskTarget, MultiLabelTarget

__all__ = ["Accuracy", "DepthError", "ImageQuality", "LabelPrecision", "MeanAveragePrecision", "MeanIoU"]

#: A picture without any error has no finite ratio; uint8 pictures with one stay below this.
PSNR_LIMIT_DB = 100.0


class Accuracy(Metric):
    """Share of images whose class is the first, or among the first five: ``top1``, ``top5``."""

    full_state_update = False
    top1: Tensor
    top5: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        _sums(self, "top1", "top5", "images")

    def update(self, predictions: Sequence[Classification], targets: Sequence[ClassTarget]) -> None:
        """Count one batch."""
        for prediction, target in zip(predictions, targets, strict=True):
            order = np.argsort(-prediction.probabilities, kind="stable")
            place = int(np.flatnonzero(order == target.index)[0])
            self.top1 += place < 1
            self.top5 += place < 5
            self.images += 1

    def compute(self) -> dict[str, float]:
        """Return the shares."""
        return {"top1": _ratio(self.top1, self.images), "top5": _ratio(self.top5, self.images)}


class LabelPrecision(Metric):
    """Mean average precision over labels: ``mAP``. Unknown entries and labels that are never present count nowhere."""

    full_state_update = False
    scores: list[Tensor]
    truths: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("truths", default=[], dist_reduce_fx="cat")

    def update(self, predictions: Sequence[MultiLabel], targets: Sequence[MultiLabelTarget]) -> None:
        """Keep one batch."""
        for prediction, target in zip(predictions, targets, strict=True):
            self.scores.append(torch.tensor(prediction.probabilities, device=self.device)[None])
            self.truths.append(target.present.float()[None].to(self.device))

    def compute(self) -> dict[str, float]:
        """Return the mean over the labels that are present somewhere."""
        if not len(self.scores):
            return {"mAP": math.nan}
        scores, truths = (dim_zero_cat(state) for state in (self.scores, self.truths))
        values = []
        for score, truth in zip(scores.T, truths.T, strict=True):
            known = ~truth.isnan()
            if (truth[known] > 0.5).any():
                values.append(float(binary_average_precision(score[known], (truth[known] > 0.5).long())))
        return {"mAP": float(np.mean(values)) if values else math.nan}


class MeanAveragePrecision(detection.MeanAveragePrecision):
    """COCO mean average precision: ``mAP`` (IoU .50 to .95), ``mAP50``, ``mAP75``; crowds by the COCO protocol.

    Source: Lin et al. 2014, arXiv:1405.0312; computed by faster-coco-eval.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__(backend="faster_coco_eval")
        self.warn_on_many_detections = False  # 100 an image count, as the protocol has it

    def update(self, predictions: Sequence[Detections], targets: Sequence[BoxTarget]) -> None:  # type: ignore[override]
        """Keep one batch."""
        found = [
            {
                "boxes": torch.tensor(p.boxes, device=self.device),
                "scores": torch.tensor(p.scores, device=self.device),
                "labels": torch.tensor(p.labels, device=self.device),
            }
            for p in predictions
        ]
        truth = [
            {
                "boxes": t.boxes.as_subclass(Tensor).float().reshape(-1, 4).to(self.device),
                "labels": t.labels.long().to(self.device),
                "iscrowd": t.crowd.long().to(self.device),
            }
            for t in targets
        ]
        super().update(found, truth)

    def compute(self) -> dict[str, float]:
        """Return the precisions; NaN where no object is in the truth."""
        names = {"mAP": "map", "mAP50": "map_50", "mAP75": "map_75"}
        if not any(len(labels) for labels in self.groundtruth_labels):
            return dict.fromkeys(names, math.nan)
        values: dict[str, Any] = super().compute()
        return {ours: math.nan if (v := float(values[theirs])) < 0 else v for ours, theirs in names.items()}


class MeanIoU(Metric):
    """Mean intersection over union, and share of right pixels: ``mIoU``, ``pixel_accuracy``.

    Counts are summed over all images before they are divided. Pixels that the truth ignores count nowhere; the mean is
    over the classes that truth or prediction contain.
    """

    full_state_update = False
    confusion: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        # (truth, prediction); float64 counts exactly and is reduced on every backend
        self.add_state("confusion", torch.zeros(classes, classes, dtype=torch.float64), dist_reduce_fx="sum")
        self._averaged: list[int] | None = None

    def restrict(self, classes: Sequence[int]) -> None:
        """Average over these classes only: those that the dataset has."""
        self._averaged = list(classes)

    def update(self, predictions: Sequence[Segmentation], targets: Sequence[MaskTarget]) -> None:
        """Count one batch.

        Raises:
            ShapeMismatch: prediction and target are not in the same pixels.
            DataError: the target holds a class that there is not.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            truth = target.mask.as_subclass(Tensor).cpu().numpy().astype(np.int64)
            _same_pixels(prediction.mask, truth)
            known = truth != IGNORE
            if known.any() and not 0 <= int(truth[known].max()) < self.classes:
                raise DataError(
                    f"a mask holds class {int(truth[known].max())}, there are {self.classes}; check the labels"
                )
            pairs = truth[known] * self.classes + prediction.mask[known]
            counts = np.bincount(pairs, minlength=self.classes**2).reshape(self.classes, self.classes)
            self.confusion += torch.from_numpy(counts.astype(np.float64)).to(self.device)

    def compute(self) -> dict[str, float]:
        """Return both shares."""
        right = self.confusion.diagonal()
        union = self.confusion.sum(0) + self.confusion.sum(1) - right
        there = union > 0
        if self._averaged is not None:
            averaged = torch.zeros_like(there)
            averaged[self._averaged] = True
            there &= averaged
        overlap = float((right[there] / union[there]).mean()) if there.any() else math.nan
        return {"mIoU": overlap, "pixel_accuracy": _ratio(right.sum(), self.confusion.sum())}


class DepthError(Metric):
    """``abs_rel`` (mean of error / truth), ``rmse`` (metres) and ``delta1`` (share of pixels within a factor of 1.25).

    Each is measured per image over the pixels whose depth is known, then averaged over the images that have one.
    Source: Eigen et al. 2014, arXiv:1406.2283.
    """

    full_state_update = False
    abs_rel: Tensor
    rmse: Tensor
    delta1: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        _sums(self, "abs_rel", "rmse", "delta1", "images")

    def update(self, predictions: Sequence[Depth], targets: Sequence[DepthTarget]) -> None:
        """Measure one batch.

        Raises:
            ShapeMismatch: prediction and target are not in the same pixels.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            truth = target.depth.as_subclass(Tensor).cpu().numpy().astype(np.float64)
            _same_pixels(prediction.depth, truth)
            known = np.isfinite(truth) & (truth > 0)
            if not known.any():
                continue
            want, got = truth[known], np.maximum(prediction.depth[known].astype(np.float64), 1e-6)
            self.abs_rel += float(np.mean(np.abs(got - want) / want))
            self.rmse += float(np.sqrt(np.mean((got - want) ** 2)))
            self.delta1 += float(np.mean(np.maximum(got / want, want / got) < 1.25))
            self.images += 1

    def compute(self) -> dict[str, float]:
        """Return the means over the images."""
        return {name: _ratio(getattr(self, name), self.images) for name in ("abs_rel", "rmse", "delta1")}


class ImageQuality(Metric):
    """Peak signal-to-noise ratio in dB, the mean over images: ``psnr``. At most ``PSNR_LIMIT_DB`` an image."""

    full_state_update = False
    psnr: Tensor
    images: Tensor

    def __init__(self) -> None:
        super().__init__()
        _sums(self, "psnr", "images")

    def update(self, predictions: Sequence[Reconstruction], targets: Sequence[ImageTarget]) -> None:
        """Measure one batch.

        Raises:
            ShapeMismatch: prediction and target are not in the same pixels.
        """
        for prediction, target in zip(predictions, targets, strict=True):
            truth = target.image.as_subclass(Tensor).cpu().permute(1, 2, 0).numpy()
            _same_pixels(prediction.image, truth)
            error = float(np.mean((prediction.image.astype(np.float64) - truth) ** 2))
            self.psnr += min(PSNR_LIMIT_DB, 10 * math.log10(255.0**2 / error)) if error else PSNR_LIMIT_DB
            self.images += 1

    def compute(self) -> dict[str, float]:
        """Return the mean over the images."""
        return {"psnr": _ratio(self.psnr, self.images)}


def _sums(metric: Metric, *names: str) -> None:
    for name in names:
        metric.add_state(name, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part / whole) if float(whole) else math.nan


def _same_pixels(prediction: NDArray[Any], truth: NDArray[Any]) -> None:
    if prediction.shape != truth.shape:
        raise ShapeMismatch(
            f"a prediction of {'x'.join(map(str, prediction.shape))} cannot be compared with a target of "
            f"{'x'.join(map(str, truth.shape))}; restore it, or compare both in the network's pixels"
        )
