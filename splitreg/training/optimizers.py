"""Optimisers by name: torch's AdamW, Adam and SGD, and all others of ``timm.optim``, with their own options."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from splitreg.errors import RecipeError, suggest
from splitreg.files import is_finite
from splitreg.parsing import check_options

#: Learning rate of the prior's own parameters (Ballé et al. 2018, arXiv:1802.01436, as compressai does).
AUXILIARY_LR = 1e-3

#: Optimiser -> torch's class, and our defaults for some of its options.
OPTIMIZERS: Mapping[str, tuple[type[Optimizer], Mapping[str, Any]]] = {
    "adamw": (torch.optim.AdamW, {"lr": 1e-3, "weight_decay": 1e-2}),
    "adam": (torch.optim.Adam, {"lr": 1e-3}),
    "sgd": (torch.optim.SGD, {"lr": 1e-2, "momentum": 0.9}),
}

#: Beginning of a name of timm's -> learning rate, where its own default is none, or too large for fine-tuning. The first
#: that fits counts. Lion: a tenth of AdamW's (Chen et al. 2023, arXiv:2302.06675); RMSprop and momentum as AdamW and SGD.
LEARNING_RATES: Mapping[str, float] = {
    "lion": 1e-4, "clion": 1e-4, "rmsprop": 1e-3, "crmsprop": 1e-3, "adafactor": 1e-3, "cadafactor": 1e-3, "sgd": 1e-2,
    "csgd": 1e-2, "momentum": 1e-2, "nesterov": 1e-2, "lar": 1e-1, "nlar": 1e-1,
}  # fmt: skip


def optimizer_names() -> list[str]:
    """Return the names of all optimisers; some need another package, which the error then names."""
    timm = _timm()
    infos = ((name, timm.get_optimizer_info(name)) for name in timm.list_optimizers())
    return sorted({*OPTIMIZERS, *(name for name, info in infos if not info.second_order)})


def optimizer_options(name: str) -> dict[str, Any]:
    """Return the options of an optimiser with their defaults: those of its class, without the weights.

    Raises:
        RecipeError: no optimiser of that name, or its package is not installed.
    """
    factory, defaults = _factory(name)
    parameters = list(inspect.signature(factory).parameters.values())[1:]
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: defaults.get(p.name, p.default) for p in named}


def optimizer(name: str, options: Mapping[str, Any], parameters: Iterable[Any]) -> Optimizer:
    """Build an optimiser.

    Args:
        name: one of ``optimizer_names``.
        options: keyword arguments of its class, e.g. ``{"lr": 2e-3, "fused": True}``.
        parameters: the weights to train, or groups of them as torch's optimisers take them.

    Raises:
        RecipeError: no optimiser of that name, an unknown option, or a value that its class refuses.
    """
    check_options(options, optimizer_options(name), f"optimizer {name!r}")
    factory, defaults = _factory(name)
    if not is_finite(options.get("lr", 0.0)):
        raise RecipeError(f"optimizer {name!r}: lr must be a finite number, got {options['lr']!r}")
    try:
        return factory(parameters, **{**defaults, **options})
    except (TypeError, ValueError, IndexError, RuntimeError, AssertionError) as cause:
        raise RecipeError(f"optimizer {name!r}: {cause}") from cause


def _timm() -> Any:
    """Return ``timm.optim``: imported late, because reading a recipe does not need it; its types are not exported."""
    return importlib.import_module("timm.optim")


@functools.cache
def _factory(name: str) -> tuple[Callable[..., Optimizer], Mapping[str, Any]]:
    """Return what builds an optimiser, and our defaults."""
    if name in OPTIMIZERS:
        return OPTIMIZERS[name]
    timm = _timm()
    names = optimizer_names()
    if name not in names:
        raise RecipeError(
            f"no optimizer named {name!r}.{suggest(name, names)} Available: {', '.join(OPTIMIZERS)}, and "
            f"{len(names) - len(OPTIMIZERS)} more that timm.optim.list_optimizers() lists"
        )
    try:
        factory = timm.get_optimizer_class(name)
    except (ImportError, AttributeError) as cause:
        raise RecipeError(f"optimizer {name!r} needs a package that is not installed: {cause}") from cause
    default = inspect.signature(factory).parameters["lr"].default
    own = next((lr for start, lr in LEARNING_RATES.items() if name.startswith(start)), None)
    momentum = {"momentum": 0.9} if timm.get_optimizer_info(name).has_momentum else {}  # as timm's own factory
    return factory, {"lr": own or (1e-3 if default in (None, inspect.Parameter.empty) else default), **momentum}


def set_lr(target: Optimizer, base: Sequence[float], factor: float) -> None:
    """Set the learning rate of every group to its base times ``factor``."""
    for group, lr in zip(target.param_groups, base, strict=True):
        group["lr"] = lr * factor


def scaled_groups(
    parameters: Iterable[nn.Parameter], factors: Mapping[int, float], lr: Any
) -> list[nn.Parameter] | list[dict[str, Any]]:
    """Group weights by their learning rate; without factors, return them as they are.

    Args:
        parameters: the weights.
        factors: ``id`` of a weight -> factor on the learning rate; 1 for others.
        lr: the learning rate.
    """
    listed = list(parameters)
    if not factors:
        return listed
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in listed:
        groups.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
    return [{"params": members, "lr": lr * factor} for factor, members in groups.items() if members]


def backbone_factors(parts: Iterable[nn.Module], factor: float, layer_decay: float) -> dict[int, float]:
    """Return ``id`` of each weight of a backbone -> factor on its learning rate.

    Args:
        parts: the backbone's parts, from the image on.
        factor: of the last block.
        layer_decay: factor from each block to the one before it, as in BEiT (Bao et al. 2021, arXiv:2106.08254).
            A block is what has the same first numbered name, such as ``blocks.3``.
    """
    if factor == 1 and layer_decay == 1:
        return {}
    depths: dict[str, int] = {}
    blocks: dict[int, int] = {}
    for number, part in enumerate(parts):
        for name, parameter in part.named_parameters():
            blocks[id(parameter)] = depths.setdefault(f"{number}/{_block(name)}", len(depths))
    return {key: factor * layer_decay ** (len(depths) - 1 - depth) for key, depth in blocks.items()}


def _block(name: str) -> str:
    """Return the name up to the first number: ``net.blocks.3.0.conv.weight`` -> ``net.blocks.3``."""
    words = name.split(".")
    number = next((place for place, word in enumerate(words) if word.isdecimal()), None)
    return ".".join(words[: len(words) - 1 if number is None else number + 1])
