"""Metric of embeddings: each image searches all others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from splitreg.tasks import ClassTarget
from splitreg_heads.embedding_prediction import Embedding

_RANKS = (1, 5, 10)


class Retrieval(Metric):
    """``recall@k``: share of images with one of their class among the k nearest others; ``mAP`` of the ranking.

    Images that are alone in their class search nothing, but are found. NaN if all are alone.

    Source: Song et al. 2016, arXiv:1511.06452 (recall@k); Zheng et al. 2015, Market-1501 (mAP).
    """

    full_state_update = False
    vectors: list[Tensor]
    indexes: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("vectors", default=[], dist_reduce_fx="cat")
        self.add_state("indexes", default=[], dist_reduce_fx="cat")

    def update(self, predictions: Sequence[Embedding], targets: Sequence[ClassTarget]) -> None:
        """Keep one batch."""
        for prediction, target in zip(predictions, targets, strict=True):
            self.vectors.append(torch.tensor(prediction.vector, device=self.device)[None])
            self.indexes.append(torch.tensor([target.index], device=self.device))

    def compute(self) -> dict[str, float]:
        """Return the shares and the mean average precision."""
        names = [*(f"recall@{rank}" for rank in _RANKS), "mAP"]
        if not len(self.vectors):
            return dict.fromkeys(names, math.nan)
        vectors = np.concatenate([v.cpu().numpy().reshape(-1, v.shape[-1]) for v in self.vectors]).astype(np.float64)
        indexes = np.concatenate([index.cpu().numpy().reshape(-1) for index in self.indexes])
        rows = []
        for query, vector in enumerate(vectors):
            likeness = vectors @ vector
            likeness[query] = -np.inf
            order = np.argsort(-likeness, kind="stable")[:-1]
            hits = indexes[order] == indexes[query]
            if hits.any():
                precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
                rows.append([*(hits[:rank].any() for rank in _RANKS), precision[hits].mean()])
        mean = np.mean(np.array(rows, np.float64), axis=0) if rows else np.full(len(names), math.nan)
        return {name: float(value) for name, value in zip(names, mean, strict=True)}
