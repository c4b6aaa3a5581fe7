"""Heads for the whole image: ``cls`` and ``multilabel``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splitreg.errors import RecipeError
from splitreg.interfaces import Head
from splitreg.predictions import MultiLabel
from splitreg.specs import FeatureSpec
from splitreg.tasks import MULTILABEL, Prediction
from splitreg_heads.bases import ClassificationHead, check_labels, focal_factor

if TYPE_CHECKING:
    from splitreg.evaluation.metrics import LabelPrecision


class _PooledHead(Head):
    """Deepest feature -> pooled to grid x grid -> [hidden layer] -> K logits."""

    def __init__(
        self,
        features: Mapping[int, FeatureSpec],
        labels: tuple[str, ...],
        *,
        hidden: int = 0,
        dropout: float = 0.0,
        grid: int = 1,
    ) -> None:
        super().__init__()
        self.labels = check_labels(f"for {self.task}", labels)
        if hidden < 0 or grid < 1 or not 0 <= dropout < 1:
            raise RecipeError(
                f"hidden must be 0 or more, grid 1 or more, dropout in [0, 1); got {hidden}, {grid}, {dropout}"
            )
        self.needs = (max(features),)
        width = features[max(features)].channels * grid * grid
        middle = [nn.Linear(width, hidden), nn.ReLU(inplace=True)] if hidden else []
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(grid),
            nn.Flatten(),
            *middle,
            nn.Dropout(dropout),
            nn.Linear(hidden or width, len(labels)),
        )

    @classmethod
    def select(cls, available: Sequence[int]) -> tuple[int, ...]:
        """Read the deepest feature."""
        return (max(available),)

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> Tensor:
        """Return (B, K) logits."""
        logits: Tensor = self.layers(features[self.needs[0]])
        return logits.float()


class ClassHead(ClassificationHead, _PooledHead):
    """One class per image.

    Args:
        features: the deepest stride.
        labels: K class names.
        hidden: width of a hidden layer; 0: none. MTL-Split has 256.
        dropout: probability, before the last layer.
        grid: the feature is pooled to grid x grid; 1 is global average pooling.
        label_smoothing: share of the target that is spread over all classes.
        focal: exponent of the focal loss; images that are already right count less. 0: plain cross-entropy.

    Raises:
        RecipeError: an option is out of range, or there are no labels.
    """

    def __init__(
        self,
        features: Mapping[int, FeatureSpec],
        labels: tuple[str, ...],
        *,
        hidden: int = 0,
        dropout: float = 0.0,
        grid: int = 1,
        label_smoothing: float = 0.0,
        focal: float = 0.0,
    ) -> None:
        super().__init__(features, labels, hidden=hidden, dropout=dropout, grid=grid)
        if not 0 <= label_smoothing < 1 or focal < 0:
            raise RecipeError(f"label_smoothing must be in [0, 1), focal 0 or more; got {label_smoothing} and {focal}")
        self.label_smoothing, self.focal = label_smoothing, focal

    def loss(self, output: Tensor, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return the cross-entropy as ``ce``."""
        index = torch.tensor([target.index for target in targets], device=output.device)
        if not self.focal:
            return {"ce": F.cross_entropy(output, index, label_smoothing=self.label_smoothing)}
        each = F.cross_entropy(output, index, label_smoothing=self.label_smoothing, reduction="none")
        return {"ce": (each * focal_factor(output, index, self.focal)).mean()}


class MultiLabelHead(_PooledHead):
    """Any number of labels per image, each with its own probability.

    Args:
        features: the deepest stride.
        labels: K label names.
        hidden: width of a hidden layer; 0: none.
        dropout: probability, before the last layer.
        grid: the feature is pooled to grid x grid.

    Raises:
        RecipeError: an option is out of range, or there are no labels.
    """

    task = MULTILABEL
    primary = "mAP"

    def loss(self, output: Tensor, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return the binary cross-entropy as ``bce``, averaged over the known labels."""
        present = torch.stack([target.present for target in targets]).to(output)
        known = ~present.isnan()
        each = F.binary_cross_entropy_with_logits(output, present.nan_to_num(0.0), reduction="none")
        return {"bce": (each * known).sum() / known.sum().clamp(min=1)}

    def predict(self, output: Tensor) -> list[Prediction]:
        """Return the label probabilities of each image."""
        shares = output.detach().sigmoid().cpu().numpy()
        return [MultiLabel(probabilities=row, names=self.labels) for row in shares]

    def truth(self, target: Any) -> MultiLabel:
        """Return the known labels with probability 0 or 1."""
        return MultiLabel(probabilities=target.present.float().cpu().numpy(), names=self.labels)

    def metric(self) -> LabelPrecision:
        """Return ``mAP``."""
        from splitreg.evaluation.metrics import LabelPrecision

        return LabelPrecision()
