"""Optimisers by name, with torch's options under torch's names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from splitreg.errors import RecipeError
from splitreg.training.schedules import chosen

#: Learning rate of the prior's own parameters (Balle et al. 2018, arXiv:1802.01436, as compressai trains them).
AUXILIARY_LR = 1e-3


def _adamw(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float = 1e-3,
    weight_decay: float = 1e-2,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Optimizer:
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, betas=(betas[0], betas[1]), eps=eps)


def _adam(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float = 1e-3,
    weight_decay: float = 0.0,
    betas: Sequence[float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> Optimizer:
    return torch.optim.Adam(parameters, lr=lr, weight_decay=weight_decay, betas=(betas[0], betas[1]), eps=eps)


def _sgd(
    parameters: Iterable[nn.Parameter],
    *,
    lr: float = 1e-2,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    nesterov: bool = False,
) -> Optimizer:
    return torch.optim.SGD(parameters, lr=lr, weight_decay=weight_decay, momentum=momentum, nesterov=nesterov)


OPTIMIZERS: Mapping[str, Callable[..., Optimizer]] = {"adamw": _adamw, "adam": _adam, "sgd": _sgd}


def optimizer(name: str, options: Mapping[str, Any], parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Build an optimiser.

    Raises:
        RecipeError: no optimiser of that name, an option that it does not have, or a value that torch refuses.
    """
    build: Callable[..., Optimizer] = chosen("optimizer", OPTIMIZERS, name, options)
    try:
        return build(parameters, **options)
    except (TypeError, ValueError, IndexError) as cause:
        raise RecipeError(f"optimizer {name}: {cause}") from cause


def set_lr(target: Optimizer, base: Sequence[float], factor: float) -> None:
    """Set the learning rate of every group to its base times ``factor``."""
    for group, lr in zip(target.param_groups, base, strict=True):
        group["lr"] = lr * factor
