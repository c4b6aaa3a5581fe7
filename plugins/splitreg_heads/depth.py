"""Head ``depth``: metres for every pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from splitreg.errors import RecipeError
from splitreg.evaluation.metrics import DepthError
from splitreg.interfaces import Head
from splitreg.predictions import Depth
from splitreg.specs import FeatureSpec
from splitreg.tasks import DEPTH, Prediction
from splitreg_heads.pyramid import Pyramid, dense_strides, enlarge, separable

_LOSSES = ("l1", "silog")


@dataclass(frozen=True, slots=True)
class DepthOutput:
    """``log_depth`` (B, 1, h, w) at ``stride`` of an image of ``size`` (H, W)."""

    log_depth: Tensor
    stride: int
    size: tuple[int, int]

    def full(self) -> Tensor:
        """Return (B, H, W) logarithms of metres."""
        return enlarge(self.log_depth, self.stride, self.size)[:, 0]


class DepthHead(Head):
    """Feature pyramid, then one value a pixel between the logarithms of the nearest and the farthest depth.

    Args:
        features: any strides; those of 4, 8, 16, 32 that the body has are read.
        labels: none; depth has no classes.
        width: channels of the pyramid.
        min_depth: metres; nothing is nearer.
        max_depth: metres; nothing is farther.
        loss: ``"l1"`` of the logarithms, or ``"silog"``, which forgives a common factor.

    Raises:
        RecipeError: an option that is not one.
    """

    task = DEPTH
    primary = "delta1"

    def __init__(
        self,
        features: Mapping[int, FeatureSpec],
        labels: tuple[str, ...] = (),
        *,
        width: int = 64,
        min_depth: float = 0.1,
        max_depth: float = 100.0,
        loss: str = "l1",
    ) -> None:
        super().__init__()
        if width < 1 or not 0 < min_depth < max_depth:
            raise RecipeError(
                f"width must be positive, 0 < min_depth < max_depth; got {width}, {min_depth}, {max_depth}"
            )
        if loss not in _LOSSES:
            raise RecipeError(f"loss must be one of {', '.join(_LOSSES)}; got {loss!r}")
        self.needs = tuple(sorted(features))
        self.range = (math.log(min_depth), math.log(max_depth))
        self.kind = loss
        self.pyramid = Pyramid(features, width)
        self.regress = nn.Sequential(separable(width, width), nn.Conv2d(width, 1, 1))

    @classmethod
    def select(cls, available: Sequence[int]) -> tuple[int, ...]:
        """Read those of strides 4, 8, 16, 32 that are there."""
        return dense_strides(available)

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> DepthOutput:
        """Return the logarithm of the depth at stride 4."""
        low, high = self.range
        share = self.regress(self.pyramid(features, image_size)).float().sigmoid()
        return DepthOutput(low + (high - low) * share, self.pyramid.stride, image_size)

    def loss(self, output: DepthOutput, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return ``log``, over the pixels whose depth is known; the mean over the images that have one."""
        guess = output.full()  # (B, H, W)
        truth = torch.stack([target.depth.as_subclass(Tensor) for target in targets]).to(guess)
        known = truth.isfinite() & (truth > 0)
        error = torch.where(known, guess - truth.where(known, 1.0).log().clamp(*self.range), 0.0)
        count = known.sum(dim=(1, 2)).clamp(min=1)
        if self.kind == "l1":
            each = error.abs().sum(dim=(1, 2)) / count
        else:
            # variance plus a part of the squared mean (Eigen et al. 2014 with lambda 0.85)
            mean = error.sum(dim=(1, 2)) / count
            each = (error**2).sum(dim=(1, 2)) / count - 0.85 * mean**2
        there = known.any(dim=2).any(dim=1)
        return {"log": each.sum() / there.sum().clamp(min=1)}

    def predict(self, output: DepthOutput) -> list[Prediction]:
        """Return metres for every pixel."""
        return [Depth(depth=depth) for depth in output.full().detach().exp().cpu().numpy()]

    def truth(self, target: Any) -> Depth:
        """Return the target's map."""
        return Depth(depth=target.depth.as_subclass(Tensor).float().cpu().numpy())

    def metric(self) -> DepthError:
        """Return ``abs_rel``, ``rmse`` and ``delta1``."""
        return DepthError()
