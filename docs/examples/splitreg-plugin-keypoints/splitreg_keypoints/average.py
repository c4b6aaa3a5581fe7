"""The bottleneck ``average``."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from splitreg.coding import SymbolModel
from splitreg.errors import RecipeError
from splitreg.interfaces import Bottleneck, FeatureSpec, SymbolSpec


class Average(Bottleneck):
    """Average ``pool`` x ``pool`` cells, project to a few channels between 0 and 1, and quantise them.

    Args:
        source: input of the encoder: the image, or the feature at the cut.
        target: the feature at the cut.
        channels: channels of the latent.
        pool: cells of the feature at the cut, per side, that share one latent value.
        bits: bits per symbol, 1 to 16.

    Raises:
        RecipeError: an option is out of range.
    """

    def __init__(
        self, source: FeatureSpec, target: FeatureSpec, *, channels: int = 8, pool: int = 2, bits: int = 6
    ) -> None:
        super().__init__()
        if channels < 1 or not 1 <= bits <= 16:
            raise RecipeError(
                f"bottleneck average: channels must be 1 or more, bits 1 to 16; got {channels} and {bits}"
            )
        if pool < 1 or pool & (pool - 1):
            raise RecipeError(f"bottleneck average: pool must be 1, 2, 4, 8, ...; got {pool}")
        self.bits = bits
        self.latent = FeatureSpec(channels=channels, stride=target.stride * pool)
        # neighbouring symbols stand for similar values, so lossy codecs may carry them
        self.symbol_spec = SymbolSpec(bits=bits, tables=False, exact=False)
        step = self.latent.stride // source.stride
        # The weights under `encoder` go to the device, all others to the server.
        self.encoder = nn.Sequential(
            nn.AvgPool2d(step, ceil_mode=True, count_include_pad=False),
            nn.Conv2d(source.channels, channels, 1),
            nn.Sigmoid(),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(channels, target.channels, 1), nn.Upsample(scale_factor=float(pool), mode="nearest")
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the restored feature and the rate, ``bits`` per symbol; training replaces rounding by noise."""
        latent = self.analyse(x)
        levels = 2**self.bits - 1
        sent = (
            latent + (torch.rand_like(latent) - 0.5) / levels
            if self.training
            else torch.round(latent * levels) / levels
        )
        return self.synthesise(sent), latent.new_full((len(latent),), float(self.bits * latent[0].numel()))

    def freeze(self) -> SymbolModel:
        """Return the quantiser: 0 to 1 in ``2**bits`` levels."""
        channels, levels = self.latent.channels, 2**self.bits - 1
        return SymbolModel.plain(
            "uniform", channels, self.bits, shift=np.zeros(channels), scale=np.full(channels, float(levels))
        )
