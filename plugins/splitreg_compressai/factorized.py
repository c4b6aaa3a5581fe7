"""The factorised-prior bottleneck: a learned encoder, a learned density per channel, a decoder."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from splitreg.coding import SymbolModel, VariableModel
from splitreg.coding.context import STEPS
from splitreg.interfaces import FeatureSpec
from splitreg.networks import ContextNetwork, level_of, rounded
from splitreg_compressai.density import FactorizedDensity
from splitreg_compressai.tables import density_logits, density_tables, step_masses, step_tables
from splitreg_compressai.transforms import Transforms


class FactorizedPrior(Transforms):
    """Analysis, factorised prior, synthesis.

    The options are those of ``Transforms``, and:

    Args:
        context: width of a network that predicts each symbol from those coded before it, e.g. 64; 0: none. It
            makes packets smaller and leaves the latent as it is. Only codec ``rans`` uses it.
        context_units: units of this network for each channel.

    With ``encoder="gdn"`` at a cut of stride 4 this is the bottleneck of Ladon and of the Entropic
    Student: an encoder of 138,672 weights, a latent of 24 x 103 x 103 at 416 x 416 pixels. ``"light"``
    takes an 18th of its multiply-accumulates.

    Source: Ballé et al. 2018, arXiv:1802.01436 (prior); Matsubara et al. 2022, arXiv:2108.11898
    (shape); Cui et al. 2021, arXiv:2003.02012 (gains).
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
        context: int = 0,
        context_units: int = 8,
    ) -> None:
        super().__init__(
            source, target, channels=channels, stride=stride, encoder=encoder, decoder=decoder, hidden=hidden,
            decoder_hidden=decoder_hidden, blocks=blocks, rates=rates, rate_range=rate_range, surrogate=surrogate,
        )  # fmt: skip
        self._check(0 <= context <= 1024, f"context must be 0 to 1024, got {context}")
        self._check(1 <= context_units <= 64, f"context_units must be 1 to 64, got {context_units}")
        self.prior = FactorizedDensity(channels)
        self.context = ContextNetwork(channels, context, context_units) if context else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the restored feature and the bits per image, with the surrogate in training.

        With several rates, training draws one per image and returns its bits times the rate's weight.
        """
        latent = self.analyse(x)
        with torch.autocast(latent.device.type, enabled=False):  # 16 bits are too few for likelihoods
            received, bits = self._transmit(latent)
        return self.synthesise(received), bits

    def rate(self, latent: Tensor) -> Tensor:
        """Return the bits per image, see ``Bottleneck.rate``."""
        return self._transmit(latent)[1]

    def _transmit(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent that the decoder gets, and the bits per image."""
        medians = self.prior.quantiles[:, 0, 1].detach()[:, None, None]
        if self.gains is None:
            received, likelihood = self.prior(latent)
            if self.training and self.mixed:
                received = rounded(latent - medians) + medians
            if self.context is not None:
                _, likelihood = self.prior(_beyond_steps(latent - medians) + medians)
            return received, self._bits(-likelihood.log2(), latent - medians)
        gains, inverses, weights = self.gains.at(len(latent))
        gained = (latent - medians) * gains
        priced, steps = (gained, gains) if self.context is None else (_beyond_steps(gained), gains.detach())
        if self.training:
            noise = torch.empty_like(gained).uniform_(-0.5, 0.5)
            coded, priced = gained + noise, priced + noise
        else:
            coded = priced = gained.round()
        bits = -step_masses(self.prior, medians + priced / steps, 0.5 / steps).log2()
        if self.training and self.mixed:
            coded = rounded(gained)
        return coded * inverses + medians, self._bits(bits, gained, gains[:, :, 0, 0]) * weights

    def _bits(self, alone: Tensor, latent: Tensor, gains: Tensor | None = None) -> Tensor:
        """Return the bits per image.

        With a context network they are its own; the prior, whose tables it corrects, learns from its bits all the same.

        Args:
            alone: (B, C, h, w), bits by the prior.
            latent: (B, C, h, w), around the medians, after the gain.
            gains: (B, C); None: one rate.
        """
        total = alone.sum((1, 2, 3))
        if self.context is None:
            return total
        count = 1 if self.gains is None else len(self.gains.gain)
        points = torch.ones_like(latent[:1, :, 0, 0])
        nearest = torch.zeros(len(latent), dtype=torch.long, device=latent.device)
        if self.gains is not None and gains is not None:
            points = torch.from_numpy(self.gains.rows()[0]).to(latent)
            nearest = (gains.detach().log()[:, None] - points.log()).square().sum(2).argmin(1)
        levels = torch.tensor([level_of(i, count) for i in range(count)]).to(latent)
        tables = density_logits(self.prior, points)
        own = self.context.bits(latent, tables[nearest], levels[nearest], alone.detach())
        return own + total - total.detach()

    def freeze(self) -> SymbolModel | VariableModel:
        """Return the integer tables of the current prior: its medians, and rows as wide as its tails.

        With several rates the density is that of the latent without gain: at gain g a symbol is a step
        of 1 / g, so one prior gives the tables for every gain, and all rates train it.

        Raises:
            InvalidTables: the prior's or the gains' parameters are not finite.
        """
        if self.gains is None:
            models = [density_tables(self.prior)]
        else:
            models = [step_tables(self.prior, row) for row in self.gains.rows()[0]]
        if self.context is not None:
            models = self.context.freeze(models)
        return models[0] if self.gains is None else self.gains.freeze(models, self.prior.quantiles[:, 0, 1])


def _beyond_steps(latent: Tensor) -> Tensor:
    """Return a latent that learns from its bits by the prior only where the context network has no slope."""
    return torch.where(latent.abs() > STEPS + 0.5, latent, latent.detach())
