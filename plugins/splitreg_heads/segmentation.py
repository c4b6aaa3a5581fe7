"""Head ``seg``: a class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splitreg.errors import RecipeError
from splitreg.evaluation.metrics import MeanIoU
from splitreg.interfaces import Head
from splitreg.predictions import Segmentation
from splitreg.specs import FeatureSpec
from splitreg.tasks import IGNORE, SEGMENTATION, Prediction
from splitreg_heads.pyramid import Pyramid, dense_strides, enlarge, separable


@dataclass(frozen=True, slots=True)
class SegmentationOutput:
    """``logits`` (B, K, h, w) at ``stride`` of an image of ``size`` (H, W)."""

    logits: Tensor
    stride: int
    size: tuple[int, int]

    def full(self) -> Tensor:
        """Return (B, K, H, W) logits."""
        return enlarge(self.logits, self.stride, self.size)


class SegmentationHead(Head):
    """Feature pyramid, one separable convolution, a classifier; enlarged to the image.

    Args:
        features: any strides; those of 4, 8, 16, 32 that the body has are read.
        labels: K class names, at most 255.
        width: channels of the pyramid.
        dropout: before the classifier.
        dice: weight of the Dice loss beside the cross-entropy; it favours small classes.
        class_weights: K weights of the cross-entropy; none: all alike.

    Raises:
        RecipeError: an option that is not one, or no labels.
    """

    task = SEGMENTATION
    primary = "mIoU"

    def __init__(
        self,
        features: Mapping[int, FeatureSpec],
        labels: tuple[str, ...],
        *,
        width: int = 96,
        dropout: float = 0.1,
        dice: float = 0.0,
        class_weights: tuple[float, ...] = (),
    ) -> None:
        super().__init__()
        if not 1 <= len(labels) <= IGNORE:
            raise RecipeError(
                f"head seg needs 1 to {IGNORE} class names, got {len(labels)}; check the dataset's labels"
            )
        if len(class_weights) not in (0, len(labels)):
            raise RecipeError(f"class_weights must be one per class: {len(labels)}, got {len(class_weights)}")
        if width < 1 or dice < 0 or not 0 <= dropout < 1:
            raise RecipeError(
                f"width must be positive, dice 0 or more, dropout in [0, 1); got {width}, {dice}, {dropout}"
            )
        self.labels = tuple(labels)
        self.needs = tuple(sorted(features))
        self.dice = dice
        self.class_weights = tuple(class_weights)
        self.pyramid = Pyramid(features, width)
        self.classify = nn.Sequential(separable(width, width), nn.Dropout(dropout), nn.Conv2d(width, len(labels), 1))

    @classmethod
    def select(cls, available: Sequence[int]) -> tuple[int, ...]:
        """Read those of strides 4, 8, 16, 32 that are there."""
        return dense_strides(available)

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> SegmentationOutput:
        """Return logits at stride 4."""
        logits = self.classify(self.pyramid(features, image_size)).float()
        return SegmentationOutput(logits, self.pyramid.stride, image_size)

    def loss(self, output: SegmentationOutput, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return ``ce``, the mean over known pixels, and ``dice`` where asked for."""
        logits = output.full()  # (B, K, H, W)
        mask = torch.stack([target.mask.as_subclass(Tensor) for target in targets]).long().to(logits.device)
        known = mask != IGNORE
        weight = torch.tensor(self.class_weights or [1.0] * len(self.labels), device=logits.device)
        total = F.cross_entropy(logits, mask, weight=weight, ignore_index=IGNORE, reduction="sum")
        # torch's own mean would be 0 / 0 where every pixel is ignored
        parts = {"ce": total / weight[mask[known]].sum().clamp(min=1e-6)}
        if self.dice:
            parts["dice"] = self.dice * _dice(logits.softmax(dim=1), mask, known)
        return parts

    def distillation_output(self, output: SegmentationOutput) -> Tensor:
        """Return the (B, K, H/4, W/4) logits."""
        return output.logits

    def predict(self, output: SegmentationOutput) -> list[Prediction]:
        """Return the best class of every pixel."""
        # one image at a time: with many classes the full-size logits are the largest tensor of all
        full = (enlarge(logits[None], output.stride, output.size)[0] for logits in output.logits.detach())
        return [Segmentation(mask=x.argmax(dim=0).to(torch.uint8).cpu().numpy(), names=self.labels) for x in full]

    def truth(self, target: Any) -> Segmentation:
        """Return the target's mask."""
        return Segmentation(mask=target.mask.as_subclass(Tensor).cpu().numpy().astype(np.uint8), names=self.labels)

    def metric(self) -> MeanIoU:
        """Return ``mIoU`` and ``pixel_accuracy``."""
        return MeanIoU(len(self.labels))


def _dice(shares: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    """Return 1 - Dice over the whole batch, the mean over the classes in the truth (Milletari et al. 2016)."""
    truth = F.one_hot(mask * known, shares.shape[1]).permute(0, 3, 1, 2) * known[:, None]
    shares = shares * known[:, None]
    overlap = (shares * truth).sum(dim=(0, 2, 3))
    area = shares.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    there = truth.sum(dim=(0, 2, 3)) > 0
    each = 1 - (2 * overlap + 1) / (area + 1)
    return (each * there).sum() / there.sum().clamp(min=1)
