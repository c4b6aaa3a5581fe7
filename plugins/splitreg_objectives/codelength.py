"""Code length of the tiled 8-bit image of a latent, as PNG and JPEG would spend it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from splitreg_classic.blocks import coefficients, quantisation_table, tile
from torch import Tensor
from torch.nn import functional

from splitreg.errors import RecipeError, TrainingError
from splitreg.interfaces import Objective, StepContext, TeacherCapabilities

#: Components of the distribution of PNG's differences.
GROUPS = 8
CODERS = ("png", "jpeg", "both")
#: Smallest scale of a distribution, in steps: below it nearly all symbols are equal.
MIN_SCALE = 0.05


class CodeLength(Objective):
    """Estimated bits per element of the latent's 8-bit image, as the codecs ``png`` and ``jpeg`` tile it.

    The latent is scaled to ``2**bits - 1`` steps over its range, as bottleneck ``quantise`` does. For PNG
    the symbols are the differences to the best of PNG's linear predictors per channel; for JPEG, the
    DCT coefficients of 8x8 blocks of the tiled image, divided by the quantisation table. In training
    each gets uniform noise in place of rounding. It has the length ``-log2 p`` under a Laplace
    distribution per block and frequency (JPEG), or a mixture of them over the channels (PNG, which has
    one code for all). Their scales are fitted to the batch. So a bit counts the same in a weak channel
    as in a strong one, and a symbol that is zero anyway costs nothing.

    Args:
        heads: names of the heads.
        weight: weight of the bits per element.
        coder: ``"png"``, ``"jpeg"``, or ``"both"``: the mean of the two.
        quality: of JPEG, 1 to 100.
        bits: of the bottleneck.
        percentile: end of the range; the value of the bottleneck.

    Raises:
        RecipeError: an option is out of range.

    Source: Ballé et al. 2017, arXiv:1611.01704 (noise for rounding); RFC 2083 (PNG); ITU-T T.81 (JPEG).
    """

    reads_heads = False
    table: Tensor

    def __init__(
        self,
        heads: Sequence[str],
        *,
        weight: float = 0.05,
        coder: str = "both",
        quality: int = 90,
        bits: int = 8,
        percentile: float = 100.0,
    ) -> None:
        super().__init__()
        if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            raise RecipeError(f"objective code-length: weight must be 0 or more, got {weight!r}")
        if coder not in CODERS:
            raise RecipeError(f"objective code-length: coder must be {', '.join(CODERS)}; got {coder!r}")
        if not 1 <= quality <= 100:
            raise RecipeError(f"objective code-length: quality must be 1 to 100, got {quality}")
        if not 1 <= bits <= 8:
            raise RecipeError(f"objective code-length: bits must be 1 to 8, as image codecs have; got {bits}")
        if not 50 < percentile <= 100:
            raise RecipeError(f"objective code-length: percentile must be above 50 and at most 100, got {percentile}")
        self.weight, self.coder, self.bits, self.percentile = float(weight), coder, bits, percentile
        self.register_buffer("table", quantisation_table(quality), persistent=False)

    def forward(self, context: StepContext) -> dict[str, Tensor]:
        """Return a term per coder, ``png`` and ``jpeg``.

        Raises:
            TrainingError: the context has no latent, because the encoder did not run.
        """
        if context.latent is None:
            raise TrainingError(f"objective code-length: {_NONE}")
        latent = context.latent.float()
        coders = CODERS[:2] if self.coder == "both" else (self.coder,)
        with torch.autocast(latent.device.type, enabled=False):
            symbols = self._symbols(latent) if context.symbols is None else context.symbols.float()
            lengths = {
                "png": lambda: png_bits(symbols, noise=self.training),
                "jpeg": lambda: jpeg_bits(symbols, self.table, noise=self.training),
            }
            return {name: self.weight / len(coders) * lengths[name]() for name in coders}

    def problems(self, student: TeacherCapabilities, teacher: TeacherCapabilities | None) -> list[str]:
        """Check that there is a latent."""
        return [] if student.latent else [_NONE]

    def _symbols(self, latent: Tensor) -> Tensor:
        """Return the latent in steps of the quantiser, not rounded, within 0 and ``2**bits - 1``."""
        top = float(2**self.bits - 1)
        if self.percentile < 100:
            sample = latent.flatten()
            sample = sample[:: max(1, len(sample) // 2**18)]
            share = self.percentile / 100
            low, high = torch.quantile(sample, 1 - share), torch.quantile(sample, share)
        else:
            low, high = latent.amin(), latent.amax()
        return ((latent - low) * (top / (high - low).clamp(min=1e-6))).clamp(0, top)


_NONE = "it needs the latent, but no bottleneck encodes in this run; remove it when a head is trained late"


def png_bits(symbols: Tensor, *, noise: bool = False) -> Tensor:
    """(B, C, h, w) symbols -> bits per element, with the linear predictor of the smallest differences per channel.

    PNG has one code for all channels: the distribution is the mixture of those of groups of channels.

    Predictors are left, above, their mean, and left + above - upper left, as in PNG; outside a tile
    is the mean of the channel, where PNG continues with the tile beside it.
    """
    mean = symbols.mean((0, 2, 3), keepdim=True)
    padded = functional.pad(symbols - mean, (1, 0, 1, 0))
    left, above, corner = padded[..., 1:, :-1], padded[..., :-1, 1:], padded[..., :-1, :-1]
    here = padded[..., 1:, 1:]
    guesses = (left, above, 0.5 * (left + above), left + above - corner, torch.zeros_like(here))
    residuals = torch.stack([_rounded(here - guess, noise) for guess in guesses])
    sizes = residuals.detach().abs().mean((1, 3, 4))  # (predictors, C)
    chosen = residuals[sizes.argmin(0), :, torch.arange(sizes.shape[1], device=sizes.device)]  # (C, B, h, w)
    groups = sizes.amin(0).sort().values.tensor_split(min(GROUPS, sizes.shape[1]))
    masses = [laplace_mass(chosen, group.mean()) * len(group) for group in groups]
    return -(torch.stack(masses).sum(0) / sizes.shape[1]).clamp(min=1e-9).log2().mean()


def jpeg_bits(symbols: Tensor, table: Tensor, *, noise: bool = False) -> Tensor:
    """(B, C, h, w) symbols -> bits per element of the tiled image's 8x8 blocks, quantised by ``table``.

    A scale is the product of one per place of the block in the image, which is mostly one channel, and
    one per frequency.
    """
    steps = _rounded(coefficients(tile(symbols), table).flatten(1, 2), noise)  # (B, N, 8, 8)
    dc = functional.pad(steps[:, 1:, :1, :1] - steps[:, :-1, :1, :1], (0, 0, 0, 0, 1, 0))
    first = torch.zeros(8, 8, dtype=torch.bool, device=steps.device)
    first[0, 0] = True
    steps = torch.where(first, dc, steps)
    sizes = steps.detach().abs()
    places, frequencies = sizes.mean((0, 2, 3), keepdim=True), sizes.mean((0, 1), keepdim=True)
    scale = places * frequencies / sizes.mean().clamp(min=1e-6)
    return -laplace_mass(steps, scale).clamp(min=1e-9).log2().sum() / symbols.numel()


def _rounded(values: Tensor, noise: bool) -> Tensor:
    """Return the values with uniform noise of one step, or rounded, without a gradient."""
    return values + torch.rand_like(values) - 0.5 if noise else values.round()


def laplace_mass(values: Tensor, scale: Tensor) -> Tensor:
    """Return the mass that a Laplace distribution has in the unit interval around each value.

    Args:
        values: in steps.
        scale: mean magnitude, fitted to the values; it has no gradient, since at the fitted scale the
            length does not depend on it.
    """
    scale = scale.clamp(min=MIN_SCALE)
    distance = values.abs()
    near = (-(distance - 0.5).clamp(min=0) / scale).exp() - (-(distance + 0.5) / scale).exp()
    inside = 1 - 0.5 * ((distance - 0.5).clamp(max=0) / scale).exp() - 0.5 * (-(distance + 0.5) / scale).exp()
    return torch.where(distance > 0.5, 0.5 * near, inside)
