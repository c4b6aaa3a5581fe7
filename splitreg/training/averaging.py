"""Exponential moving average of the weights (Polyak & Juditsky 1992)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAverage:
    """Moving average of the floating-point weights and statistics of some modules.

    The decay of update n is ``min(decay, (1 + n) / (10 + n))``, so the first weights are forgotten fast.
    Integer buffers are copied.

    Args:
        modules: the modules that learn; copied once.
        decay: largest decay, 0 to 1.
    """

    def __init__(self, modules: Sequence[nn.Module], decay: float) -> None:
        self._live, self._max_decay, self._decay = nn.ModuleList(modules), decay, 0.0
        self._average = AveragedModel(self._live, multi_avg_fn=self._move, use_buffers=True)
        self._average.n_averaged.fill_(1)  # the initial weights count; otherwise the first update is a copy

    @torch.no_grad()
    def update(self) -> None:
        """Add the current weights."""
        updates = int(self._average.n_averaged) - 1
        self._decay = min(self._max_decay, (1 + updates) / (10 + updates))
        self._average.update_parameters(self._live)

    @torch.no_grad()
    def commit(self) -> None:
        """Replace the weights by the average."""
        torch._foreach_copy_(_tensors(self._live), _tensors(self._average.module))

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Use the average in place of the weights; afterwards they are back, bit for bit."""
        live = _tensors(self._live)
        backup = [tensor.clone() for tensor in live]
        self.commit()
        try:
            yield
        finally:
            torch._foreach_copy_(live, backup)

    def state_dict(self) -> dict[str, Any]:
        """Return what ``load_state_dict`` reads."""
        return dict(self._average.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved average."""
        self._average.load_state_dict(state)

    def _move(self, averages: _Tensors, weights: _Tensors, _: Tensor | int) -> None:
        """Move averages towards weights; all have one dtype."""
        if averages[0].is_floating_point():
            torch._foreach_lerp_(averages, weights, 1 - self._decay)
        else:
            torch._foreach_copy_(averages, weights)


def _tensors(module: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*module.parameters(), *module.buffers())]
