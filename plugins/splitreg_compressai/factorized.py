"""The factorised-prior bottleneck: a small learned encoder, a learned density per channel, a decoder."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from splitreg.coding import SymbolModel, VariableModel
from splitreg.interfaces import FeatureSpec
from splitreg_compressai.density import FactorizedDensity
from splitreg_compressai.fixedpoint import rounded
from splitreg_compressai.tables import density_tables, step_masses, step_tables
from splitreg_compressai.transforms import Transforms


class FactorizedPrior(Transforms):
    """Analysis, factorised prior, synthesis.

    With ``encoder="gdn"`` at a cut of stride 4 this is Ladon's and the Entropic Student's bottleneck: an encoder of
    138,672 weights, a latent of 24 x 103 x 103 at 416 x 416. ``"light"`` has an 18th of its cost. The options are those
    of ``Transforms``.

    Source: Ballé et al. 2018, arXiv:1802.01436 (prior); Matsubara et al. 2022, arXiv:2108.11898 (shape);
    Cui et al. 2021, arXiv:2003.02012 (gains).
    """

    name: ClassVar[str] = "fp"

    def __init__(
        self,
        source: FeatureSpec,
        target: FeatureSpec,
        *,
        channels: int = 24,
        stride: int | None = None,
        encoder: str | None = None,
        decoder: str | None = None,
        hidden: int | None = None,
        decoder_hidden: int | None = None,
        blocks: int = 2,
        rates: int = 1,
        rate_range: float = 16.0,
        surrogate: str = "mixed",
    ) -> None:
        super().__init__(
            source, target, channels=channels, stride=stride, encoder=encoder, decoder=decoder, hidden=hidden,
            decoder_hidden=decoder_hidden, blocks=blocks, rates=rates, rate_range=rate_range, surrogate=surrogate,
        )  # fmt: skip
        self.prior = FactorizedDensity(channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the restored feature and the bits an image: as training sees it, or as the codec leaves it.

        With several rates, training draws one for each image and returns its bits times that rate's weight.
        """
        latent = self.analyse(x)
        with torch.autocast(latent.device.type, enabled=False):  # likelihoods of 16-bit floats are worth nothing
            received, bits = self._sent(latent)
        return self.synthesise(received), bits

    def _sent(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return what a receiver gets of the latent (in training, with noise or rounded), and the bits an image."""
        medians = self.prior.quantiles[:, 0, 1].detach()[:, None, None]
        if self.gains is None:
            received, likelihood = self.prior(latent)
            if self.training and self.mixed:
                received = rounded(latent - medians) + medians
            return received, -likelihood.log2().sum((1, 2, 3))
        gains, inverses, weights = self.gains.at(len(latent))
        gained = (latent - medians) * gains
        coded = gained + torch.empty_like(gained).uniform_(-0.5, 0.5) if self.training else gained.round()
        bits = -step_masses(self.prior, medians + coded / gains, 0.5 / gains).log2().sum((1, 2, 3))
        if self.training and self.mixed:
            coded = rounded(gained)
        return coded * inverses + medians, bits * weights

    def freeze(self) -> SymbolModel | VariableModel:
        """Return the integer tables of the present prior: its medians, and rows as wide as its tails are.

        With several rates the density stays the latent's own: at a gain g a symbol is a step of 1 / g of it, so its
        tables for any gain follow from it, and all rates train the one prior.

        Raises:
            InvalidTables: the prior's or the gains' parameters are not finite.
        """
        if self.gains is None:
            return density_tables(self.prior)
        gains, _ = self.gains.rows()
        return self.gains.freeze([step_tables(self.prior, row) for row in gains], self.prior.quantiles[:, 0, 1])

    def auxiliary_loss(self) -> Tensor:
        """Return the loss that moves the prior's quantiles to its tails."""
        loss: Tensor = self.prior.loss()
        return loss

    def auxiliary_parameters(self) -> list[nn.Parameter]:
        """Return the quantiles."""
        return [self.prior.quantiles]
