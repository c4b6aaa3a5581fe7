"""Schedules of the learning rate and of the rate term, as functions of the step (no torch, no state).

Each schedule returns the factor on the optimiser's ``lr`` for step ``step`` (from 0) of ``steps``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from splitreg.parsing import check_name, check_options, keyword_options

Schedule = Callable[[int], float]


def constant(step: int, steps: int, per_epoch: int, *, warmup: float = 0.0) -> float:
    """Return 1, after a linear rise over ``warmup`` epochs."""
    return _rise(step, per_epoch, warmup)


def one_cycle(
    step: int, steps: int, per_epoch: int, *, rise: float = 0.3, start: float = 1 / 25, end: float = 4e-6
) -> float:
    """Rise by a cosine from ``start`` to 1 in the first ``rise`` of all steps, then fall by a cosine to ``end``.

    Source: Smith & Topin 2017 (arXiv:1708.07120); defaults and position of the peak as in torch's OneCycleLR.
    """
    peak, last = rise * steps - 1, steps - 1
    if step <= peak:
        return _cosine(start, 1.0, step / peak) if peak > 0 else 1.0
    return _cosine(1.0, end, (step - peak) / (last - peak)) if last > peak else 1.0


def cosine(step: int, steps: int, per_epoch: int, *, floor: float = 0.0, warmup: float = 0.0) -> float:
    """Fall from 1 to ``floor`` along half a cosine (Loshchilov & Hutter 2016, arXiv:1608.03983)."""
    return _cosine(1.0, floor, step / steps) * _rise(step, per_epoch, warmup)


def multistep(
    step: int, steps: int, per_epoch: int, *, milestones: Sequence[float] = (), gamma: float = 0.1, warmup: float = 0.0
) -> float:
    """Multiply by ``gamma`` at each of the ``milestones``, given in epochs."""
    passed = sum(step >= milestone * per_epoch for milestone in milestones)
    return float(gamma**passed * _rise(step, per_epoch, warmup))


def poly(step: int, steps: int, per_epoch: int, *, power: float = 0.9, warmup: float = 0.0) -> float:
    """Fall as ``(1 - step / steps) ** power`` (Chen et al. 2017, arXiv:1706.05587)."""
    return float((1 - step / steps) ** power * _rise(step, per_epoch, warmup))


SCHEDULES: Mapping[str, Callable[..., float]] = {
    "constant": constant, "one-cycle": one_cycle, "cosine": cosine, "multistep": multistep, "poly": poly,
}  # fmt: skip


def schedule(name: str, options: Mapping[str, Any], *, steps: int, per_epoch: int) -> Schedule:
    """Return step -> factor.

    Args:
        name: one of ``SCHEDULES``.
        options: its keyword options.
        steps: steps of the whole stage.
        per_epoch: steps of one epoch.

    Raises:
        RecipeError: no schedule of that name, or an option that it does not have.
    """
    check_name(name, SCHEDULES, "schedule")
    function = SCHEDULES[name]
    check_options(options, keyword_options(function), f"schedule {name!r}")
    return partial(function, steps=steps, per_epoch=per_epoch, **options)


def ramp(value: float, warmup: float, epoch: float) -> float:
    """Return ``value`` after a linear rise from 0 over ``warmup`` epochs; ``epoch`` counts fractions."""
    return value * min(1.0, epoch / warmup) if warmup > 0 else value


def _rise(step: int, per_epoch: int, warmup: float) -> float:
    return min(1.0, (step + 1) / (warmup * per_epoch)) if warmup > 0 else 1.0


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2
