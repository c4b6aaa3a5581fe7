"""Allocate the weights of a plan."""

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
        recipe: a plan, a recipe, or nothing and its keys: ``build(backbone="resnet50", heads=["det", "seg"])``.
        registry: the installed plugins, by default.
        keys: see ``Recipe``.

    Raises:
        PlanError: the parts do not fit; lists every mismatch.
    """
    planned = recipe if isinstance(recipe, Plan) else plan(recipe, registry=registry, **keys)
    return assemble(planned, weights=True)


def assemble(planned: Plan, *, weights: bool) -> SplitModel:
    """Allocate the weights of a plan; ``weights``: load pretrained ones where the recipe asks for them."""
    return SplitModel(planned, allocate(planned, weights=weights))
