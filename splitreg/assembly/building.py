"""Allocate the weights of a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from splitreg.assembly.adapter import Branch
from splitreg.assembly.model import SplitModel
from splitreg.assembly.planned import Plan
from splitreg.assembly.planning import plan
from splitreg.interfaces import Body, Bottleneck
from splitreg.recipe import Recipe
from splitreg.registry import Registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The modules of a model; ``prefix`` is None if the bottleneck reads the image."""

    prefix: nn.Module | None
    bottleneck: Bottleneck
    body: Body
    branches: dict[str, Branch]


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
    parts = allocate(planned, weights=weights)
    return SplitModel(
        planned, prefix=parts.prefix, bottleneck=parts.bottleneck, body=parts.body, branches=parts.branches
    )


def allocate(planned: Plan, *, weights: bool) -> Parts:
    """Build the modules of a plan, seeded by the recipe; ``weights``: see ``assemble``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(planned.recipe.seed)
        backbone = planned.backbone.create(weights=weights)
        prefix, body = backbone.split(planned.recipe.cut or "")
        return Parts(
            prefix=None if planned.recipe.bottleneck.source == "image" else prefix,
            bottleneck=planned.bottleneck.create(),
            body=body,
            branches={head.name: head.create() for head in planned.heads},
        )
