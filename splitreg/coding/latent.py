"""What turns a latent into streams of bytes and back: one table a channel, a hyperprior, or either at many rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.variable import VariableModel, fixed_model

if TYPE_CHECKING:
    from splitreg.coding.codec import Codec


class LatentModel(Protocol):
    """What ``Bottleneck.freeze`` returns: integers alone, the same on both sides, hashed into every packet."""

    @property
    def channels(self) -> int:
        """C of the latent."""

    @property
    def bits(self) -> int:
        """Symbols are below ``2**bits``; 0 where any int32 may come."""

    @property
    def has_tables(self) -> bool:
        """Whether frequency tables are there."""

    def encode(self, latent: NDArray[np.float32], codec: Codec) -> tuple[bytes, ...]:
        """(C, h, w) float32 -> the streams of a packet.

        Raises:
            ShapeMismatch: the latent has other channels, or no element.
            InvalidLatent: NaN, infinite or huge values.
        """

    def decode(self, streams: Sequence[bytes], shape: tuple[int, int, int], codec: Codec) -> NDArray[np.float32]:
        """Streams -> the (C, h, w) float32 latent that the encoder knew.

        Raises:
            CorruptPacket: not streams that ``encode`` writes for this shape.
        """

    def restore(self, latent: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what a receiver gets of a (C, h, w) latent, when the codec is lossless."""

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the arrays that define this model; ``load_model`` is the inverse."""

    def digest(self) -> bytes:
        """SHA-256 over all arrays, the same on every machine."""


def load_model(arrays: Mapping[str, NDArray[np.generic]]) -> LatentModel:
    """Rebuild a model from ``to_arrays``.

    Raises:
        InvalidTables: an array is missing or wrong.
    """
    return VariableModel.from_arrays(arrays) if "gains" in arrays else fixed_model(arrays)
