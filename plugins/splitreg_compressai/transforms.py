"""What the learned bottlenecks share: a small learned encoder and a decoder, whatever their prior."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from splitreg.errors import RecipeError
from splitreg.interfaces import Bottleneck, FeatureSpec, SymbolSpec
from splitreg_compressai.gains import Gains
from splitreg_compressai.layers import gdn_decoder, gdn_encoder, light_encoder, residual_decoder, unit_gain


class Transforms(Bottleneck):
    """Encoder and decoder; a subclass adds the prior.

    Args:
        source: the image, or the feature at the cut.
        target: the feature at the cut.
        channels: channels of the latent.
        stride: stride of the latent, relative to the image. By default the target's or the source's, whichever is
            coarser; with the light encoder from the image at least 8.
        encoder: ``"gdn"`` or ``"light"``; by default light where it reads the image, else gdn.
        decoder: ``"gdn"`` or ``"residual"``; by default the one that goes with the encoder.
        hidden: width of the encoder; 96 (gdn) or 64 (light) by default.
        decoder_hidden: width of the decoder; by default twice the target's, at most 512 (gdn), or the target's, 64 to
            256 (residual).
        blocks: residual blocks of the residual decoder.
        rates: 1: one rate. Above: one model for a range of rates, with so many learned gains a channel.
        rate_range: largest weight of the rate in training over the smallest, around the stage's own.
        surrogate: what the decoder gets in training: ``"mixed"`` (rounded as the codec does, straight-through; the rate
            sees noise) or ``"noise"`` (uniform, half a step either way, as the papers have it). At few bits noise carries
            what rounding takes away, and a decoder that averages it is lost with the codec's zeros.

    Raises:
        RecipeError: an option out of bounds.

    Source: Minnen & Singh 2020, arXiv:2007.08739 (the mixed surrogate).
    """

    name: ClassVar[str]
    source_default: ClassVar[str] = "image"

    def __init__(
        self,
        source: FeatureSpec,
        target: FeatureSpec,
        *,
        channels: int,
        stride: int | None,
        encoder: str | None,
        decoder: str | None,
        hidden: int | None,
        decoder_hidden: int | None,
        blocks: int,
        rates: int,
        rate_range: float,
        surrogate: str,
    ) -> None:
        super().__init__()
        if encoder is None:
            encoder = "light" if source.stride == 1 else "gdn"
        kinds = {"gdn": "gdn", "light": "residual"}
        self._check(encoder in kinds, f"encoder must be {' or '.join(map(repr, kinds))}, got {encoder!r}")
        decoder = kinds[encoder] if decoder is None else decoder
        decoders = " or ".join(map(repr, kinds.values()))
        self._check(decoder in kinds.values(), f"decoder must be {decoders}, got {decoder!r}")
        if stride is None:
            stride = max(source.stride, target.stride, 8 if encoder == "light" and source.stride == 1 else 1)
        for name, value in (
            ("channels", channels), ("stride", stride), ("hidden", 1 if hidden is None else hidden),
            ("decoder_hidden", 1 if decoder_hidden is None else decoder_hidden), ("blocks", blocks + 1),
        ):  # fmt: skip
            self._check(value >= 1, f"{name} is too small: {value}")
        self._check(1 <= rates <= 256, f"rates must be 1 to 256, got {rates}")
        self._check(surrogate in ("noise", "mixed"), f"surrogate must be 'noise' or 'mixed', got {surrogate!r}")
        self.mixed = surrogate == "mixed"
        self._check(1 < rate_range <= 1e6, f"rate_range must be above 1 and at most 1e6, got {rate_range}")
        self._check(stride & (stride - 1) == 0, f"stride must be a power of two, got {stride}")
        self._check(stride >= source.stride, f"stride {stride} is finer than what it reads, which has {source.stride}")
        self.latent = FeatureSpec(channels=channels, stride=stride)
        self.symbol_spec = SymbolSpec(bits=0, tables=True, exact=True)
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
        self.gains = Gains(channels, rates, rate_range) if rates > 1 else None

    def analyse(self, x: Tensor) -> Tensor:
        """(B, C_source, H, W) -> latent (B, channels, h, w) float32, not rounded; any H, W from 1."""
        latent: Tensor = self.encoder(x)
        return latent.float()

    def synthesise(self, latent: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, C_target, h', w'), at least the size of the feature at the cut."""
        restored: Tensor = self.decoder(latent)
        return restored

    def _check(self, fine: bool, message: str) -> None:
        if not fine:
            raise RecipeError(f"bottleneck {self.name}: {message}")
