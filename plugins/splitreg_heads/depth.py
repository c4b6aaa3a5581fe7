"""Head ``depth``: metres per pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from splitreg.errors import RecipeError
from splitreg.interfaces import Head
from splitreg.predictions import Depth
from splitreg.specs import FeatureSpec
from splitreg.tasks import DEPTH, Prediction
from splitreg_heads.pyramid import Pyramid, StridedMap, dense_strides, separable

if TYPE_CHECKING:
    from splitreg.evaluation.metrics import DepthError

_LOSSES = ("l1", "silog")
#: Share of the squared mean error that the scale-invariant loss forgives (Eigen et al. 2014).
_FORGIVEN = 0.85


class DepthHead(Head):
    """Feature pyramid, then one value per pixel between the logarithms of two depths.

    Args:
        features: any strides; the available ones of 4, 8, 16, 32 are read.
        labels: none; depth has no classes.
        width: channels of the pyramid.
        min_depth: smallest depth in metres.
        max_depth: largest depth in metres.
        loss: ``"l1"`` of the logarithms, or ``"silog"``: scale-invariant.

    Raises:
        RecipeError: an option is out of range.
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
        """Read the available strides of 4, 8, 16 and 32."""
        return dense_strides(available)

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> StridedMap:
        """Return (B, 1, H/4, W/4) logarithms of metres."""
        low, high = self.range
        share = self.regress(self.pyramid(features, image_size)).float().sigmoid()
        return StridedMap(low + (high - low) * share, self.pyramid.stride, image_size)

    def loss(self, output: StridedMap, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return ``log`` over the pixels of known depth, averaged over the images that have any."""
        guess = output.full()[:, 0]  # (B, H, W)
        truth = torch.stack([target.depth.as_subclass(Tensor) for target in targets]).to(guess)
        known = truth.isfinite() & (truth > 0)
        error = torch.where(known, guess - truth.where(known, 1.0).log().clamp(*self.range), 0.0)
        count = known.sum(dim=(1, 2)).clamp(min=1)
        if self.kind == "l1":
            each = error.abs().sum(dim=(1, 2)) / count
        else:
            mean = error.sum(dim=(1, 2)) / count
            each = (error**2).sum(dim=(1, 2)) / count - _FORGIVEN * mean**2
        measured = known.any(dim=2).any(dim=1)
        return {"log": each.sum() / measured.sum().clamp(min=1)}

    def predict(self, output: StridedMap) -> list[Prediction]:
        """Return metres per pixel."""
        return [Depth(depth=depth) for depth in output.full().detach()[:, 0].exp().cpu().numpy()]

    def truth(self, target: Any) -> Depth:
        """Return the target's map."""
        return Depth(depth=target.depth.as_subclass(Tensor).float().cpu().numpy())

    def metric(self) -> DepthError:
        """Return ``abs_rel``, ``rmse`` and ``delta1``."""
        from splitreg.evaluation.metrics import DepthError

        return DepthError()
