"""The factorised-prior bottleneck: a small learned encoder, a learned density per channel, a decoder."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from compressai.entropy_models import EntropyBottleneck
from torch import Tensor, nn

from splitreg.coding import SymbolModel
from splitreg.errors import InvalidTables, RecipeError
from splitreg.interfaces import Bottleneck, FeatureSpec, SymbolSpec
from splitreg_compressai.layers import gdn_decoder, gdn_encoder, light_encoder, residual_decoder, unit_gain

#: Values that are rarer than this on one side of the median are left to the escape: a table entry of their own would
#: take 2**-16 from the others, and a heavy tail has hundreds of them.
TAIL = 2.0**-16
#: A row has at most this many symbols on either side of the median.
REACH = 512


class FactorizedPrior(Bottleneck):
    """Analysis, factorised prior, synthesis.

    With its defaults at a cut of stride 4 this is Ladon's and the Entropic Student's bottleneck: an encoder of 138,672
    weights, a latent of 24 x 103 x 103 at 416 x 416. ``encoder="light"`` has a tenth of its cost.

    Args:
        source: the image, or the feature at the cut.
        target: the feature at the cut.
        channels: channels of the latent.
        stride: stride of the latent, relative to the image. By default the target's or the source's, whichever is
            coarser; with the light encoder from the image at least 8.
        encoder: ``"gdn"`` or ``"light"``.
        decoder: ``"gdn"`` or ``"residual"``; by default the one that goes with the encoder.
        hidden: width of the encoder; 96 (gdn) or 64 (light) by default.
        decoder_hidden: width of the decoder; by default twice the target's, at most 512 (gdn), or the target's, 64 to
            256 (residual).
        blocks: residual blocks of the residual decoder.

    Raises:
        RecipeError: an option out of bounds.

    Source: Ballé et al. 2018, arXiv:1802.01436 (prior); Matsubara et al. 2022, arXiv:2108.11898 (shape).
    """

    source_default: ClassVar[str] = "image"

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
        super().__init__()
        kinds = {"gdn": "gdn", "light": "residual"}
        _check(encoder in kinds, f"encoder must be {' or '.join(map(repr, kinds))}, got {encoder!r}")
        decoder = kinds[encoder] if decoder is None else decoder
        _check(decoder in kinds.values(), f"decoder must be {' or '.join(map(repr, kinds.values()))}, got {decoder!r}")
        if stride is None:
            stride = max(source.stride, target.stride, 8 if encoder == "light" and source.stride == 1 else 1)
        for name, value in (
            ("channels", channels), ("stride", stride), ("hidden", 1 if hidden is None else hidden),
            ("decoder_hidden", 1 if decoder_hidden is None else decoder_hidden), ("blocks", blocks + 1),
        ):  # fmt: skip
            _check(value >= 1, f"{name} is too small: {value}")
        _check(stride & (stride - 1) == 0, f"stride must be a power of two, got {stride}")
        _check(stride >= source.stride, f"stride {stride} is finer than what it reads, which has {source.stride}")
        self.latent = FeatureSpec(channels=channels, stride=stride)
        self.symbols = SymbolSpec(bits=0, tables=True, exact=True)
        halvings = (stride // source.stride).bit_length() - 1
        doublings = stride.bit_length() - target.stride.bit_length()
        self.encoder: nn.Module
        if encoder == "gdn":
            self.encoder = gdn_encoder(source.channels, channels, hidden or 96, halvings)
        else:
            self.encoder = light_encoder(source.channels, channels, hidden or 64, halvings)
        # The gdn pair loses and regains one row and column; a mixed pair must agree on that.
        lost, regained = int(encoder == "gdn"), int(decoder == "gdn")
        self.decoder: nn.Module
        if decoder == "gdn":
            self.decoder = gdn_decoder(
                channels, target.channels, decoder_hidden or min(2 * target.channels, 512), doublings
            )
        else:
            width = decoder_hidden or min(max(target.channels, 64), 256)
            self.decoder = residual_decoder(channels, target.channels, width, doublings, blocks)
        if lost > regained:
            self.decoder = nn.Sequential(nn.ReplicationPad2d((0, 1, 0, 1)), self.decoder)
        for part in (self.encoder, self.decoder):
            unit_gain(part)
        self.prior = EntropyBottleneck(channels)

    def analyse(self, x: Tensor) -> Tensor:
        """(B, C_source, H, W) -> latent (B, channels, h, w) float32, not rounded; any H, W from 1."""
        latent: Tensor = self.encoder(x)
        return latent.float()

    def synthesise(self, latent: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, C_target, h', w'), at least the size of the feature at the cut."""
        restored: Tensor = self.decoder(latent)
        return restored

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
        prior = copy.deepcopy(self.prior).cpu().float()  # compressai's table buffers would change the state dict
        with torch.no_grad():
            medians = prior.quantiles[:, 0, 1].clone()
            steps = torch.arange(-REACH, REACH + 1)
            _, mass = prior((medians[:, None] + steps)[None], training=False)  # (1, C, 2 * REACH + 1)
            if not torch.isfinite(mass).all():
                raise InvalidTables("the prior has NaN or infinite parameters; training has diverged")
            below = (mass[0].cumsum(1) < TAIL).sum(1).clamp(max=REACH - 1)
            above = (mass[0].flip(1).cumsum(1) < TAIL).sum(1).clamp(max=REACH - 1)
            prior.quantiles[:, 0, 0] = medians + steps[below]
            prior.quantiles[:, 0, 2] = medians - steps[above]
        prior.update(force=True)
        return SymbolModel.from_cdf(
            prior.quantized_cdf.numpy(), prior.cdf_length.numpy(), prior.offset.numpy(), medians.numpy()
        )

    def auxiliary_loss(self) -> Tensor:
        """Return the loss that moves the prior's quantiles to its tails."""
        loss: Tensor = self.prior.loss()
        return loss

    def auxiliary_parameters(self) -> list[nn.Parameter]:
        """Return the quantiles."""
        return [self.prior.quantiles]


def _check(fine: bool, message: str) -> None:
    if not fine:
        raise RecipeError(f"bottleneck fp: {message}")
