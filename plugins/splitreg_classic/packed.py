"""Codecs without tables: symbols packed into bytes, plain or compressed with zstd."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import zstandard
from numpy.typing import NDArray

from splitreg.coding import Codec, SymbolModel
from splitreg.errors import CorruptPacket, RecipeError

# Neither the magic number nor the size is sent: codec and shape are known from the packet.
_FORMAT = zstandard.FORMAT_ZSTD1_MAGICLESS


class RawCodec(Codec):
    """Fixed-width integers: ``bits`` per symbol, most significant bit first.

    Symbols without a limit are little-endian int32.
    """

    needs_tables: ClassVar[bool] = False
    max_bits: ClassVar[int] = 0
    lossless: ClassVar[bool] = True

    def encode(self, symbols: NDArray[np.int32], model: SymbolModel) -> bytes:
        """Pack (C, h, w) symbols into ``ceil(C*h*w*bits / 8)`` bytes.

        Raises:
            ShapeMismatch: the shape is empty, or C is not the model's number of channels.
            InvalidLatent: a symbol has more bits than the model.
        """
        flat = model.check_symbols(symbols).ravel()
        if model.bits in (0, 32):
            return flat.astype("<i4").tobytes()
        places = np.arange(model.bits - 1, -1, -1, dtype=np.int32)
        return np.packbits(((flat[:, None] >> places) & 1).astype(np.uint8)).tobytes()

    def decode(self, payload: bytes, shape: tuple[int, int, int], model: SymbolModel) -> NDArray[np.int32]:
        """Unpack a payload of the exact length, with padding of zeros.

        Raises:
            CorruptPacket: the length is wrong, or bits are set after the last symbol.
            ShapeMismatch: the shape does not fit the model.
        """
        model.check_shape(shape)
        count, bits = math.prod(shape), model.bits or 32
        expected = -(-count * bits // 8)
        if len(payload) != expected:
            raise CorruptPacket(f"{count} symbols of {bits} bits take {expected} bytes, the payload has {len(payload)}")
        if bits == 32:
            return np.frombuffer(payload, "<i4").astype(np.int32).reshape(shape)
        unpacked = np.unpackbits(np.frombuffer(payload, np.uint8))
        if unpacked[count * bits :].any():
            raise CorruptPacket("the payload has bits set after its last symbol; it was not written for this shape")
        symbols = np.zeros(count, np.int32)
        for plane in unpacked[: count * bits].reshape(count, bits).T:
            symbols = (symbols << 1) | plane
        return symbols.reshape(shape)


class Zstd(Codec):
    """zstd over byte planes of the smallest width that holds a symbol.

    Signed symbols are mapped to unsigned ones (0, -1, 1, -2, ...): the upper bytes of small ones are 0.

    Args:
        level: compression level, 1 (fast) to 22 (small).

    Source: RFC 8878.
    """

    needs_tables: ClassVar[bool] = False
    max_bits: ClassVar[int] = 0
    lossless: ClassVar[bool] = True

    def __init__(self, *, level: int = 12) -> None:
        if not 1 <= level <= 22:
            raise RecipeError(f"codec zstd: level must be 1 to 22, got {level}")
        self.level = level

    def encode(self, symbols: NDArray[np.int32], model: SymbolModel) -> bytes:
        """Compress (C, h, w) symbols.

        Raises:
            ShapeMismatch: the shape is empty, or C is not the model's number of channels.
            InvalidLatent: a symbol has more bits than the model.
        """
        flat = model.check_symbols(symbols).ravel()
        if _signed(model):
            flat = (flat << 1) ^ (flat >> 31)
        planes = flat.astype("<u4").view(np.uint8).reshape(-1, 4)[:, : _width(model)]
        parameters = zstandard.ZstdCompressionParameters.from_level(
            self.level, source_size=planes.size, format=_FORMAT, write_content_size=False
        )
        return zstandard.ZstdCompressor(compression_params=parameters).compress(planes.T.tobytes())

    def decode(self, payload: bytes, shape: tuple[int, int, int], model: SymbolModel) -> NDArray[np.int32]:
        """Decompress into at most the bytes that ``shape`` takes.

        Raises:
            CorruptPacket: the payload is not a frame of exactly that many bytes and bits.
            ShapeMismatch: the shape does not fit the model.
        """
        model.check_shape(shape)
        count, width = math.prod(shape), _width(model)
        size = count * width
        try:
            frame = zstandard.get_frame_parameters(payload, format=_FORMAT)
            # The decoder allocates the size and the window that a frame declares.
            if frame.content_size != zstandard.CONTENTSIZE_UNKNOWN or frame.window_size > max(1024, 2 * size):
                raise CorruptPacket(f"the zstd frame claims more memory than {count} symbols take")
            content = zstandard.ZstdDecompressor(format=_FORMAT).decompress(
                payload, max_output_size=size, allow_extra_data=False
            )
        except zstandard.ZstdError as cause:
            raise CorruptPacket(f"the payload is not a zstd frame of {size} bytes: {cause}") from cause
        if len(content) != size:
            raise CorruptPacket(f"{count} symbols take {size} bytes, the zstd frame has {len(content)}")
        wide = np.zeros((count, 4), np.uint8)
        wide[:, :width] = np.frombuffer(content, np.uint8).reshape(width, count).T
        symbols = wide.view("<i4").ravel().astype(np.int32)
        if _signed(model):
            symbols = ((symbols >> 1) & 0x7FFFFFFF) ^ -(symbols & 1)
        return model.check_decoded(symbols.reshape(shape))


def _signed(model: SymbolModel) -> bool:
    """Whether symbols may be negative numbers."""
    return model.bits == 0 and model.mode != "bits"


def _width(model: SymbolModel) -> int:
    """Return the bytes per symbol."""
    return -(-(model.bits or 32) // 8)
