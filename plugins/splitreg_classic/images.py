"""Codecs that tile the channels of a quantised feature into one grey image: PNG, JPEG, WebP.

Source: Alvar & Bajic 2019, arXiv:1902.05179 (tiling and image codecs for features).
"""

from __future__ import annotations

import abc
import io
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splitreg.coding import Codec, SymbolModel
from splitreg.errors import CorruptPacket, RecipeError, ShapeMismatch
from splitreg.files import IMAGE_CODECS
from splitreg_classic.tiling import grid, tile, untile

#: Largest number of pixels of an image: above it Pillow warns of a decompression bomb.
MAX_PIXELS = 89_000_000


class _ImageCodec(Codec):
    """One grey image of all channels."""

    needs_tables: ClassVar[bool] = False
    #: Pillow's name of the format.
    name: ClassVar[str]
    #: Largest width and height.
    max_side: ClassVar[int]

    @abc.abstractmethod
    def _write(self, pixels: NDArray[np.int32], bits: int) -> bytes: ...

    @abc.abstractmethod
    def _read(self, payload: bytes, size: tuple[int, int], bits: int) -> NDArray[np.int32]:
        """Return (H, W) int32; ``size`` is (W, H), checked before pixels are decoded."""

    def encode(self, symbols: NDArray[np.int32], model: SymbolModel) -> bytes:
        """Code (C, h, w) unsigned symbols of at most ``max_bits`` bits as one image.

        Raises:
            ShapeMismatch: the shape is empty or does not fit the model, or the symbols or the image are
                too large for the format.
            InvalidLatent: a symbol has more bits than the model.
        """
        self._check_size(symbols.shape, model)
        return self._write(tile(model.check_symbols(symbols)), model.bits)

    def decode(self, payload: bytes, shape: tuple[int, int, int], model: SymbolModel) -> NDArray[np.int32]:
        """Decode an image of exactly the size that ``shape`` takes.

        Raises:
            CorruptPacket: the payload is cut short, or not an image of this format, size and depth.
            ShapeMismatch: the shape does not fit the model or the format.
        """
        model.check_shape(shape)
        width, height = self._check_size(shape, model)
        try:
            pixels = self._read(payload, (width, height), model.bits)
        except CorruptPacket:
            raise
        except Exception as cause:  # Pillow raises OSError, SyntaxError, ValueError, struct.error and more
            raise CorruptPacket(f"the payload is not a complete {self.name} image: {cause}") from cause
        return model.check_decoded(untile(pixels, shape))

    def _check_size(self, shape: tuple[int, ...], model: SymbolModel) -> tuple[int, int]:
        """Return (width, height) of the image."""
        if not 1 <= model.bits <= self.max_bits:
            what = f"{model.bits} bits" if model.bits else "any 32-bit integer"
            raise ShapeMismatch(f"{self.name} carries unsigned symbols of 1 to {self.max_bits} bits, not {what}")
        if len(shape) != 3:
            raise ShapeMismatch(f"symbols are (C, h, w), got {shape}")
        rows, columns = grid(shape[0])
        width, height = columns * shape[2], rows * shape[1]
        if max(width, height) > self.max_side or width * height > MAX_PIXELS:
            raise ShapeMismatch(
                f"{shape} symbols make an image of {width}x{height}; {self.name} has at most {self.max_side} pixels "
                f"per side, and {MAX_PIXELS} in all are allowed: use codec zstd"
            )
        return width, height

    def _open(self, payload: bytes, size: tuple[int, int], mode: str) -> Any:
        image = Image.open(io.BytesIO(payload), formats=[self.name])  # reads the header only
        if (image.format, image.size, image.mode) != (self.name, size, mode):
            raise CorruptPacket(
                f"expected a {self.name} of {size[0]}x{size[1]} {mode}, the payload is a {image.format} of "
                f"{image.size[0]}x{image.size[1]} {image.mode}"
            )
        return image


#: The last chunk of a PNG: length 0, type, CRC.
_PNG_END = b"\0\0\0\0IEND\xae\x42\x60\x82"


class Png(_ImageCodec):
    """Grey PNG of 8 bits, or of 16 if the symbols need them.

    Args:
        level: compression level, 0 (fast) to 9 (small).
    """

    max_bits: ClassVar[int] = 16
    lossless: ClassVar[bool] = True
    name: ClassVar[str] = IMAGE_CODECS["png"][0]
    max_side: ClassVar[int] = 65535  # the format allows more, Pillow's buffers do not

    def __init__(self, *, level: int = 9) -> None:
        if not 0 <= level <= 9:
            raise RecipeError(f"codec png: level must be 0 to 9, got {level}")
        self.level = level

    def _write(self, pixels: NDArray[np.int32], bits: int) -> bytes:
        image = Image.fromarray(pixels.astype(np.uint8 if bits <= 8 else np.uint16))
        return _saved(image, self.name, compress_level=self.level)

    def _read(self, payload: bytes, size: tuple[int, int], bits: int) -> NDArray[np.int32]:
        if payload.find(_PNG_END) != len(payload) - len(_PNG_END):  # Pillow accepts both
            raise CorruptPacket("the payload is truncated, or has bytes after the end of the PNG")
        return np.asarray(self._open(payload, size, "L" if bits <= 8 else "I;16")).astype(np.int32)


class Jpeg(_ImageCodec):
    """Grey baseline JPEG; symbols of fewer than 8 bits are scaled to 0 to 255.

    Args:
        quality: 1 to 100.
    """

    max_bits: ClassVar[int] = 8
    lossless: ClassVar[bool] = False
    name: ClassVar[str] = IMAGE_CODECS["jpeg"][0]
    max_side: ClassVar[int] = 65500  # libjpeg's limit

    def __init__(self, *, quality: int = 90) -> None:
        self.quality = _quality("jpeg", quality)

    def _write(self, pixels: NDArray[np.int32], bits: int) -> bytes:
        return _saved(
            Image.fromarray(_spread(pixels, bits)), self.name, quality=self.quality, **IMAGE_CODECS["jpeg"][1]
        )

    def _read(self, payload: bytes, size: tuple[int, int], bits: int) -> NDArray[np.int32]:
        image = self._open(payload, size, "L")
        if image.info.get("progressive"):  # many scans take much time for few bytes
            raise CorruptPacket("the payload is a progressive JPEG; this codec writes baseline ones")
        return _gather(np.asarray(image), bits)


class Webp(_ImageCodec):
    """Grey WebP.

    Args:
        quality: None for lossless; 0 to 100 for lossy.
        effort: 0 (fast) to 6 (small).

    Source: RFC 9649. Headers are checked here, because Pillow allocates the canvas when it opens a file.
    """

    max_bits: ClassVar[int] = 8
    name: ClassVar[str] = IMAGE_CODECS["webp"][0]
    max_side: ClassVar[int] = 16383

    def __init__(self, *, quality: int | None = None, effort: int = 4) -> None:
        if not 0 <= effort <= 6:
            raise RecipeError(f"codec webp: effort must be 0 to 6, got {effort}")
        self.quality = None if quality is None else _quality("webp", quality)
        self.effort = effort
        self.lossless = quality is None  # type: ignore[misc]  # depends on the option

    def _write(self, pixels: NDArray[np.int32], bits: int) -> bytes:
        image = Image.fromarray(_spread(pixels, bits) if self.quality is not None else pixels.astype(np.uint8))
        options = {"lossless": True} if self.quality is None else {"quality": self.quality}
        return _saved(image.convert("RGB"), self.name, method=self.effort, **options)

    def _read(self, payload: bytes, size: tuple[int, int], bits: int) -> NDArray[np.int32]:
        if _webp_size(payload, lossless=self.quality is None) != size:
            raise CorruptPacket(f"the payload is not a still WebP of {size[0]}x{size[1]}")
        image = self._open(payload, size, "RGB")
        if self.quality is not None:
            return _gather(np.asarray(image.convert("L")), bits)
        pixels = np.asarray(image)
        if (pixels != pixels[:, :, :1]).any():
            raise CorruptPacket("the payload is a WebP with colours; this codec writes grey images")
        return pixels[:, :, 0].astype(np.int32)


def _webp_size(payload: bytes, lossless: bool) -> tuple[int, int] | None:
    """Return (width, height) of a WebP file of one still image, None for anything else."""
    head = bytes(payload[:30])
    if len(head) < 30 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    if int.from_bytes(head[4:8], "little") + 8 != len(payload):
        return None
    if lossless:
        if head[12:16] != b"VP8L" or head[20] != 0x2F:
            return None
        fields = int.from_bytes(head[21:25], "little")
        return (fields & 0x3FFF) + 1, (fields >> 14 & 0x3FFF) + 1
    if head[12:16] != b"VP8 " or head[23:26] != b"\x9d\x01\x2a":
        return None
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def _saved(image: Image.Image, name: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _spread(pixels: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """Scale [0, 2**bits - 1] to [0, 255], rounded."""
    top = 2**bits - 1
    scaled: NDArray[np.uint8] = ((pixels * 255 + top // 2) // top).astype(np.uint8)
    return scaled


def _gather(pixels: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """Undo ``_spread``."""
    symbols: NDArray[np.int32] = (pixels.astype(np.int32) * (2**bits - 1) + 127) // 255
    return symbols


def _quality(codec: str, quality: int) -> int:
    if not 0 <= quality <= 100:
        raise RecipeError(f"codec {codec}: quality must be 0 to 100, got {quality}")
    return quality
