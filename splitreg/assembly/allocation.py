"""Allocate the modules of a plan."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from splitreg.assembly.adapter import Branch
from splitreg.assembly.planned import Plan
from splitreg.interfaces import Body, Bottleneck


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The modules of a model; ``prefix`` is None if the bottleneck reads the image."""

    prefix: nn.Module | None
    bottleneck: Bottleneck
    body: Body
    branches: dict[str, Branch]


def allocate(planned: Plan, *, weights: bool) -> Parts:
    """Build the modules of a plan, seeded by the recipe; ``weights``: load pretrained ones if the recipe asks for them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(planned.recipe.seed)
        backbone = planned.backbone.create(weights=weights)
        prefix, body = backbone.split(planned.recipe.cut or "")
        return Parts(
            prefix=None if planned.recipe.bottleneck.source == "image" else prefix,
            bottleneck=planned.bottleneck.create(),
            body=body,
            branches={head.name: head.create(weights=weights) for head in planned.heads},
        )
