"""Build models from recipes."""

from __future__ import annotations

from typing import Any

from splitreg.assembly.allocation import allocate
from splitreg.assembly.model import SplitModel
from splitreg.assembly.planned import Plan
from splitreg.assembly.planning import plan
from splitreg.recipe import Recipe
from splitreg.registry import Registry


def build(recipe: Plan | Recipe | None = None, *, registry: Registry | None = None, **keys: Any) -> SplitModel:
    """Plan and build a model; the same seed gives the same weights.

    Args:
        recipe: a plan or a recipe; or None and the recipe's keys, as in
            ``build(backbone="resnet50", heads=["det", "seg"])``.
        registry: the installed plugins, by default.
        keys: keys of ``Recipe``.

    Raises:
        PlanError: the parts do not fit together; lists every mismatch.
    """
    planned = recipe if isinstance(recipe, Plan) else plan(recipe, registry=registry, **keys)
    return assemble(planned, weights=True)


def assemble(planned: Plan, *, weights: bool) -> SplitModel:
    """Build the model of a plan; ``weights``: load pretrained ones if the recipe asks for them."""
    return SplitModel(planned, allocate(planned, weights=weights))
