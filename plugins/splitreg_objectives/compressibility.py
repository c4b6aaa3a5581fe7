"""Compressible latents: a small residual after the prediction and transform of an image codec."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from splitreg_classic.blocks import basis, tile
from torch import Tensor

from splitreg.errors import RecipeError, TrainingError
from splitreg.interfaces import Objective, StepContext, TeacherCapabilities


class Compressibility(Objective):
    """Mean of |DCT-II(0.5 (F D_w + D_h^T F))| over the channels F of the scaled latent.

    D is the identity with -1 on the first superdiagonal: F D_w and D_h^T F are the differences to the
    left and to the upper neighbour. The DCT is orthonormal, in both directions.

    Args:
        heads: names of the heads.
        weight: weight of the term.
        scale: divisor of the latents: ``"deviation"``: the standard deviation of the batch; ``"range"``:
            maximum minus minimum, like a min-max quantiser, which outliers enlarge; ``"none"``: the
            term falls when the latent shrinks, which saves no bytes.
        tiled: take the channels as one image of tiles, like the image codecs; unused tiles are zero.

    Raises:
        RecipeError: an option is out of range.

    Source: Alvar & Bajic 2019, arXiv:1902.05179.
    """

    reads_heads = False

    def __init__(
        self, heads: Sequence[str], *, weight: float = 1.0, scale: str = "deviation", tiled: bool = False
    ) -> None:
        super().__init__()
        if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise RecipeError(f"objective compressibility: weight must be 0 or more, got {weight!r}")
        if scale not in _SCALES:
            raise RecipeError(f"objective compressibility: scale must be {', '.join(_SCALES)}; got {scale!r}")
        self.weight, self.scale, self.tiled = float(weight), scale, tiled

    def forward(self, context: StepContext) -> dict[str, Tensor]:
        """Return one term.

        Raises:
            TrainingError: the context has no latent, because the encoder did not run.
        """
        if context.latent is None:
            raise TrainingError(f"objective compressibility: {_NONE}")
        latent = context.latent.float()  # 16 bits are too few for sums
        with torch.autocast(latent.device.type, enabled=False):
            latent = latent / _SCALES[self.scale](latent).clamp(min=1e-6)
            images = tile(latent) if self.tiled else latent
            return {"compressibility": self.weight * transform(residual(images)).abs().mean()}

    def problems(self, student: TeacherCapabilities, teacher: TeacherCapabilities | None) -> list[str]:
        """Check that there is a latent."""
        return [] if student.latent else [_NONE]


_SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "deviation": lambda latent: latent.std(correction=0),
    "range": lambda latent: latent.amax() - latent.amin(),
    "none": lambda latent: latent.new_ones(()),
}

_NONE = "it needs the latent, but no bottleneck encodes in this run; remove it when a head is trained late"


def residual(images: Tensor) -> Tensor:
    """(..., h, w) -> 0.5 (F D_w + D_h^T F): mean difference to the left and to the upper neighbour.

    >>> residual(torch.tensor([[1.0, 2.0], [4.0, 8.0]])).tolist()
    [[1.0, 1.5], [3.5, 5.0]]
    """
    left = torch.nn.functional.pad(images, (1, 0))[..., :-1]
    above = torch.nn.functional.pad(images, (0, 0, 1, 0))[..., :-1, :]
    return images - 0.5 * (left + above)


def transform(images: Tensor) -> Tensor:
    """(..., h, w) -> orthonormal DCT-II in both directions."""
    rows, columns = (basis(size, images) for size in images.shape[-2:])
    return rows @ images @ columns.T
