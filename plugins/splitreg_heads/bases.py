"""Base classes of heads for boxes and for masks: class names, truth, metric. No torchmetrics here.

``metric()`` imports torchmetrics, which takes seconds; a server never calls it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from splitreg.errors import RecipeError
from splitreg.interfaces import Head
from splitreg.predictions import Classification, Detections, Segmentation
from splitreg.tasks import CLASSIFICATION, DETECTION, IGNORE, SEGMENTATION, Prediction
from splitreg_heads.pyramid import StridedMap, dense_strides

if TYPE_CHECKING:
    from splitreg.evaluation.metrics import Accuracy, MeanIoU


def check_labels(head: str, labels: Sequence[str], limit: int | None = None) -> tuple[str, ...]:
    """Return the class names of a head.

    Args:
        head: name of the head, for the error.
        labels: class names.
        limit: largest number of classes that it can have.

    Raises:
        RecipeError: there are none, or more than ``limit``.
    """
    if not labels or (limit is not None and len(labels) > limit):
        count = "" if limit is None else f"1 to {limit} "
        raise RecipeError(f"head {head} needs {count}class names, got {len(labels)}; set labels, or name a dataset")
    return tuple(labels)


class ClassificationHead(Head):
    """Base class of heads with (B, K) logits of one class per image."""

    task = CLASSIFICATION
    primary = "top1"
    labels: tuple[str, ...]

    def predict(self, output: Tensor) -> list[Prediction]:
        """Return the class probabilities of each image."""
        shares = output.detach().softmax(dim=1).cpu().numpy()
        return [Classification(probabilities=row, names=self.labels) for row in shares]

    def truth(self, target: Any) -> Classification:
        """Return the class with probability 1."""
        sure = np.zeros(len(self.labels), np.float32)
        sure[target.index] = 1
        return Classification(probabilities=sure, names=self.labels)

    def metric(self) -> Accuracy:
        """Return ``top1`` and ``top5``."""
        from splitreg.evaluation.metrics import Accuracy

        return Accuracy()


class BoxHead(Head):
    """Base class of heads that predict boxes with classes."""

    task = DETECTION
    primary = "mAP"
    labels: tuple[str, ...]

    @classmethod
    def select(cls, available: Sequence[int]) -> tuple[int, ...]:
        """Read the available strides of 4, 8, 16 and 32."""
        return dense_strides(available)

    def truth(self, target: Any) -> Detections:
        """Return the target's objects with score 1, without crowds."""
        single = ~target.crowd
        return Detections(
            boxes=target.boxes.as_subclass(Tensor)[single].float().reshape(-1, 4).cpu().numpy(),
            scores=np.ones(int(single.sum()), np.float32),
            labels=target.labels[single].long().cpu().numpy(),
            names=self.labels,
            identities=None if target.identities is None else target.identities[single].long().cpu().numpy(),
        )

    def metric(self) -> Any:
        """Return ``mAP``, ``mAP50`` and ``mAP75``."""
        from splitreg.evaluation.metrics import MeanAveragePrecision

        return MeanAveragePrecision()


class MaskHead(Head):
    """Base class of heads that predict a class per pixel."""

    task = SEGMENTATION
    primary = "mIoU"
    labels: tuple[str, ...]

    def classes(self, logits: StridedMap) -> list[Prediction]:
        """Return the most probable class of each pixel, from logits at any stride."""
        # One image at a time: with many classes the logits at full size are the largest tensor.
        masks = (logits.image(index).argmax(dim=0) for index in range(len(logits.values)))
        return [Segmentation(mask=mask.to(torch.uint8).cpu().numpy(), names=self.labels) for mask in masks]

    def truth(self, target: Any) -> Segmentation:
        """Return the target's mask."""
        return Segmentation(mask=target.mask.as_subclass(Tensor).cpu().numpy().astype(np.uint8), names=self.labels)

    def metric(self) -> MeanIoU:
        """Return ``mIoU`` and ``pixel_accuracy``."""
        from splitreg.evaluation.metrics import MeanIoU

        return MeanIoU(len(self.labels))


def stack_masks(targets: Sequence[Any], device: torch.device) -> Tensor:
    """Return the masks of some targets, (B, H, W) int64."""
    return torch.stack([target.mask.as_subclass(Tensor) for target in targets]).long().to(device)


def pixel_cross_entropy(
    logits: Tensor, mask: Tensor, weight: Tensor | None = None, focal: float = 0.0
) -> Tensor:  # fmt: skip
    """Return the cross-entropy, averaged over the pixels whose class is known; 0 where none is.

    Args:
        logits: (B, K, H, W).
        mask: (B, H, W) int64; ``IGNORE`` where unknown.
        weight: (K,) weights of the classes.
        focal: exponent of the focal factor, see ``focal_factor``; 0: none.
    """
    if focal:
        each = F.cross_entropy(logits, mask, weight=weight, ignore_index=IGNORE, reduction="none")
        total = (each * focal_factor(logits, mask.clamp(max=logits.shape[1] - 1), focal)).sum()
    else:
        total = F.cross_entropy(logits, mask, weight=weight, ignore_index=IGNORE, reduction="sum")
    known = mask != IGNORE
    count = known.sum() if weight is None else weight[mask[known]].sum()
    return total / count.clamp(min=1e-6)  # torch's own mean is 0 / 0 where every pixel is ignored


def focal_factor(logits: Tensor, index: Tensor, gamma: float) -> Tensor:
    """Return (1 - p) ** gamma, where p is the probability of the true class (Lin et al. 2017, arXiv:1708.02002).

    Args:
        logits: (B, K, ...).
        index: (B, ...) int64, the true class.
        gamma: 2 in the paper; a larger one gives examples that are already right less weight.

    Returns:
        (B, ...) factors.
    """
    return (1 - logits.softmax(dim=1).gather(1, index.unsqueeze(1)).squeeze(1)) ** gamma
