"""Schedules of the learning rate and of the rate term, as functions of the step.

Beside our own, ``timm-NAME`` is each scheduler of ``timm.scheduler`` that depends on the step alone. Each schedule
returns the factor on the optimiser's ``lr`` for step ``step`` (from 0) of ``steps``.
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from splitreg.errors import RecipeError
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


#: Schedulers of timm's factory; its ``plateau`` depends on a metric: use ``best`` and ``patience``.
TIMM_SCHEDULES = ("cosine", "tanh", "step", "multistep", "poly")
#: Beginning of their names in recipes.
TIMM = "timm-"
#: Arguments of timm's factory that the stage sets.
_SET_BY_STAGE = (
    "optimizer",
    "sched",
    "num_epochs",
    "patience_epochs",
    "plateau_mode",
    "step_on_epochs",
    "updates_per_epoch",
)


def schedule(name: str, options: Mapping[str, Any], *, steps: int, per_epoch: int) -> Schedule:
    """Return step -> factor.

    Args:
        name: one of ``SCHEDULES``, or ``timm-`` and one of ``TIMM_SCHEDULES``.
        options: its keyword options.
        steps: steps of the whole stage.
        per_epoch: steps of one epoch.

    Raises:
        RecipeError: no schedule of that name, an option that it does not have, or a value without a meaning.
    """
    check_name(name, (*SCHEDULES, *(TIMM + theirs for theirs in TIMM_SCHEDULES)), "schedule")
    if name.startswith(TIMM):
        return _timm_schedule(name.removeprefix(TIMM), options, steps, per_epoch)
    function = SCHEDULES[name]
    check_options(options, keyword_options(function), f"schedule {name!r}")
    chosen = partial(function, steps=steps, per_epoch=per_epoch, **options)
    try:
        factors = chosen(0), chosen(steps - 1)
    except (TypeError, ValueError, ArithmeticError) as cause:
        raise RecipeError(f"schedule {name!r}: {cause}; it has the options {dict(options)}") from cause
    if not all(map(math.isfinite, factors)):
        raise RecipeError(f"schedule {name!r}: {dict(options)} gives the factors {factors} of the learning rate")
    return chosen


def _timm_schedule(name: str, options: Mapping[str, Any], steps: int, per_epoch: int) -> Schedule:
    """Return a scheduler of timm's as step -> factor: it sets the learning rate of an optimiser whose rate is 1."""
    import torch

    create_scheduler_v2: Any = importlib.import_module("timm.scheduler").create_scheduler_v2
    known = [key for key in inspect.signature(create_scheduler_v2).parameters if key not in _SET_BY_STAGE]
    check_options(options, known, f"schedule {TIMM + name!r}")
    holder = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    try:
        scheduler, _ = create_scheduler_v2(
            holder,
            name,
            num_epochs=-(-steps // per_epoch),
            step_on_epochs=False,
            updates_per_epoch=per_epoch,
            **options,
        )
    except (TypeError, ValueError, AssertionError) as cause:
        raise RecipeError(f"schedule {TIMM + name!r}: {cause or options}") from cause

    def factor(step: int) -> float:
        scheduler.step_update(step)
        return float(holder.param_groups[0]["lr"])

    return factor


def ramp(value: float, warmup: float, epoch: float) -> float:
    """Return ``value`` after a linear rise from 0 over ``warmup`` epochs; ``epoch`` counts fractions."""
    return value * min(1.0, epoch / warmup) if warmup > 0 else value


def _rise(step: int, per_epoch: int, warmup: float) -> float:
    return min(1.0, (step + 1) / (warmup * per_epoch)) if warmup > 0 else 1.0


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2
