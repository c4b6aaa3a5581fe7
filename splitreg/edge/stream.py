"""``EdgeStream``: the frames of a camera to packets that are coded given the frames before."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.frame_coding import FrameEncoder
from splitreg.coding.latent_coding import LatentCoding
from splitreg.coding.stream_packet import StreamFormat
from splitreg.errors import RecipeError, ShapeMismatch
from splitreg.imaging import Geometry, ImageLike

#: ``EdgeHalf.latent_of``.
LatentOf = Callable[[ImageLike], tuple[NDArray[np.float32], Geometry]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOptions:
    """How a stream is coded.

    Args:
        key_interval_s: seconds after which a frame is coded alone; 0: only the first one.
        tolerance: 0 to 0.5 quantisation steps by which a symbol may be off to stay as it was. 0
            gives the latents of single packets; more saves bytes, see ``docs/results.md``.
        rate: 0 (fewest bytes) to 1 (most), for a model with several rates.

    Raises:
        RecipeError: a value is out of range.
    """

    key_interval_s: float = 10.0
    tolerance: float = 0.0
    rate: float | None = None

    def __post_init__(self) -> None:
        if not self.key_interval_s >= 0:
            raise RecipeError(f"key_interval_s must be 0 or more, got {self.key_interval_s}")
        if not 0 <= self.tolerance <= 0.5:
            raise RecipeError(f"tolerance must be 0 to 0.5 quantisation steps, got {self.tolerance}")


class EdgeStream:
    """Encodes images of one size, one after the other; from ``EdgeHalf.stream``.

    Args:
        coding: of the model.
        latent_of: returns the latent of an image, and its geometry.
        options: how the stream is coded.
        number: of the stream, in its key frames.

    Attributes:
        format: what the server must know; None before the first image.
        encoder: the state; None before the first image.
    """

    def __init__(self, coding: LatentCoding, latent_of: LatentOf, options: StreamOptions, number: int) -> None:
        self.format: StreamFormat | None = None
        self.encoder: FrameEncoder | None = None
        self._coding, self._latent_of, self._options, self._number = coding, latent_of, options, number
        self._last_key = 0.0

    def encode(self, image: ImageLike, *, rate: float | None = None, key: bool = False) -> bytes:
        """Encode the next image.

        Args:
            image: as ``EdgeHalf.encode``.
            rate: instead of the stream's rate.
            key: code the image alone, for instance because the server has lost its state.

        Returns:
            The packet of the frame, see ``splitreg.coding.StreamPacket``.

        Raises:
            ShapeMismatch: the image does not have the size of those before; open another stream.
            ImageError: the image cannot be read or is too large.
            InvalidLatent: the encoder returned NaN, infinite or huge values.
            RecipeError: the rate is not within 0 to 1, or the model has one rate.
        """
        latent, geometry = self._latent_of(image)
        if self.format is None or self.encoder is None:
            channels, height, width = latent.shape
            self.format = StreamFormat(
                model_id=self._coding.model_id, original=geometry.original, coded=geometry.coded,
                latent=(channels, height, width), number=self._number,
            )  # fmt: skip
            self.encoder = FrameEncoder(
                self._coding, self.format.latent, stream=self._number, tolerance=self._options.tolerance
            )
        if geometry.original != self.format.original:
            was, now = ("x".join(map(str, size)) for size in (self.format.original, geometry.original))
            raise ShapeMismatch(f"the images of this stream have {was} pixels, this one has {now}; open another stream")
        interval, now_s = self._options.key_interval_s, time.monotonic()
        key = key or 0 < interval <= now_s - self._last_key
        packet = self.encoder.encode(latent, self._options.rate if rate is None else rate, key=key)
        if self.encoder.last is not None and self.encoder.last.key:
            self._last_key = now_s
        return packet
