"""The factorised-prior bottleneck: a small learned encoder, a learned density per channel, a decoder."""

from __future__ import annotations

from typing import ClassVar

import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor, nn

from splitreg.coding import SymbolModel
from splitreg.interfaces import FeatureSpec
from splitreg_compressai.tables import density_tables
from splitreg_compressai.transforms import Transforms


class FactorizedPrior(Transforms):
    """Analysis, factorised prior, synthesis.

    With its defaults at a cut of stride 4 this is Ladon's and the Entropic Student's bottleneck: an encoder of 138,672
    weights, a latent of 24 x 103 x 103 at 416 x 416. ``encoder="light"`` has a tenth of its cost. The options are
    those of ``Transforms``.

    Source: Ballé et al. 2018, arXiv:1802.01436 (prior); Matsubara et al. 2022, arXiv:2108.11898 (shape).
    """

    name: ClassVar[str] = "fp"

    def __init__(
        self,
        source: FeatureSpec,
        target: FeatureSpec,
        *,
        channels: int = 24,
        stride: int | None = None,
        encoder: str = "gdn",
        decoder: str | None = None,
        hidden: int | None = None,
        decoder_hidden: int | None = None,
        blocks: int = 2,
    ) -> None:
        super().__init__(
            source, target, channels=channels, stride=stride, encoder=encoder, decoder=decoder, hidden=hidden,
            decoder_hidden=decoder_hidden, blocks=blocks,
        )  # fmt: skip
        self.prior = EntropyBottleneck(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the restored feature and the bits an image: with noise in training, else as the codec leaves the latent."""
        latent = self.analyse(x)
        with torch.autocast(latent.device.type, enabled=False):  # likelihoods of 16-bit floats are worth nothing
            noisy, likelihood = self.prior(latent)
        return self.synthesise(noisy), -likelihood.log2().sum((1, 2, 3))

    def freeze(self) -> SymbolModel:
        """Return the integer tables of the present prior: its medians, and rows as wide as its tails are.

        Raises:
            InvalidTables: the prior's parameters are not finite.
        """
        return density_tables(self.prior)

    def auxiliary_loss(self) -> Tensor:
        """Return the loss that moves the prior's quantiles to its tails."""
        loss: Tensor = self.prior.loss()
        return loss

    def auxiliary_parameters(self) -> list[nn.Parameter]:
        """Return the quantiles."""
        return [self.prior.quantiles]
