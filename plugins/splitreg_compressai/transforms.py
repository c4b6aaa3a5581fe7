"""What the learned bottlenecks share: a learned encoder and decoder, gains, and a density to train."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from splitreg.errors import RecipeError
from splitreg.interfaces import Bottleneck, FeatureSpec, SymbolSpec
from splitreg_compressai.density import FactorizedDensity
from splitreg_compressai.gains import Gains
from splitreg_compressai.layers import gdn_decoder, gdn_encoder, light_encoder, residual_decoder, unit_gain

#: Encoder -> the decoder that is used with it by default.
PAIRS = {"gdn": "gdn", "light": "residual"}


class Transforms(Bottleneck):
    """Encoder and decoder; a subclass adds the prior.

    Args:
        source: the image, or the feature at the cut.
        target: the feature at the cut.
        channels: channels of the latent.
        stride: stride of the latent, relative to the image; by default the larger one of source and
            target, at least 8 with the light encoder from the image.
        encoder: ``"gdn"`` or ``"light"``; by default light if it reads the image, else gdn.
        decoder: ``"gdn"`` or ``"residual"``; by default the one of ``PAIRS``.
        hidden: width of the encoder; by default 96 (gdn) or 64 (light).
        decoder_hidden: width of the decoder; by default twice the target's channels, at most 512
            (gdn), or the target's channels, 64 to 256 (residual).
        blocks: residual blocks of the residual decoder.
        rates: 1: one rate. More: one model for a range of rates, with this many gains per channel.
        rate_range: largest weight of the rate in training over the smallest.
        surrogate: input of the decoder in training: ``"mixed"``: rounded like the codec does, with
            straight-through gradients, while the rate sees noise; ``"noise"``: uniform noise of half a
            step, as in the papers. At low rates noise carries information that rounding removes, and
            a decoder that averages noise fails on the zeros of the codec.

    Attributes:
        prior: the learned density; its quantiles are trained by ``auxiliary_loss``.

    Raises:
        RecipeError: an option is out of range.

    Source: Minnen & Singh 2020, arXiv:2007.08739 (the mixed surrogate).
    """

    name: ClassVar[str]
    source_default: ClassVar[str] = "image"
    prior: FactorizedDensity

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
        super().__init__()
        if encoder is None:
            encoder = "light" if source.stride == 1 else "gdn"
        self._check(encoder in PAIRS, f"encoder must be {' or '.join(map(repr, PAIRS))}, got {encoder!r}")
        decoder = PAIRS[encoder] if decoder is None else decoder
        decoders = " or ".join(map(repr, PAIRS.values()))
        self._check(decoder in PAIRS.values(), f"decoder must be {decoders}, got {decoder!r}")
        self._check(surrogate in ("noise", "mixed"), f"surrogate must be 'noise' or 'mixed', got {surrogate!r}")
        self._check(1 <= rates <= 256, f"rates must be 1 to 256, got {rates}")
        self._check(1 < rate_range <= 1e6, f"rate_range must be above 1 and at most 1e6, got {rate_range}")
        sizes = {"channels": channels, "hidden": hidden, "decoder_hidden": decoder_hidden}
        for name, value in sizes.items():
            self._check(value is None or value >= 1, f"{name} must be 1 or more, got {value}")
        self._check(blocks >= 0, f"blocks must be 0 or more, got {blocks}")
        if stride is None:
            stride = max(source.stride, target.stride, 8 if encoder == "light" and source.stride == 1 else 1)
        self._check(stride >= 1 and stride & (stride - 1) == 0, f"stride must be a power of two, got {stride}")
        self._check(stride >= source.stride, f"stride {stride} is finer than the source's, which is {source.stride}")
        self.mixed = surrogate == "mixed"
        self.latent = FeatureSpec(channels=channels, stride=stride)
        self.symbol_spec = SymbolSpec(bits=0, tables=True, exact=True)
        self.encoder = self._encoder(encoder, source, hidden)
        self.decoder = self._decoder(decoder, target, decoder_hidden, blocks)
        if encoder == "gdn" and decoder != "gdn":
            # The gdn encoder loses one row and column, which only the gdn decoder restores.
            self.decoder = nn.Sequential(nn.ReplicationPad2d((0, 1, 0, 1)), self.decoder)
        for part in (self.encoder, self.decoder):
            unit_gain(part)
        self.gains = Gains(channels, rates, rate_range) if rates > 1 else None

    def auxiliary_loss(self) -> Tensor:
        """Return the loss that moves the prior's quantiles to its tails."""
        return self.prior.loss()

    def auxiliary_parameters(self) -> list[nn.Parameter]:
        """Return the quantiles."""
        return [self.prior.quantiles]

    def _encoder(self, kind: str, source: FeatureSpec, hidden: int | None) -> nn.Module:
        halvings = (self.latent.stride // source.stride).bit_length() - 1
        if kind == "gdn":
            return gdn_encoder(source.channels, self.latent.channels, hidden or 96, halvings)
        return light_encoder(source.channels, self.latent.channels, hidden or 64, halvings)

    def _decoder(self, kind: str, target: FeatureSpec, hidden: int | None, blocks: int) -> nn.Module:
        doublings = self.latent.stride.bit_length() - target.stride.bit_length()
        if kind == "gdn":
            width = hidden or min(2 * target.channels, 512)
            return gdn_decoder(self.latent.channels, target.channels, width, doublings)
        width = hidden or min(max(target.channels, 64), 256)
        return residual_decoder(self.latent.channels, target.channels, width, doublings, blocks)

    def _check(self, valid: bool, message: str) -> None:
        if not valid:
            raise RecipeError(f"bottleneck {self.name}: {message}")
