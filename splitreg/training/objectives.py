"""A stage's objectives: created, and checked against student and teacher before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from splitreg.errors import PlanError
from splitreg.interfaces import Objective, TeacherCapabilities
from splitreg.recipe import Stage
from splitreg.registry import Registry


def create_objectives(stage: Stage, heads: Sequence[str], registry: Registry) -> dict[str, Objective]:
    """Create a stage's objectives: name -> objective, numbered if a name comes twice.

    Raises:
        RecipeError: an objective refuses a value, or fails.
    """
    objectives: dict[str, Objective] = {}
    for part in stage.objectives:
        name = part.name if part.name not in objectives else f"{part.name}-{len(objectives)}"
        objectives[name] = registry.create("objective", part.name, heads, options=part.options)
    return objectives


def check_objectives(
    stages: Iterable[Stage],
    heads: Sequence[str],
    registry: Registry,
    student: TeacherCapabilities,
    teacher: TeacherCapabilities | None,
) -> None:
    """Refuse a run in which an objective would lack something it compares.

    Raises:
        PlanError: one sentence per mismatch, in any stage.
    """
    problems = []
    with torch.random.fork_rng(devices=[]):
        for stage in stages:
            for name, objective in create_objectives(stage, heads, registry).items():
                problems += [
                    f"stage {stage.name}, objective {name}: {problem}"
                    for problem in objective.problems(student, teacher)
                ]
    if problems:
        raise PlanError(problems)
