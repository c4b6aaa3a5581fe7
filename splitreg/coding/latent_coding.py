"""``LatentCoding``: what both halves of a model must have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.codec import Codec
from splitreg.coding.streams import LatentModel, decode_streams, encode_streams
from splitreg.coding.variable import VariableModel
from splitreg.errors import BundleError, RecipeError
from splitreg.imaging import Preprocess


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentCoding:
    """Preprocessing, tables and codec of a model. Both halves hold one; it is replaced as a whole.

    Args:
        codec: symbols to bytes.
        preprocess: image to network input.
        frozen: integer tables; None until ``SplitModel.freeze_tables``.
        model_id: 32-bit id in every packet; packets with another id are rejected.
    """

    codec: Codec
    preprocess: Preprocess
    frozen: LatentModel | None = None
    model_id: int = 0

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
        return encode_streams(self.tables, latent, self.codec, rate)

    def decode(self, streams: Sequence[bytes], shape: tuple[int, int, int]) -> NDArray[np.float32]:
        """Streams of one image -> (C, h, w) float32; see ``decode_streams``."""
        return decode_streams(self.tables, streams, shape, self.codec)
