"""``LatentCoding``: what both halves of a model must have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.codec import Codec
from splitreg.coding.packet import Packet
from splitreg.coding.streams import LatentModel, decode_streams, encode_streams, without_context
from splitreg.coding.variable import VariableModel
from splitreg.errors import BundleError, CorruptPacket, RecipeError
from splitreg.imaging import Geometry, Preprocess


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentCoding:
    """Preprocessing, tables and codec of a model. Both halves hold one; it is replaced as a whole.

    Args:
        codec: symbols to bytes.
        preprocess: image to network input.
        frozen: integer tables; None until ``SplitModel.freeze_tables``.
        model_id: 32-bit id in every packet; packets with another id are rejected.
        context: encode with the context network, if the tables have one. Packets without it are decoded in any case.
    """

    codec: Codec
    preprocess: Preprocess
    frozen: LatentModel | None = None
    model_id: int = 0
    context: bool = True
    _without_context: LatentModel | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.frozen is not None:
            object.__setattr__(self, "_without_context", without_context(self.frozen))

    @property
    def tables(self) -> LatentModel:
        """The frozen tables.

        Raises:
            BundleError: the model has not been frozen.
        """
        if self.frozen is None:
            raise BundleError("the model has no integer tables yet; call model.freeze_tables() after training")
        return self.frozen

    @property
    def has_context(self) -> bool:
        """Whether the tables have a context network."""
        return self._without_context is not None

    @property
    def packet_context(self) -> bool:
        """``Packet.context`` of the packets that are written with this coding."""
        return self.context or not self.has_context

    def tables_for(self, *, context: bool) -> LatentModel:
        """Return the frozen tables that decode a packet.

        Args:
            context: ``Packet.context``.

        Raises:
            BundleError: the model has not been frozen.
            CorruptPacket: the packet is flagged as coded without a context network, and the tables have none.
        """
        if context:
            return self.tables
        if self._without_context is None:
            raise CorruptPacket(
                "the packet is flagged as coded without the context network, but this model has none; it is damaged or of "
                "another model"
            )
        return self._without_context

    @property
    def has_rates(self) -> bool:
        """Whether the model has several rates."""
        return isinstance(self.frozen, VariableModel)

    @property
    def variable(self) -> VariableModel:
        """The frozen tables of a model with several rates.

        Raises:
            BundleError: the model has not been frozen.
            RecipeError: the model has one rate.
        """
        if not isinstance(self.tables, VariableModel):
            raise RecipeError(
                "this model has one rate; leave rate and budget out, or train a model with several rates: "
                "bottleneck = { name = 'fp', rates = 5 }"
            )
        return self.tables

    def encode(self, latent: NDArray[np.float32], rate: float | None = None) -> tuple[bytes, ...]:
        """(C, h, w) float32 -> the streams of one image; see ``encode_streams``."""
        return encode_streams(self.tables_for(context=self.packet_context), latent, self.codec, rate)

    def packet(self, latent: NDArray[np.float32], geometry: Geometry, rate: float | None = None) -> Packet:
        """Return the packet of a (C, h, w) float32 latent; see ``encode_streams``."""
        return Packet(
            model_id=self.model_id, original=geometry.original, coded=geometry.coded, streams=self.encode(latent, rate),
            context=self.packet_context,
        )  # fmt: skip

    def decode(
        self, streams: Sequence[bytes], shape: tuple[int, int, int], *, context: bool = True
    ) -> NDArray[np.float32]:
        """Streams of one image -> (C, h, w) float32; see ``decode_streams``.

        Args:
            streams: of one image.
            shape: (C, h, w).
            context: ``Packet.context``.
        """
        return decode_streams(self.tables_for(context=context), streams, shape, self.codec)
