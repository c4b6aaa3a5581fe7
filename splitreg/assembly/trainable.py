"""What the training loop needs of a model."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from splitreg.assembly.planned import Plan
from splitreg.interfaces import Bottleneck, Head
from splitreg.tasks import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOutput:
    """Output of the forward pass in training.

    Args:
        features: stride -> (B, C, H/s, W/s), the input of the heads.
        rate: (B,) bits per image.
        outputs: head -> raw output for the images that were selected for it.
    """

    features: dict[int, Tensor]
    rate: Tensor
    outputs: dict[str, Any]


class Trainable(nn.Module, abc.ABC):
    """A model, or a part of one, that ``splitreg.training`` can train.

    Attributes:
        plan: how the model was assembled.
        bottleneck: the bottleneck of the model, whether or not it learns.
    """

    plan: Plan
    bottleneck: Bottleneck

    @property
    @abc.abstractmethod
    def heads(self) -> tuple[str, ...]:
        """Names of the heads that learn or are validated."""

    @abc.abstractmethod
    def head(self, name: str) -> Head:
        """Return a head by name."""

    @abc.abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """Return the parts that can be trained or frozen, by name; together they hold each weight once."""

    @abc.abstractmethod
    def forward(self, inputs: Tensor, select: Mapping[str, Tensor | None] | None = None) -> ModelOutput:
        """Run the model, differentiable.

        Args:
            inputs: a batch: (B, 3, H, W) normalised images, or what takes their place.
            select: head -> indexes of the images to run it on (None: all; an empty tensor: none). None
                runs all heads on all images.
        """

    @abc.abstractmethod
    def loss(self, outputs: Mapping[str, Any], targets: Mapping[str, Sequence[Target]]) -> dict[str, dict[str, Tensor]]:
        """Return head -> part -> scalar; ``targets[head]`` has one target per image of ``outputs[head]``."""
