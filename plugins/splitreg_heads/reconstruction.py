"""Head ``recon``: the image itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splitreg.errors import RecipeError
from splitreg.interfaces import Head
from splitreg.predictions import Reconstruction
from splitreg.specs import FeatureSpec
from splitreg.tasks import RECONSTRUCTION, Prediction

if TYPE_CHECKING:
    from splitreg.evaluation.metrics import ImageQuality

_LOSSES = {"l1": F.l1_loss, "mse": F.mse_loss}


@dataclass(frozen=True, slots=True)
class ReconstructionOutput:
    """``image`` (B, 3, H, W) on a scale of 0 to 1, not clipped."""

    image: Tensor


class ReconstructionHead(Head):
    """Finest feature -> convolutions that each double the resolution -> pixels.

    Args:
        features: the finest stride.
        labels: none.
        width: channels of the layers.
        loss: ``"l1"``, or ``"mse"``, from which the PSNR is computed.

    Raises:
        RecipeError: an option is out of range.
    """

    task = RECONSTRUCTION
    primary = "psnr"

    def __init__(
        self,
        features: Mapping[int, FeatureSpec],
        labels: tuple[str, ...] = (),
        *,
        width: int = 64,
        loss: str = "l1",
    ) -> None:
        super().__init__()
        if width < 1 or loss not in _LOSSES:
            raise RecipeError(f"width must be positive, loss one of {', '.join(_LOSSES)}; got {width}, {loss!r}")
        finest = min(features)
        self.needs = (finest,)
        self.kind = loss
        layers: list[nn.Module] = [nn.Conv2d(features[finest].channels, width, 3, padding=1), nn.PReLU(width)]
        for _ in range(finest.bit_length() - 1):  # strides are powers of two
            layers += [nn.Conv2d(width, 4 * width, 1), nn.PixelShuffle(2), _DepthwiseResidual(width)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 3, 3, padding=1))

    @classmethod
    def select(cls, available: Sequence[int]) -> tuple[int, ...]:
        """Read the finest feature."""
        return (min(available),)

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> ReconstructionOutput:
        """Return the image, cropped to its size."""
        image = self.layers(features[self.needs[0]]).float() + 0.5  # starts at mid-grey
        return ReconstructionOutput(image[..., : image_size[0], : image_size[1]])

    def loss(self, output: ReconstructionOutput, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return the mean error over all pixels, under the name of the kind of loss."""
        truth = torch.stack([target.image.as_subclass(Tensor) for target in targets]).to(output.image) / 255
        return {self.kind: _LOSSES[self.kind](output.image, truth)}

    def predict(self, output: ReconstructionOutput) -> list[Prediction]:
        """Return uint8 pixels."""
        pixels = (output.image.detach().clamp(0, 1) * 255).round().to(torch.uint8)
        return [Reconstruction(image=image) for image in pixels.permute(0, 2, 3, 1).contiguous().cpu().numpy()]

    def truth(self, target: Any) -> Reconstruction:
        """Return the image itself."""
        image = target.image.as_subclass(Tensor).permute(1, 2, 0).contiguous()
        return Reconstruction(image=image.to(torch.uint8).cpu().numpy())

    def metric(self) -> ImageQuality:
        """Return ``psnr``."""
        from splitreg.evaluation.metrics import ImageQuality

        return ImageQuality()


class _DepthwiseResidual(nn.Module):
    """x + pointwise(depthwise 3x3(x)): cheap at full resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width), nn.PReLU(width), nn.Conv2d(width, width, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.layers(x)
        return x + change
