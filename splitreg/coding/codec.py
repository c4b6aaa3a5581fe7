"""Base class of codecs; numpy only, so that a device without torch can load any codec."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.symbols import SymbolModel


class TemporalCoder(abc.ABC):
    """The symbols of a stream's frames, each coded given those of the frames before it.

    Both sides of a stream hold one for every plane of symbols, and give it the same frames in the same order.
    """

    @property
    @abc.abstractmethod
    def nbytes(self) -> int:
        """Bytes of the state."""

    @property
    @abc.abstractmethod
    def previous(self) -> NDArray[np.int32]:
        """(C, h, w) symbols of the frame before."""

    @abc.abstractmethod
    def begin(self, symbols: NDArray[np.int32]) -> None:
        """Begin again after a key frame of (C, h, w) symbols."""

    @abc.abstractmethod
    def translate(self, requantise: Callable[[NDArray[np.int32]], NDArray[np.int32]]) -> None:
        """Replace the symbols of the state by what they are under the next frame's tables."""

    @abc.abstractmethod
    def encode(self, symbols: NDArray[np.int32], model: SymbolModel, *, limit: int) -> bytes | None:
        """Encode the (C, h, w) symbols of the next frame in at most ``limit`` bytes, in none where nothing changed.

        Returns:
            The payload, or None where it does not fit; begin again with a key frame then.

        Raises:
            ShapeMismatch: the symbols are not of the key frame's shape.
        """

    @abc.abstractmethod
    def decode(self, payload: bytes, model: SymbolModel) -> NDArray[np.int32]:
        """Decode the (C, h, w) symbols of the next frame.

        Raises:
            CorruptPacket: not a payload of this state, which must be discarded.
        """


class Codec(abc.ABC):
    """Symbols and tables to bytes and back, on numpy arrays; no torch.

    Attributes:
        needs_tables: requires frequency tables.
        max_bits: codes unsigned symbols of at most this many bits; 0: any int32.
        lossless: the decoded symbols are exactly the encoded ones.
    """

    needs_tables: ClassVar[bool] = False
    max_bits: ClassVar[int] = 0
    lossless: ClassVar[bool] = True

    @abc.abstractmethod
    def encode(self, symbols: NDArray[np.int32], model: SymbolModel) -> bytes:
        """Encode (C, h, w) symbols; the same symbols and tables give the same bytes.

        The table of each symbol is row ``model.rows(shape)`` of ``model.cdf``.

        Raises:
            ShapeMismatch: C is not the model's number of channels, or there are no symbols.
        """

    @abc.abstractmethod
    def decode(self, payload: bytes, shape: tuple[int, int, int], model: SymbolModel) -> NDArray[np.int32]:
        """Decode ``shape`` (C, h, w) symbols.

        Raises:
            CorruptPacket: the payload is not valid for this shape and model.
            ShapeMismatch: the shape does not fit the model.
        """

    def encode_latent(self, latent: NDArray[np.float32], model: SymbolModel) -> bytes:
        """Quantise and encode a (C, h, w) float32 latent; a codec may do both in one pass.

        Raises:
            ShapeMismatch: the latent has other channels than the model, or no element.
            InvalidLatent: NaN, infinite or huge values.
        """
        return self.encode(model.quantise(latent), model)

    def decode_latent(self, payload: bytes, shape: tuple[int, int, int], model: SymbolModel) -> NDArray[np.float32]:
        """Decode and dequantise: (C, h, w) float32.

        Raises:
            CorruptPacket: the payload is not valid for this shape and model.
            ShapeMismatch: the shape does not fit the model.
        """
        return model.dequantise(self.decode(payload, shape, model))

    def temporal(self) -> TemporalCoder | None:
        """Return a coder for the frames of a stream; None where the codec codes every frame alone."""
        return None
