"""A stage's objectives: built, and compared with what student and teacher have before the first step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from splitreg.errors import PlanError
from splitreg.interfaces import Objective, TeacherCapabilities
from splitreg.recipe import Stage
from splitreg.registry import Registry


def objectives(stage: Stage, heads: Sequence[str], registry: Registry) -> dict[str, Objective]:
    """Build a stage's objectives: name -> objective, numbered where a name comes twice.

    Raises:
        RecipeError: a value that an objective refuses, or fails at.
    """
    found: dict[str, Objective] = {}
    for part in stage.objectives:
        name = part.name if part.name not in found else f"{part.name}-{len(found)}"
        found[name] = registry.create("objective", part.name, heads, options=part.options)
    return found


def check(
    stages: Iterable[Stage],
    heads: Sequence[str],
    registry: Registry,
    student: TeacherCapabilities,
    teacher: TeacherCapabilities | None,
) -> None:
    """Refuse a run in which an objective would not find what it compares.

    Raises:
        PlanError: a sentence for each mismatch, in whichever stage.
    """
    problems = []
    with torch.random.fork_rng(devices=[]):
        for stage in stages:
            for name, objective in objectives(stage, heads, registry).items():
                problems += [
                    f"stage {stage.name}, objective {name}: {problem}"
                    for problem in objective.problems(student, teacher)
                ]
    if problems:
        raise PlanError(problems)
