"""The factorised-prior bottleneck: a learned encoder, a learned density per channel, a decoder."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from splitreg.coding import SymbolModel, VariableModel
from splitreg_compressai.density import FactorizedDensity
from splitreg_compressai.fixedpoint import rounded
from splitreg_compressai.tables import density_tables, step_masses, step_tables
from splitreg_compressai.transforms import Transforms


class FactorizedPrior(Transforms):
    """Analysis, factorised prior, synthesis; the options are those of ``Transforms``.

    With ``encoder="gdn"`` at a cut of stride 4 this is the bottleneck of Ladon and of the Entropic
    Student: an encoder of 138,672 weights, a latent of 24 x 103 x 103 at 416 x 416 pixels. ``"light"``
    takes an 18th of its multiply-accumulates.

    Source: Ballé et al. 2018, arXiv:1802.01436 (prior); Matsubara et al. 2022, arXiv:2108.11898
    (shape); Cui et al. 2021, arXiv:2003.02012 (gains).
    """

    name: ClassVar[str] = "fp"

    def _add_prior(self) -> None:
        self.prior = FactorizedDensity(self.latent.channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the restored feature and the bits per image, with the surrogate in training.

        With several rates, training draws one per image and returns its bits times the rate's weight.
        """
        latent = self.analyse(x)
        with torch.autocast(latent.device.type, enabled=False):  # 16 bits are too few for likelihoods
            received, bits = self._transmit(latent)
        return self.synthesise(received), bits

    def _transmit(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent that the decoder gets, and the bits per image."""
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
        """Return the integer tables of the current prior: its medians, and rows as wide as its tails.

        With several rates the density is that of the latent without gain: at gain g a symbol is a step
        of 1 / g, so one prior gives the tables for every gain, and all rates train it.

        Raises:
            InvalidTables: the prior's or the gains' parameters are not finite.
        """
        if self.gains is None:
            return density_tables(self.prior)
        gains, _ = self.gains.rows()
        return self.gains.freeze([step_tables(self.prior, row) for row in gains], self.prior.quantiles[:, 0, 1])
