"""Bottlenecks with a hyperprior in integers: scales (shp), or means and scales (mshp)."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitreg.coding import HyperModel, IntegerNetwork, VariableModel
from splitreg.interfaces import FeatureSpec
from splitreg.networks import FixedConv, bounded, frozen_layers, rounded
from splitreg_compressai.density import FactorizedDensity
from splitreg_compressai.layers import Pad
from splitreg_compressai.tables import PER_E, ROWS, UNIT, density_tables, scale_tables
from splitreg_compressai.transforms import Transforms

#: The hyper-latent has one value per channel for FACTOR x FACTOR elements of the latent.
FACTOR = 4
#: Fraction bits of the latent as the analysis reads it, hidden activations, logarithms of scales, means.
READS, HIDDEN, SCALE, MEAN = 3, 4, PER_E.bit_length() - 1, 4
#: Largest integers of the latent (256), hidden activations (64), the hyper-latent and means (128).
MAX_LATENT, MAX_HIDDEN, MAX_HYPER, MAX_MEAN = 2047, 1023, 127, 2047


class ScaleHyperprior(Transforms):
    """Analysis, scale hyperprior, synthesis: a side stream gives each element of the latent a scale.

    The two networks of the hyperprior are trained in fixed point and run in integers on both sides.
    The options are those of ``Transforms``, and:

    Args:
        hyper_channels: channels of the hyper-latent.
        hyper_hidden: width of the hyperprior's networks.

    Source: Ballé et al. 2018, arXiv:1802.01436; Ballé et al. 2019, "Integer networks for data
    compression with latent-variable models".
    """

    name: ClassVar[str] = "shp"
    has_means: ClassVar[bool] = False

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
        hyper_channels: int = 16,
        hyper_hidden: int = 64,
    ) -> None:
        super().__init__(
            source, target, channels=channels, stride=stride, encoder=encoder, decoder=decoder, hidden=hidden,
            decoder_hidden=decoder_hidden, blocks=blocks, rates=rates, rate_range=rate_range, surrogate=surrogate,
        )  # fmt: skip
        for name, value in (("hyper_channels", hyper_channels), ("hyper_hidden", hyper_hidden)):
            self._check(1 <= value <= 1024, f"{name} must be 1 to 1024, got {value}")
        wide = channels * FACTOR**2
        self.fill = Pad(multiple=FACTOR)
        self.hyper_analysis = nn.Sequential(
            _hidden(2 * wide if self.has_means else wide, hyper_hidden, READS),
            _hidden(hyper_hidden, hyper_hidden, HIDDEN),
            FixedConv(
                hyper_hidden, hyper_channels, reads=HIDDEN, gives=0, low=-MAX_HYPER, high=MAX_HYPER, rounds=False
            ),
        )
        self.hyper_synthesis = nn.Sequential(
            _hidden(hyper_channels, hyper_hidden, 0, kernel=3), _hidden(hyper_hidden, hyper_hidden, HIDDEN)
        )
        self.scales = FixedConv(hyper_hidden, wide, reads=HIDDEN, gives=SCALE, low=-UNIT, high=ROWS - 1 - UNIT)
        self.means = (
            FixedConv(hyper_hidden, wide, reads=HIDDEN, gives=MEAN, low=-MAX_MEAN, high=MAX_MEAN)
            if self.has_means
            else None
        )
        self.prior = FactorizedDensity(hyper_channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the restored feature and the bits per image, with the surrogate in training.

        With several rates, training draws one per image and returns its bits times the rate's weight.
        """
        latent = self.analyse(x)
        if self.gains is None:
            received, bits = self._transmit(latent)
            return self.synthesise(received), bits
        with torch.autocast(latent.device.type, enabled=False):
            gains, inverses, weights = self.gains.at(len(latent))
            received, bits = self._transmit(latent * gains)
        return self.synthesise(received * inverses), bits * weights

    def freeze(self) -> HyperModel | VariableModel:
        """Return the integer tables and networks of the current weights.

        With several rates the hyperprior reads the latent after the gain, so one serves all rates.

        Raises:
            InvalidTables: the weights are not finite.
        """
        model = self._hyper_model()
        return model if self.gains is None else self.gains.freeze([model])

    def _hyper_model(self) -> HyperModel:
        return HyperModel(
            channels=self.latent.channels, factor=FACTOR, fraction=READS, mean_fraction=MEAN,
            hyper=density_tables(self.prior, whole=True), scales=scale_tables(),
            analysis=IntegerNetwork(frozen_layers(self.hyper_analysis), -MAX_LATENT, MAX_LATENT),
            synthesis=IntegerNetwork(frozen_layers(self.hyper_synthesis), -MAX_HYPER, MAX_HYPER),
            rows=IntegerNetwork([self.scales.frozen(UNIT)], 0, MAX_HIDDEN),
            means=None if self.means is None else IntegerNetwork([self.means.frozen()], 0, MAX_HIDDEN),
        )  # fmt: skip

    def _blocks(self, latent: Tensor) -> Tensor:
        """(B, C, h, w) -> input of the analysis in fixed point: absolute values, with means also the values."""
        fixed = bounded(rounded(latent * 2.0**READS), -MAX_LATENT, MAX_LATENT) / 2.0**READS
        fixed = torch.cat([fixed, fixed.abs()], 1) if self.has_means else fixed.abs()
        return functional.pixel_unshuffle(self.fill(fixed), FACTOR)

    def _predict(self, hyper: Tensor, latent: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return a scale and a mean per element of the latent."""
        height, width = latent.shape[-2:]
        hidden = self.hyper_synthesis(hyper)
        scales = functional.pixel_shuffle(self.scales(hidden), FACTOR)[..., :height, :width].exp()
        if self.means is None:
            return scales, 0.0
        return scales, functional.pixel_shuffle(self.means(hidden), FACTOR)[..., :height, :width]

    def _transmit(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Return the latent that the decoder gets, and the bits per image."""
        if not self.training:
            return self._coded(latent)
        with torch.autocast(latent.device.type, enabled=False):  # 16 bits are too few for likelihoods
            hyper = self.hyper_analysis(self._blocks(latent))
            _, likelihood = self.prior(hyper)
            scales, means = self._predict(rounded(hyper), latent)
            noisy = latent + torch.empty_like(latent).uniform_(-0.5, 0.5)
            bits = -likelihood.log2().sum((1, 2, 3)) + _normal_bits(noisy - means, scales).sum((1, 2, 3))
        return rounded(latent - means) + means if self.mixed else noisy, bits

    def _coded(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """Code with the frozen integers themselves: an emulation in floats could round differently."""
        model = self._hyper_model()
        measured = [model.measure(image.numpy()) for image in latent.detach().cpu()]
        received = torch.stack([torch.from_numpy(restored) for restored, _ in measured])
        return received.to(latent), torch.tensor([bits for _, bits in measured]).to(latent)


class MeanScaleHyperprior(ScaleHyperprior):
    """Analysis, mean-scale hyperprior, synthesis: the side stream also gives each element a mean.

    Source: Minnen et al. 2018, arXiv:1809.02736 (without the autoregressive part).
    """

    name: ClassVar[str] = "mshp"
    has_means: ClassVar[bool] = True


def _hidden(before: int, after: int, reads: int, kernel: int = 1) -> FixedConv:
    return FixedConv(before, after, kernel, reads=reads, gives=HIDDEN, low=0, high=MAX_HIDDEN)


def _normal_bits(values: Tensor, scales: Tensor) -> Tensor:
    """Return the code length of unit intervals around values, under normal distributions around zero."""
    distance = values.abs()
    root = math.sqrt(0.5)
    mass = 0.5 * (torch.erfc((distance - 0.5) / scales * root) - torch.erfc((distance + 0.5) / scales * root))
    return -bounded(mass, 1e-9, math.inf).log2()
