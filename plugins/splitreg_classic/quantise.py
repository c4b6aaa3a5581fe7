"""Bottlenecks without a network: the feature itself, quantised over a calibrated range or unchanged."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from splitreg.coding import SymbolModel
from splitreg.errors import RecipeError
from splitreg.interfaces import Bottleneck, FeatureSpec, SymbolSpec
from splitreg_classic.blocks import jpeg

#: Largest number of bits with a histogram and tables, of 2**bits entries per channel.
MAX_TABLE_BITS = 10
#: Range before calibration; most values of normalised features are inside.
INITIAL_RANGE = (-4.0, 4.0)
#: Percentiles are taken over at most this many values per channel.
_MAX_SAMPLE = 4096
#: Qualities of surrogate ``jpeg``.
JPEG_QUALITIES = (75, 95)
#: Batches after which the range stays, if the steps are learned.
RANGE_BATCHES = 20
#: Factor on the learned logarithms: optimisers move a weight by about their learning rate.
LOG_STEP = 30.0


class _FeatureBottleneck(Bottleneck):
    """A bottleneck that sends the feature at the cut itself: the latent is the feature."""

    source_default: ClassVar[str] = "feature"
    name: ClassVar[str]

    def __init__(self, source: FeatureSpec, target: FeatureSpec) -> None:
        super().__init__()
        if source != target:
            raise RecipeError(
                f"bottleneck {self.name} sends the feature at the cut ({target.channels} channels, stride "
                f"{target.stride}) and cannot read {source.channels} channels at stride {source.stride}; set "
                "from = 'feature'"
            )
        self.latent = source
        self.encoder, self.decoder = nn.Identity(), nn.Identity()


class Quantise(_FeatureBottleneck):
    """Uniform quantiser over a range that training calibrates, with tables from a histogram of the symbols.

    Args:
        source: the feature at the cut.
        target: the same.
        bits: bits per symbol, 1 to 16.
        per_channel: one range per channel instead of one for all channels.
        percentile: above 50, at most 100: the range ends at this percentile; 100 is the maximum.
        momentum: weight of a new batch in the running range and histogram.
        surrogate: ``"noise"`` (uniform, half a step), ``"ste"`` (rounding, straight-through), or ``"jpeg"``:
            rounding, and a JPEG of random quality for every other image.
        learned_steps: learn a step per channel, from the one that ``bits`` over the range of the first
            batches gives. It needs an objective that makes bytes cost something, such as ``code-length``.

    Raises:
        RecipeError: an option is out of range, or the source is not the feature at the cut.

    Source: Choi & Bajic 2018, arXiv:1802.03931 (min-max quantisation); Alvar & Bajic 2019, arXiv:1902.05179 (noise);
    Esser et al. 2020, arXiv:1902.08153 (learned steps).
    """

    name: ClassVar[str] = "quantise"
    low: Tensor
    high: Tensor
    counts: Tensor
    batches: Tensor
    mean: Tensor

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
        learned_steps: bool = False,
    ) -> None:
        super().__init__(source, target)
        if not 1 <= bits <= 16:
            raise RecipeError(f"bottleneck quantise: bits must be 1 to 16, got {bits}")
        if not 50 < percentile <= 100:
            raise RecipeError(f"bottleneck quantise: percentile must be above 50 and at most 100, got {percentile}")
        if not 0 < momentum <= 1:
            raise RecipeError(f"bottleneck quantise: momentum must be above 0 and at most 1, got {momentum}")
        if surrogate not in ("noise", "ste", "jpeg"):
            raise RecipeError(f"bottleneck quantise: surrogate must be 'noise', 'ste' or 'jpeg', got {surrogate!r}")
        if surrogate == "jpeg" and bits != 8:
            raise RecipeError(f"bottleneck quantise: surrogate 'jpeg' needs 8 bits, got {bits}")
        self.bits, self.per_channel, self.percentile = bits, per_channel, percentile
        self.momentum, self.surrogate, self.learned_steps = momentum, surrogate, learned_steps
        self.symbol_spec = SymbolSpec(bits=bits, tables=bits <= MAX_TABLE_BITS, exact=False)
        self.register_buffer("low", torch.full((source.channels,), INITIAL_RANGE[0]))
        self.register_buffer("high", torch.full((source.channels,), INITIAL_RANGE[1]))
        levels = 2**bits if self.symbol_spec.tables else 0
        self.register_buffer("counts", torch.zeros(source.channels, levels))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        if learned_steps:
            self.register_buffer("mean", torch.zeros(source.channels))
            self.log_gain = nn.Parameter(torch.zeros(source.channels))  # divided by LOG_STEP

    def symbols(self, latent: Tensor) -> Tensor | None:
        """Return the latent in steps, not rounded, with gradients of latent and steps; None if they are not learned."""
        if not self.learned_steps:
            return None
        scale, shift = (each[:, None, None] for each in self._scale_and_shift())
        return ((latent - shift) * scale).clamp(0, 2**self.bits - 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the quantised feature (in training its surrogate) and the bits per image.

        The rate has no gradient. It is the code length under the histogram so far, or ``bits`` per
        element without a histogram.
        """
        latent = self.analyse(x)
        if self.training:
            self._calibrate(latent.detach())
        scale, shift = (each[:, None, None] for each in self._scale_and_shift())
        scaled, top = (latent - shift) * scale, 2**self.bits - 1
        with torch.no_grad():
            symbols = torch.round(scaled).clamp(0, top)  # half to even, like numpy's rint
            if self.training:
                self._count(symbols)
            rate = self._rate(symbols)
        if self.training:
            inside = scaled.clamp(0, top)
            symbols = inside + self._error(inside.detach(), symbols)
        return self.synthesise(symbols / scale + shift), rate

    def freeze(self) -> SymbolModel:
        """Return range and tables; the tables are flat before calibration."""
        scale, shift = (each.detach().cpu().numpy() for each in self._scale_and_shift())
        if not self.symbol_spec.tables:
            return SymbolModel.plain("uniform", self.latent.channels, self.bits, shift, scale)
        return SymbolModel.uniform(self.bits, shift, scale, self.counts.double().cpu().numpy())

    def _error(self, exact: Tensor, rounded: Tensor) -> Tensor:
        """Return what coding adds to the symbols in training."""
        if self.surrogate == "noise":
            return torch.rand_like(exact) - 0.5
        if self.surrogate == "jpeg":
            low, high = JPEG_QUALITIES
            rounded = rounded.clone()
            rounded[::2] = jpeg(rounded[::2], int(torch.randint(low, high + 1, ())))
        return rounded - exact

    def _scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return steps per unit, and the value of symbol 0, per channel; learned steps have the mean in the middle."""
        scale: Tensor = (2**self.bits - 1) / (self.high - self.low).clamp(min=1e-6)  # also of a constant channel
        if not self.learned_steps:
            return scale, self.low
        scale = scale * (LOG_STEP * self.log_gain).exp()
        return scale, self.mean - 2 ** (self.bits - 1) / scale

    def _calibrate(self, latent: Tensor) -> None:
        if self.learned_steps and self.batches >= RANGE_BATCHES:
            return
        rows = latent.transpose(0, 1).flatten(1)  # (C, B*h*w)
        if not self.per_channel:
            rows = rows.reshape(1, -1)
        if self.percentile < 100:
            limit = _MAX_SAMPLE if self.per_channel else _MAX_SAMPLE * 64
            sample = rows[:, :: max(1, rows.shape[1] // limit)]
            share = self.percentile / 100
            low, high = torch.quantile(sample, 1 - share, dim=1), torch.quantile(sample, share, dim=1)
        else:
            low, high = rows.amin(1), rows.amax(1)
        if not (torch.isfinite(low).all() and torch.isfinite(high).all()):
            return  # one batch with NaN must not destroy the range
        weight = 1.0 if self.batches.item() == 0 else self.momentum
        if self.learned_steps:
            self.mean.lerp_(latent.mean((0, 2, 3)), weight)
        self.low.lerp_(low.expand_as(self.low), weight)
        self.high.lerp_(high.expand_as(self.high), weight)
        self.batches += 1

    def _count(self, symbols: Tensor) -> None:
        if not self.symbol_spec.tables or not torch.isfinite(symbols).all():
            return
        channels, levels = self.counts.shape
        rows = symbols.transpose(0, 1).flatten(1).long()
        rows = rows + torch.arange(channels, device=rows.device)[:, None] * levels
        counts = torch.bincount(rows.flatten(), minlength=channels * levels).reshape(channels, levels)
        self.counts.lerp_(counts.to(self.counts), 1.0 if self.batches.item() <= 1 else self.momentum)

    def _rate(self, symbols: Tensor) -> Tensor:
        if not self.symbol_spec.tables or not torch.isfinite(symbols).all():
            return symbols.new_full((len(symbols),), float(self.bits * symbols[0].numel()))
        # The frequencies that the tables will have: 1 each, the rest in proportion to the histogram.
        counts = torch.where(self.counts.sum(1, keepdim=True) > 0, self.counts, 1.0)
        bits = 16 - (1 + counts / counts.sum(1, keepdim=True) * (2**16 - 1 - counts.shape[1])).log2()  # (C, levels)
        rows = symbols.long().flatten(2)  # (B, C, h*w)
        return bits.expand(len(symbols), -1, -1).gather(2, rows).sum((1, 2))


class RawFeature(_FeatureBottleneck):
    """The bit patterns of the float32 feature: the split model equals the unsplit one bit for bit.

    Raises:
        RecipeError: the source is not the feature at the cut.

    Source: Capogrosso et al. 2024, arXiv:2407.05982 (sends features uncompressed).
    """

    name: ClassVar[str] = "raw"

    def __init__(self, source: FeatureSpec, target: FeatureSpec) -> None:
        super().__init__(source, target)
        self.symbol_spec = SymbolSpec(bits=0, tables=False, exact=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the feature and 32 bits per element."""
        latent = self.analyse(x)
        return self.synthesise(latent), latent.new_full((len(latent),), 32.0 * latent[0].numel())

    def freeze(self) -> SymbolModel:
        """Return the coding rule; there are no tables."""
        return SymbolModel.plain("bits", self.latent.channels, 0)
