"""Weighted sum of the heads' losses."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from splitreg.errors import RecipeError, suggest
from splitreg.interfaces import Objective, StepContext


class Sum(Objective):
    """Sum of all parts of all heads' losses.

    Args:
        heads: names of the heads.
        weights: head -> weight; by default 1.

    Raises:
        RecipeError: a weight is for an unknown head, negative or not finite.
    """

    def __init__(self, heads: Sequence[str], *, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.weights = dict.fromkeys(heads, 1.0)
        for head, weight in (weights or {}).items():
            if head not in self.weights:
                raise RecipeError(
                    f"objective sum has a weight for an unknown head {head!r}.{suggest(head, heads)} "
                    f"There are: {', '.join(heads)}"
                )
            if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise RecipeError(f"objective sum: the weight of {head!r} must be 0 or more, got {weight!r}")
            self.weights[head] = float(weight)

    def forward(self, context: StepContext) -> dict[str, Tensor]:
        """Return one term per head."""
        return {
            head: self.weights[head] * sum(parts.values(), context.rate.new_zeros(()))
            for head, parts in context.losses.items()
        }
