"""Private latents: an attacker who inverts them should see little of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from splitreg.errors import RecipeError, TrainingError
from splitreg.interfaces import Objective, StepContext, TeacherCapabilities

_NONE = "it needs the latent, but no bottleneck encodes in this run; remove it when a head is trained late"
#: Ridge of the regression, as a share of the mean variance of its inputs.
_RIDGE = 1e-3


class Inversion(Objective):
    """Share of the image's variance that the best linear attacker explains (R squared), 0 to 1.

    In every step, a ridge regression from the 3x3 latents around each position to the pixels there is solved
    exactly, and the term is its R squared over the batch. An adversary that is trained along lags behind the
    encoder; this one does not, and has no weights. ``splitreg audit`` measures a stronger attacker.

    Args:
        heads: names of the heads.
        weight: weight of the term.
        detail: pixels per side and position of the latent that the attacker guesses; the image is averaged to them.

    Raises:
        RecipeError: an option is out of range.

    Source: Xiao et al. 2020, arXiv:1911.10143 (adversarial reconstruction); here the adversary is linear, in
    closed form.
    """

    reads_heads = False

    def __init__(self, heads: Sequence[str], *, weight: float = 1.0, detail: int = 2) -> None:
        super().__init__()
        if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise RecipeError(f"objective inversion: weight must be 0 or more, got {weight!r}")
        if not isinstance(detail, int) or not 1 <= detail <= 8:
            raise RecipeError(f"objective inversion: detail must be 1 to 8, got {detail!r}")
        self.weight, self.detail = float(weight), detail

    def forward(self, context: StepContext) -> dict[str, Tensor]:
        """Return one term.

        Raises:
            TrainingError: the context has no latent, because the encoder did not run.
        """
        if context.latent is None:
            raise TrainingError(f"objective inversion: {_NONE}")
        with torch.autocast(context.latent.device.type, enabled=False):
            return {"inversion": self.weight * explained(context.latent.float(), context.images.float(), self.detail)}

    def problems(self, student: TeacherCapabilities, teacher: TeacherCapabilities | None) -> list[str]:
        """Check that there is a latent."""
        return [] if student.latent else [_NONE]


def explained(latent: Tensor, images: Tensor, detail: int) -> Tensor:
    """Return the R squared of the regression.

    Args:
        latent: (B, C, h, w).
        images: (B, 3, H, W).
        detail: pixels per side and position.
    """
    height, width = latent.shape[-2:]
    small = functional.adaptive_avg_pool2d(images, (height * detail, width * detail))
    targets = functional.pixel_unshuffle(small, detail).movedim(1, -1).flatten(0, -2)  # (N, 3 detail^2)
    padded = functional.pad(latent, (1, 1, 1, 1), mode="replicate")
    inputs = functional.unfold(padded, 3).transpose(1, 2).flatten(0, 1)  # (N, 9 C)
    inputs, targets = inputs - inputs.mean(0), targets - targets.mean(0)
    inputs = inputs / inputs.std(0, correction=0).clamp(min=1e-6)  # the scale of a channel is no secret
    gram = inputs.T @ inputs / len(inputs)
    ridge = _RIDGE * torch.eye(len(gram), device=gram.device)
    cross = inputs.T @ targets / len(inputs)
    solution = torch.linalg.solve(gram + ridge, cross)
    error = (targets - inputs @ solution).square().sum()
    share: Tensor = 1 - error / targets.square().sum().clamp(min=1e-6)
    return share
