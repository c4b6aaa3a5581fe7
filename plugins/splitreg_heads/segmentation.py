"""Head ``seg``: a class per pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splitreg.errors import RecipeError
from splitreg.specs import FeatureSpec
from splitreg.tasks import IGNORE, Prediction
from splitreg_heads.bases import MaskHead, check_labels, pixel_cross_entropy, stack_masks
from splitreg_heads.pyramid import Pyramid, StridedMap, dense_strides, separable


class SegmentationHead(MaskHead):
    """Feature pyramid, one separable convolution, a classifier; enlarged to the image.

    Args:
        features: any strides; the available ones of 4, 8, 16, 32 are read.
        labels: K class names, at most 255.
        width: channels of the pyramid.
        dropout: probability, before the classifier.
        dice: weight of the Dice loss beside the cross-entropy; it favours small classes.
        class_weights: K weights of the cross-entropy; empty: equal weights.
        focal: exponent of the focal loss; pixels that are already right count less. 0: plain cross-entropy.

    Raises:
        RecipeError: an option is out of range, or there are no labels.
    """

    def __init__(
        self,
        features: Mapping[int, FeatureSpec],
        labels: tuple[str, ...],
        *,
        width: int = 96,
        dropout: float = 0.1,
        dice: float = 0.0,
        class_weights: tuple[float, ...] = (),
        focal: float = 0.0,
    ) -> None:
        super().__init__()
        self.labels = check_labels("seg", labels, IGNORE)
        if len(class_weights) not in (0, len(labels)):
            raise RecipeError(f"class_weights must be one per class: {len(labels)}, got {len(class_weights)}")
        if width < 1 or dice < 0 or focal < 0 or not 0 <= dropout < 1:
            raise RecipeError(
                "width must be positive, dice and focal 0 or more, dropout in [0, 1); got "
                f"{width}, {dice}, {focal}, {dropout}"
            )
        self.needs = tuple(sorted(features))
        self.dice, self.focal = dice, focal
        self.class_weights = tuple(class_weights)
        self.pyramid = Pyramid(features, width)
        self.classify = nn.Sequential(separable(width, width), nn.Dropout(dropout), nn.Conv2d(width, len(labels), 1))

    @classmethod
    def select(cls, available: Sequence[int]) -> tuple[int, ...]:
        """Read the available strides of 4, 8, 16 and 32."""
        return dense_strides(available)

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> StridedMap:
        """Return (B, K, H/4, W/4) logits."""
        logits = self.classify(self.pyramid(features, image_size)).float()
        return StridedMap(logits, self.pyramid.stride, image_size)

    def loss(self, output: StridedMap, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return ``ce``, the mean over known pixels, and ``dice`` if it has a weight."""
        logits = output.full()  # (B, K, H, W)
        mask = stack_masks(targets, logits.device)
        weight = torch.tensor(self.class_weights, device=logits.device) if self.class_weights else None
        parts = {"ce": pixel_cross_entropy(logits, mask, weight, self.focal)}
        if self.dice:
            parts["dice"] = self.dice * _dice(logits.softmax(dim=1), mask, mask != IGNORE)
        return parts

    def distillation_output(self, output: StridedMap) -> Tensor:
        """Return the (B, K, H/4, W/4) logits."""
        return output.values

    def predict(self, output: StridedMap) -> list[Prediction]:
        """Return the most probable class of each pixel."""
        return self.classes(output)


def _dice(shares: Tensor, mask: Tensor, known: Tensor) -> Tensor:
    """Return 1 - Dice over the batch, averaged over the classes in the truth.

    Source: Milletari et al. 2016, arXiv:1606.04797.
    """
    truth = F.one_hot(mask * known, shares.shape[1]).permute(0, 3, 1, 2) * known[:, None]
    shares = shares * known[:, None]
    overlap = (shares * truth).sum(dim=(0, 2, 3))
    area = shares.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3))
    present = truth.sum(dim=(0, 2, 3)) > 0
    each = 1 - (2 * overlap + 1) / (area + 1)
    return (each * present).sum() / present.sum().clamp(min=1)
