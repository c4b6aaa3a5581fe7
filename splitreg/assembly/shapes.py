"""Shapes, parameters, multiply-accumulates and memory of a model on torch's meta device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from splitreg.assembly.adapter import Branch
from splitreg.interfaces import Body, Bottleneck


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """Shapes at one coded size: ``latent`` (C, h, w), ``feature`` (h, w) at the cut."""

    latent: tuple[int, int, int]
    feature: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cost of one part for one image.

    Args:
        parameters: number of weights.
        macs: multiply-accumulates of convolutions and matrix products.
        peak_bytes: largest inputs plus outputs of one layer, in float32.
    """

    parameters: int
    macs: int
    peak_bytes: int


class Skeleton:
    """A model on the meta device: shapes and costs, but no weights."""

    def __init__(
        self,
        *,
        prefix: nn.Module,
        bottleneck: Bottleneck,
        body: Body,
        branches: dict[str, Branch],
        from_image: bool,
    ) -> None:
        self.prefix = prefix.eval()
        self.bottleneck = bottleneck.eval()
        self.body = body.eval()
        self.branches = {name: branch.eval() for name, branch in branches.items()}
        self.from_image = from_image
        self.shapes: Callable[[tuple[int, int]], Shapes] = functools.lru_cache(maxsize=64)(self._shapes)

    def _image(self, size: tuple[int, int]) -> Tensor:
        return torch.empty((1, 3, *size), device="meta")

    def feature(self, size: tuple[int, int]) -> Tensor:
        """Return the feature at the cut for an input of (height, width)."""
        with torch.no_grad():
            feature: Tensor = self.prefix(self._image(size))
        return feature

    def _shapes(self, size: tuple[int, int]) -> Shapes:
        feature = self.feature(size)
        with torch.no_grad():
            latent = self.bottleneck.analyse(self._image(size) if self.from_image else feature)
        return Shapes(
            latent=(latent.shape[1], latent.shape[2], latent.shape[3]), feature=(feature.shape[2], feature.shape[3])
        )

    def costs(self, size: tuple[int, int]) -> dict[str, Cost]:
        """Return the costs of ``edge``, ``server`` (decoder, body), ``heads.NAME`` and ``unsplit`` (backbone)."""
        image, feature, bottleneck = self._image(size), self.feature(size), self.bottleneck
        shapes = self.shapes(size)
        latent = torch.empty((1, *shapes.latent), device="meta")
        edge = [bottleneck.encoder] if self.from_image else [self.prefix, bottleneck.encoder]
        costs = {
            "edge": _cost(
                edge, lambda: bottleneck.analyse(image if self.from_image else self.prefix(image)), first_input=image
            ),
            "server": _cost(
                [bottleneck.decoder, self.body],
                lambda: (bottleneck.synthesise(latent), self.body(feature)),
                first_input=latent,
            ),
        }
        with torch.no_grad():
            features = self.body(feature)
        for name, branch in self.branches.items():
            costs[f"heads.{name}"] = _cost([branch], functools.partial(branch, features, size), first_input=feature)
        costs["unsplit"] = _cost([self.prefix, self.body], lambda: self.body(self.prefix(image)), first_input=image)
        return costs


def _cost(modules: Iterable[nn.Module], run: Callable[[], Any], first_input: Tensor) -> Cost:
    modules = list(modules)
    peak = first_input.numel()
    hooks = []

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal peak
        peak = max(peak, _elements(inputs) + _elements(output))

    for module in modules:
        for leaf in module.modules():
            if not any(leaf.children()):
                hooks.append(leaf.register_forward_hook(record))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    for hook in hooks:
        hook.remove()
    weights = {id(p): p.numel() for module in modules for p in module.parameters()}
    return Cost(parameters=sum(weights.values()), macs=counter.get_total_flops() // 2, peak_bytes=4 * peak)


def _elements(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel()
    if isinstance(value, dict):
        return sum(map(_elements, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_elements, value))
    return 0
