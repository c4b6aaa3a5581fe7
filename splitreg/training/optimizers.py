"""Optimisers by name, with torch's options under torch's names."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from splitreg.errors import RecipeError
from splitreg.parsing import check_name, check_options

#: Learning rate of the prior's own parameters (Ballé et al. 2018, arXiv:1802.01436, as compressai does).
AUXILIARY_LR = 1e-3

#: Optimiser -> torch's class, and our defaults for some of its options.
OPTIMIZERS: Mapping[str, tuple[type[Optimizer], Mapping[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 1e-2}),
    "adam": (torch.optim.Adam, {"lr": 1e-3}),
    "sgd": (torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9}),
}


def optimizer_options(name: str) -> dict[str, Any]:
    """Return the options of an optimiser with their defaults: torch's parameters, without the weights.

    Raises:
        RecipeError: no optimiser of that name.
    """
    check_name(name, OPTIMIZERS, "optimizer")
    cls, defaults = OPTIMIZERS[name]
    parameters = list(inspect.signature(cls).parameters.values())[1:]
    return {p.name: defaults.get(p.name, p.default) for p in parameters}


def optimizer(name: str, options: Mapping[str, Any], parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Build an optimiser.

    Args:
        name: one of ``OPTIMIZERS``.
        options: keyword arguments of torch's class, e.g. ``{"lr": 2e-3, "fused": True}``.
        parameters: the weights to train.

    Raises:
        RecipeError: no optimiser of that name, an unknown option, or a value that torch refuses.
    """
    check_options(options, optimizer_options(name), f"optimizer {name!r}")
    cls, defaults = OPTIMIZERS[name]
    try:
        return cls(parameters, **{**defaults, **options})
    except (TypeError, ValueError, IndexError, RuntimeError) as cause:
        raise RecipeError(f"optimizer {name!r}: {cause}") from cause


def set_lr(target: Optimizer, base: Sequence[float], factor: float) -> None:
    """Set the learning rate of every group to its base times ``factor``."""
    for group, lr in zip(target.param_groups, base, strict=True):
        group["lr"] = lr * factor
