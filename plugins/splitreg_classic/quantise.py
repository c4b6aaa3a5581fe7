"""Bottlenecks without a network: the feature itself, quantised over a calibrated range or as it is."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from splitreg.coding import SymbolModel
from splitreg.errors import RecipeError
from splitreg.interfaces import Bottleneck, FeatureSpec, SymbolSpec

#: Up to this many bits the histogram, and so the tables, are kept (2**bits entries a channel).
TABLE_BITS = 10
#: Range before any calibration: where normalised features mostly lie.
FIRST_RANGE = (-4.0, 4.0)
#: Percentiles are taken over at most this many values a channel.
_SAMPLE = 4096


class Quantise(Bottleneck):
    """Uniform quantiser over a range that training calibrates; its tables come from a histogram of the symbols.

    Args:
        source: the feature at the cut.
        target: the same.
        bits: 1 to 16.
        per_channel: one range for each channel, not one for all.
        percentile: 50 to 100: the range holds this share of the values on either side; 100 is minimum and maximum.
        momentum: weight of a new batch in the running range and histogram; the first batch counts in full.
        surrogate: what training sees: ``"noise"`` (uniform, half a step either way) or ``"ste"`` (rounded, straight-through).

    Raises:
        RecipeError: an option out of bounds, or a source that is not the feature at the cut.

    Source: Choi & Bajic 2018, arXiv:1802.03931 (min-max quantisation); Alvar & Bajic 2019, arXiv:1902.05179 (noise).
    """

    source_default: ClassVar[str] = "feature"
    low: Tensor
    high: Tensor
    counts: Tensor
    batches: Tensor

    def __init__(
        self,
        source: FeatureSpec,
        target: FeatureSpec,
        *,
        bits: int = 8,
        per_channel: bool = False,
        percentile: float = 100.0,
        momentum: float = 0.1,
        surrogate: str = "noise",
    ) -> None:
        super().__init__()
        _same("quantise", source, target)
        if not 1 <= bits <= 16:
            raise RecipeError(f"bottleneck quantise: bits must be 1 to 16, got {bits}")
        if not 50 < percentile <= 100:
            raise RecipeError(f"bottleneck quantise: percentile must be above 50 and at most 100, got {percentile}")
        if not 0 < momentum <= 1:
            raise RecipeError(f"bottleneck quantise: momentum must be above 0 and at most 1, got {momentum}")
        if surrogate not in ("noise", "ste"):
            raise RecipeError(f"bottleneck quantise: surrogate must be 'noise' or 'ste', got {surrogate!r}")
        self.bits, self.per_channel, self.percentile = bits, per_channel, percentile
        self.momentum, self.surrogate = momentum, surrogate
        self.latent = source
        self.symbol_spec = SymbolSpec(bits=bits, tables=bits <= TABLE_BITS, exact=False)
        self.encoder, self.decoder = nn.Identity(), nn.Identity()
        self.register_buffer("low", torch.full((source.channels,), FIRST_RANGE[0]))
        self.register_buffer("high", torch.full((source.channels,), FIRST_RANGE[1]))
        levels = 2**bits if self.symbol_spec.tables else 0
        self.register_buffer("counts", torch.zeros(source.channels, levels))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def analyse(self, x: Tensor) -> Tensor:
        """(B, C, h, w) as it is, float32."""
        return self.encoder(x).float()

    def synthesise(self, latent: Tensor) -> Tensor:
        """(B, C, h, w) as it is."""
        restored: Tensor = self.decoder(latent)
        return restored

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the feature as the quantiser leaves it (in training, its surrogate) and the bits an image.

        The rate has no gradient. It is the code length under the histogram so far, or ``bits`` an element.
        """
        latent = self.analyse(x)
        if self.training:
            self._calibrate(latent.detach())
        scale, shift, top = self._scale()[:, None, None], self.low[:, None, None], 2**self.bits - 1
        scaled = (latent - shift) * scale
        with torch.no_grad():
            symbols = torch.round(scaled).clamp(0, top)  # half to even, as numpy's rint
            if self.training:
                self._count(symbols)
            rate = self._rate(symbols)
        if self.training:
            inside = scaled.clamp(0, top)
            noise = torch.rand_like(inside) - 0.5 if self.surrogate == "noise" else symbols - inside.detach()
            symbols = inside + noise
        return self.synthesise(symbols / scale + shift), rate

    def freeze(self) -> SymbolModel:
        """Return range and tables; flat tables before any calibration."""
        shift, scale = self.low.cpu().numpy(), self._scale().cpu().numpy()
        if not self.symbol_spec.tables:
            return SymbolModel.plain("uniform", self.latent.channels, self.bits, shift, scale)
        return SymbolModel.uniform(self.bits, shift, scale, self.counts.double().cpu().numpy())

    def _scale(self) -> Tensor:
        # A channel that is constant still needs a range.
        return (2**self.bits - 1) / (self.high - self.low).clamp(min=1e-6)

    def _calibrate(self, latent: Tensor) -> None:
        rows = latent.transpose(0, 1).flatten(1)  # (C, B*h*w)
        if not self.per_channel:
            rows = rows.reshape(1, -1)
        if self.percentile < 100:
            limit = _SAMPLE if self.per_channel else _SAMPLE * 64
            sample = rows[:, :: max(1, rows.shape[1] // limit)]
            share = self.percentile / 100
            low, high = torch.quantile(sample, 1 - share, dim=1), torch.quantile(sample, share, dim=1)
        else:
            low, high = rows.amin(1), rows.amax(1)
        if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
            return  # one bad batch must not spoil the range for ever
        weight = 1.0 if self.batches.item() == 0 else self.momentum
        self.low.lerp_(low.expand_as(self.low), weight)
        self.high.lerp_(high.expand_as(self.high), weight)
        self.batches += 1

    def _count(self, symbols: Tensor) -> None:
        if not self.symbol_spec.tables or not torch.isfinite(symbols).all():
            return
        channels, levels = self.counts.shape
        rows = symbols.transpose(0, 1).flatten(1).long()
        rows = rows + torch.arange(channels, device=rows.device)[:, None] * levels
        found = torch.bincount(rows.flatten(), minlength=channels * levels).reshape(channels, levels)
        self.counts.lerp_(found.to(self.counts), 1.0 if self.batches.item() <= 1 else self.momentum)

    def _rate(self, symbols: Tensor) -> Tensor:
        if not self.symbol_spec.tables or not torch.isfinite(symbols).all():
            return symbols.new_full((len(symbols),), float(self.bits * symbols[0].numel()))
        # The frequencies that the tables will have: one each, the rest by the histogram.
        counts = torch.where(self.counts.sum(1, keepdim=True) > 0, self.counts, 1.0)
        bits = 16 - (1 + counts / counts.sum(1, keepdim=True) * (2**16 - 1 - counts.shape[1])).log2()  # (C, levels)
        rows = symbols.long().flatten(2)  # (B, C, h*w)
        return bits.expand(len(symbols), -1, -1).gather(2, rows).sum((1, 2))


class RawFeature(Bottleneck):
    """The feature's float32 bit patterns: the split model equals the unsplit one bit for bit.

    Raises:
        RecipeError: the source is not the feature at the cut.

    Source: Capogrosso et al. 2024, arXiv:2407.05982, sends features like this.
    """

    source_default: ClassVar[str] = "feature"

    def __init__(self, source: FeatureSpec, target: FeatureSpec) -> None:
        super().__init__()
        _same("raw", source, target)
        self.latent = source
        self.symbol_spec = SymbolSpec(bits=0, tables=False, exact=True)
        self.encoder, self.decoder = nn.Identity(), nn.Identity()

    def analyse(self, x: Tensor) -> Tensor:
        """(B, C, h, w) as it is, float32."""
        return self.encoder(x).float()

    def synthesise(self, latent: Tensor) -> Tensor:
        """(B, C, h, w) as it is."""
        restored: Tensor = self.decoder(latent)
        return restored

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the feature and 32 bits an element."""
        latent = self.analyse(x)
        return self.synthesise(latent), latent.new_full((len(latent),), 32.0 * latent[0].numel())

    def freeze(self) -> SymbolModel:
        """Return the rule; there are no tables."""
        return SymbolModel.plain("bits", self.latent.channels, 0)


def _same(name: str, source: FeatureSpec, target: FeatureSpec) -> None:
    if source != target:
        raise RecipeError(
            f"bottleneck {name} sends the feature at the cut ({target.channels} channels, stride {target.stride}), it "
            f"cannot make it from {source.channels} channels at stride {source.stride}; say from = 'feature'"
        )
