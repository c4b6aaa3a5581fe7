"""Head ``embed``: a normalised vector per image, for re-identification and search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splitreg.errors import RecipeError
from splitreg.interfaces import Head
from splitreg.specs import FeatureSpec
from splitreg.tasks import CLASSIFICATION, Prediction
from splitreg_heads.bases import check_labels
from splitreg_heads.embedding_prediction import Embedding

if TYPE_CHECKING:
    from splitreg_heads.retrieval import Retrieval


@dataclass(frozen=True, slots=True)
class EmbeddingOutput:
    """(B, D) vectors of length 1, and (B, K) scaled cosines with the vectors of the classes."""

    vectors: Tensor
    logits: Tensor


class EmbeddingHead(Head):
    """Images of one class get similar vectors; classes that training has not seen can be searched too.

    It is trained by targets for classification: a class is an identity. The loss is cross-entropy over
    cosines with one learned vector per class (normalised softmax), with a margin on the own class.

    Args:
        features: the deepest stride.
        labels: K class names.
        size: D, numbers per vector.
        scale: factor of the cosines in the loss.
        margin: subtracted from the cosine of the own class in the loss.

    Raises:
        RecipeError: an option is out of range, or there are no labels.

    Source: Zhai and Wu 2019, arXiv:1811.12649; the margin is that of Wang et al. 2018, arXiv:1801.09414.
    """

    task = CLASSIFICATION
    primary = "recall@1"

    def __init__(
        self,
        features: Mapping[int, FeatureSpec],
        labels: tuple[str, ...],
        *,
        size: int = 128,
        scale: float = 16.0,
        margin: float = 0.0,
    ) -> None:
        super().__init__()
        self.labels = check_labels("embed", labels)
        if size < 2 or scale <= 0 or not 0 <= margin < 1:
            raise RecipeError(
                f"size must be 2 or more, scale positive, margin in [0, 1); got {size}, {scale}, {margin}"
            )
        self.needs = (max(features),)
        self.scale, self.margin = scale, margin
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features[self.needs[0]].channels, size)
        )
        self.classes = nn.Parameter(torch.empty(len(labels), size))
        nn.init.normal_(self.classes)

    @classmethod
    def select(cls, available: Sequence[int]) -> tuple[int, ...]:
        """Read the deepest feature."""
        return (max(available),)

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> EmbeddingOutput:
        """Return the vectors and the scaled cosines."""
        vectors = F.normalize(self.layers(features[self.needs[0]]).float(), dim=1)
        return EmbeddingOutput(vectors, self.scale * vectors @ F.normalize(self.classes.float(), dim=1).T)

    def loss(self, output: EmbeddingOutput, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return the cross-entropy over the cosines as ``ce``."""
        index = torch.tensor([target.index for target in targets], device=output.logits.device)
        own = F.one_hot(index, len(self.labels)).to(output.logits.dtype)
        return {"ce": F.cross_entropy(output.logits - self.scale * self.margin * own, index)}

    def distillation_output(self, output: EmbeddingOutput) -> Tensor:
        """Return the (B, K) scaled cosines."""
        return output.logits

    def predict(self, output: EmbeddingOutput) -> list[Prediction]:
        """Return the vector of each image."""
        return [Embedding(vector=row) for row in output.vectors.detach().float().cpu().numpy()]

    def truth(self, target: Any) -> Embedding:
        """Return a vector of the class: equal for images of one class, nearly orthogonal for others."""
        vector = np.random.default_rng(target.index).standard_normal(max(self.classes.shape[1], 64))
        return Embedding(vector=(vector / np.linalg.norm(vector)).astype(np.float32))

    def metric(self) -> Retrieval:
        """Return ``recall@1``, ``recall@5``, ``recall@10`` and ``mAP``."""
        from splitreg_heads.retrieval import Retrieval

        return Retrieval()
