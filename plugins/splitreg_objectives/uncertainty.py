"""Weights of the heads that are learned with the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from splitreg.interfaces import Objective, StepContext


class Uncertainty(Objective):
    """Homoscedastic uncertainty: exp(-s) L + s per head, with a learned s.

    L is the sum of the parts of a head's loss. A head without a target in a batch adds nothing.

    Args:
        heads: names of the heads.

    Source: Kendall et al. 2018, arXiv:1705.07115, in the form of Alvar & Bajic 2019, arXiv:1902.05179.
    """

    def __init__(self, heads: Sequence[str]) -> None:
        super().__init__()
        self.log_variances = nn.ParameterDict({head: nn.Parameter(torch.zeros(())) for head in heads})

    def forward(self, context: StepContext) -> dict[str, Tensor]:
        """Return one term per head."""
        terms = {}
        for head, parts in context.losses.items():
            s = self.log_variances[head]
            terms[head] = torch.exp(-s) * sum(parts.values(), context.rate.new_zeros(())) + s
        return terms
