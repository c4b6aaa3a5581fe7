"""Head ``seg-deeplabv3``: torchvision's DeepLabV3 classifier on the deepest feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.segmentation import deeplabv3, fcn

from splitreg.errors import RecipeError
from splitreg.evaluation.metrics import MeanIoU
from splitreg.interfaces import Head
from splitreg.predictions import Segmentation
from splitreg.specs import FeatureSpec
from splitreg.tasks import IGNORE, SEGMENTATION, Prediction


@dataclass(frozen=True, slots=True)
class DeepLabOutput:
    """(B, K, h, w) ``logits``, the ``auxiliary`` ones in training, each with its stride; image ``size`` (H, W)."""

    logits: tuple[Tensor, int]
    auxiliary: tuple[Tensor, int] | None
    size: tuple[int, int]


class DeepLabHead(Head):
    """Atrous pyramid on the deepest feature; in training a plain FCN head on the next finer one helps.

    A training batch needs two images with a target: the pyramid's pooled branch normalises one value an image.

    Args:
        features: the deepest stride, and the next finer one for the auxiliary head.
        labels: K class names, at most 255.
        rates: of the atrous convolutions, in cells of the deepest feature; smaller for small images.
        auxiliary: weight of the auxiliary loss; 0: no auxiliary head.

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
        rates: tuple[int, ...] = (12, 24, 36),
        auxiliary: float = 0.5,
    ) -> None:
        super().__init__()
        if not 1 <= len(labels) <= IGNORE:
            raise RecipeError(
                f"head seg-deeplabv3 needs 1 to {IGNORE} class names, got {len(labels)}; check the dataset's labels"
            )
        if not rates or min(rates) < 1 or auxiliary < 0:
            raise RecipeError(f"rates must be positive, auxiliary 0 or more; got {rates}, {auxiliary}")
        self.labels = tuple(labels)
        self.needs = tuple(sorted(features))
        self.weight = auxiliary
        self.classify = deeplabv3.DeepLabHead(features[self.needs[-1]].channels, len(labels), tuple(rates))
        self.assist = fcn.FCNHead(features[self.needs[0]].channels, len(labels)) if auxiliary else None

    @classmethod
    def select(cls, available: Sequence[int]) -> tuple[int, ...]:
        """Read the deepest feature up to stride 32 and the next finer one."""
        return tuple(sorted(s for s in available if s <= 32)[-2:]) or (min(available),)

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> DeepLabOutput:
        """Return logits at the deepest stride."""
        fine, deep = self.needs[0], self.needs[-1]
        auxiliary = None
        if self.assist is not None and self.training:
            auxiliary = (self.assist(features[fine]).float(), fine)
        return DeepLabOutput((self._classify(features[deep]), deep), auxiliary, image_size)

    def loss(self, output: DeepLabOutput, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return ``ce``, and ``auxiliary`` in training: means over known pixels."""
        mask = torch.stack([target.mask.as_subclass(Tensor) for target in targets]).long()
        parts = {"ce": _cross_entropy(_full(*output.logits, output.size), mask)}
        if output.auxiliary is not None:
            parts["auxiliary"] = self.weight * _cross_entropy(_full(*output.auxiliary, output.size), mask)
        return parts

    def distillation_output(self, output: DeepLabOutput) -> Tensor:
        """Return the (B, K, h, w) logits at the deepest stride."""
        return output.logits[0]

    def predict(self, output: DeepLabOutput) -> list[Prediction]:
        """Return the best class of every pixel."""
        logits, stride = output.logits
        full = (_full(one[None], stride, output.size)[0] for one in logits.detach())
        return [Segmentation(mask=x.argmax(dim=0).to(torch.uint8).cpu().numpy(), names=self.labels) for x in full]

    def truth(self, target: Any) -> Segmentation:
        """Return the target's mask."""
        return Segmentation(mask=target.mask.as_subclass(Tensor).cpu().numpy().astype(np.uint8), names=self.labels)

    def metric(self) -> MeanIoU:
        """Return ``mIoU`` and ``pixel_accuracy``."""
        return MeanIoU(len(self.labels))

    def _classify(self, feature: Tensor) -> Tensor:
        if self.training and len(feature) == 1:
            # batch normalisation refuses a single value; doubled, the pooled branch just says nothing
            return self.classify(feature.repeat(2, 1, 1, 1))[:1].float()  # type: ignore[no-any-return]
        return self.classify(feature).float()  # type: ignore[no-any-return]


def _full(logits: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Enlarge to the image; a feature covers ceil(side / stride) * stride pixels, what is beyond the image is cut."""
    if stride > 1:
        logits = F.interpolate(logits, scale_factor=float(stride), mode="bilinear", align_corners=False)
    return logits[..., : size[0], : size[1]]


def _cross_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    mask = mask.to(logits.device)
    total = F.cross_entropy(logits, mask, ignore_index=IGNORE, reduction="sum")
    return total / (mask != IGNORE).sum().clamp(min=1)  # torch's own mean would be 0 / 0 where every pixel is ignored
