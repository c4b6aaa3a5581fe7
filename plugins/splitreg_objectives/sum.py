"""The weighted sum."""

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
        weights: head -> weight; 1 for a head that is not named.

    Raises:
        RecipeError: a weight for a head that is not there, or one that is negative or not finite.
    """

    def __init__(self, heads: Sequence[str], *, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.weights = dict.fromkeys(heads, 1.0)
        for head, weight in (weights or {}).items():
            if head not in self.weights:
                raise RecipeError(
                    f"objective sum has a weight for {head!r}, which is no head.{suggest(head, heads)} "
                    f"There are: {', '.join(heads)}"
                )
            if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise RecipeError(f"objective sum: the weight of {head!r} must be zero or more, got {weight!r}")
            self.weights[head] = float(weight)

    def forward(self, context: StepContext) -> dict[str, Tensor]:
        """Return one term a head."""
        return {
            head: self.weights[head] * sum(parts.values(), context.rate.new_zeros(()))
            for head, parts in context.losses.items()
        }
