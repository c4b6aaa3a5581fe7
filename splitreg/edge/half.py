"""``EdgeHalf``: image to packet, whatever runs the networks."""

from __future__ import annotations

import abc
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from splitreg import imaging
from splitreg.coding import LatentCoding, Packet
from splitreg.coding.variable import POSITIONS
from splitreg.edge.stream import EdgeStream, StreamOptions
from splitreg.errors import OverBudget, RecipeError
from splitreg.imaging import ImageLike


class EdgeHalf(abc.ABC):
    """The edge half of a model: preprocessing, networks, coding.

    Args:
        coding: preprocessing, tables and codec; the server half has the same.
    """

    def __init__(self, coding: LatentCoding) -> None:
        self.coding = coding

    def encode(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch: bool = False,
        rate: float | None = None,
        budget_bytes: int | None = None,
    ) -> list[bytes]:
        """Encode images as packets. A packet does not depend on the other images.

        Args:
            images: paths, bytes of image files, PIL images or (H, W, 3) uint8 arrays; or one of
                them.
            batch: put all images into one packet, or into as few as a packet's limits allow
                (``Packet.join``). This saves about 18 bytes per image.
            rate: 0 (fewest bytes) to 1 (most), for a model with several rates; the default is in
                the middle.
            budget_bytes: instead of a rate, the largest size of each image's packet: the largest
                rate that fits is used.

        Returns:
            One packet per image, or the packets of the batch. ``ServerModel.infer`` accepts both.

        Raises:
            ImageError: an image cannot be read or is too large.
            InvalidLatent: the encoder returned NaN, infinite or huge values.
            BundleError: the model has no tables yet.
            RecipeError: the rate is not within 0 to 1, or the model has one rate.
            OverBudget: an image's smallest packet is larger than the budget.
        """
        if rate is not None or budget_bytes is not None:
            self._check_rate(rate, budget_bytes)
        several = isinstance(images, Iterable) and not isinstance(
            images, str | bytes | bytearray | memoryview | np.ndarray
        )
        packets = (self._encode_one(image, rate, budget_bytes) for image in (images if several else [images]))
        return [packet.to_bytes() for packet in (Packet.join(packets) if batch else packets)]

    def stream(self, options: StreamOptions | None = None, *, number: int = 0) -> EdgeStream:
        """Return a stream for the images of one camera, each coded given the ones before.

        Args:
            options: how it is coded.
            number: of the stream, in its key frames.
        """
        return EdgeStream(self.coding, self.latent_of, options or StreamOptions(), number)

    def latent_of(self, image: ImageLike) -> tuple[NDArray[np.float32], imaging.Geometry]:
        """Return the (C, h, w) latent of one image, before quantisation, and its geometry."""
        pixels, geometry = imaging.prepare(imaging.read(image), self.coding.preprocess)
        return self._analyse(pixels), geometry

    def encode_latent(
        self,
        latent: NDArray[np.float32],
        geometry: imaging.Geometry,
        *,
        rate: float | None = None,
        budget_bytes: int | None = None,
    ) -> bytes:
        """Encode what ``latent_of`` returned as a packet; equal to that of ``encode``.

        Args:
            latent: (C, h, w), before quantisation.
            geometry: of the image.
            rate: see ``encode``.
            budget_bytes: see ``encode``.

        Raises:
            SplitregError: as ``encode``.
        """
        if rate is not None or budget_bytes is not None:
            self._check_rate(rate, budget_bytes)
        if budget_bytes is not None:
            return self._within_budget(latent, geometry, budget_bytes).to_bytes()
        return self._packet(latent, geometry, rate).to_bytes()

    @abc.abstractmethod
    def _analyse(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """(3, H, W) normalised -> (C, h, w) latent; the next call may overwrite it."""

    def _encode_one(self, image: ImageLike, rate: float | None, budget: int | None) -> Packet:
        latent, geometry = self.latent_of(image)
        if budget is not None:
            return self._within_budget(latent, geometry, budget)
        return self._packet(latent, geometry, rate)

    def _within_budget(self, latent: NDArray[np.float32], geometry: imaging.Geometry, budget: int) -> Packet:
        """Return the packet of the largest rate that fits: a binary search in eight steps."""
        best, low, high = None, 0, POSITIONS
        while low < high:
            middle = (low + high) // 2
            packet = self._packet(latent, geometry, middle / (POSITIONS - 1))
            size = packet.header_bytes + packet.payload_bytes
            if size <= budget:
                best, low = packet, middle + 1
            else:
                high = middle
        if best is None:  # the last packet is the smallest
            raise OverBudget(
                f"this image's smallest packet has {size} bytes, the budget is {budget}; raise the budget, or use a model "
                "with lower rates"
            )
        return best

    def _packet(self, latent: NDArray[np.float32], geometry: imaging.Geometry, rate: float | None) -> Packet:
        return self.coding.packet(latent, geometry, rate)

    def _check_rate(self, rate: float | None, budget: int | None) -> None:
        if rate is not None and budget is not None:
            raise RecipeError("rate and budget_bytes exclude each other; give one of them")
        if budget is not None and budget < 1:
            raise RecipeError(f"budget_bytes must be at least 1, got {budget}")
        self.coding.variable.position(rate)
