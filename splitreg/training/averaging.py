"""An exponential moving average of the weights, which can stand in for them (Polyak & Juditsky 1992)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Average:
    """Running average of all floating-point weights and statistics of a module; integer buffers are not touched.

    The decay of update n is ``min(decay, (1 + n) / (10 + n))``, so that the first weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self._live = {name: t for name, t in module.state_dict().items() if t.is_floating_point()}
        self._mean = {name: tensor.clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        torch._foreach_lerp_(list(self._mean.values()), list(self._live.values()), 1 - decay)

    @torch.no_grad()
    def commit(self) -> None:
        """Replace the module's weights by the average."""
        _copy(self._mean, self._live)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the average stand in for the weights for a while; afterwards they are back bit for bit."""
        kept = {name: tensor.clone() for name, tensor in self._live.items()}
        self.commit()
        try:
            yield
        finally:
            _copy(kept, self._live)

    def state_dict(self) -> dict[str, object]:
        """Return what ``load_state_dict`` reads."""
        return {"updates": self.updates, "mean": self._mean}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from a saved average."""
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        _copy(state["mean"], self._mean)  # type: ignore[arg-type]


@torch.no_grad()
def _copy(source: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
    for name, tensor in target.items():
        tensor.copy_(source[name])
