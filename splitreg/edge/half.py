"""What every edge half does, whatever runs its networks: a picture in, a packet out."""

from __future__ import annotations

import abc
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from splitreg import imaging
from splitreg.coding import Codec, LatentModel, Packet, VariableModel
from splitreg.coding.variable import POSITIONS
from splitreg.errors import BundleError, OverBudget, RecipeError
from splitreg.imaging import ImageLike, Preprocess


class EdgeHalf(abc.ABC):
    """Preprocessing, networks, tables, codec.

    Args:
        codec: symbols to bytes.
        preprocess: picture to network input.
        symbols: frozen tables; None until the model is frozen.
        model_id: what packets carry.
    """

    def __init__(
        self, *, codec: Codec, preprocess: Preprocess, symbols: LatentModel | None = None, model_id: int = 0
    ) -> None:
        self.codec = codec
        self.preprocess = preprocess
        self.symbols = symbols
        self.model_id = model_id

    @property
    def tables(self) -> LatentModel:
        """The frozen tables.

        Raises:
            BundleError: there are none yet.
        """
        if self.symbols is None:
            raise BundleError("this model has no integer tables yet; call model.freeze_tables() after training")
        return self.symbols

    def encode(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        batch: bool = False,
        rate: float | None = None,
        budget_bytes: int | None = None,
    ) -> list[bytes]:
        """Turn pictures into packets; what a picture becomes does not depend on its neighbours.

        Args:
            images: paths, bytes of encoded pictures, PIL images or (H, W, 3) uint8 arrays; or one of them.
            batch: put them all into one packet, or into as few as a packet's limits allow (``Packet.join``). That saves
                about 18 bytes an image.
            rate: 0 (fewest bytes) to 1 (most), for a model with several rates; its default is the middle.
            budget_bytes: instead of a rate, so many bytes for each picture's own packet: the largest rate that fits.

        Returns:
            One packet an image, or the batch's; ``len(packet)`` is the rate. ``ServerModel.infer`` takes either.

        Raises:
            ImageError: a picture cannot be read or is too large.
            InvalidLatent: the encoder gave NaN, infinite or huge values.
            BundleError: the model has no tables yet.
            RecipeError: the rate is not one, or the model has no other than its own.
            OverBudget: a picture's smallest packet is larger than the budget.
        """
        if rate is not None or budget_bytes is not None:
            self._check_rate(rate, budget_bytes)
        many = isinstance(images, Iterable) and not isinstance(
            images, str | bytes | bytearray | memoryview | np.ndarray
        )
        packets = (self._encode_one(image, rate, budget_bytes) for image in (images if many else [images]))
        return [packet.to_bytes() for packet in (Packet.join(packets) if batch else packets)]

    def latent_of(self, image: ImageLike) -> tuple[NDArray[np.float32], imaging.Geometry]:
        """Return the (C, h, w) latent of one picture, before quantisation, and its geometry."""
        pixels, geometry = imaging.prepare(imaging.read(image), self.preprocess)
        return self._analyse(pixels), geometry

    @abc.abstractmethod
    def _analyse(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """(3, H, W) normalised -> latent (C, h, w), which the next call may overwrite."""

    def _encode_one(self, image: ImageLike, rate: float | None, budget: int | None) -> Packet:
        latent, geometry = self.latent_of(image)
        if budget is not None:
            return self._fitted(latent, geometry, budget)
        if rate is not None:
            return self._packet(self._variable().encode(latent, self.codec, rate), geometry)
        return self._packet(self.tables.encode(latent, self.codec), geometry)

    def _fitted(self, latent: NDArray[np.float32], geometry: imaging.Geometry, budget: int) -> Packet:
        """Return the packet of the largest rate that fits, as far as bytes grow with the rate: eight are tried."""
        model = self._variable()
        found, low, high = None, 0, POSITIONS
        while low < high:
            middle = (low + high) // 2
            packet = self._packet(model.encode(latent, self.codec, middle / (POSITIONS - 1)), geometry)
            size = packet.header_bytes + packet.payload_bytes
            if size <= budget:
                found, low = packet, middle + 1
            else:
                high = middle
        if found is None:  # then the last that was tried is the smallest
            raise OverBudget(
                f"this picture's smallest packet has {size} bytes, the budget is {budget}; allow more, or use a model of "
                "lower rates"
            )
        return found

    def _packet(self, streams: tuple[bytes, ...], geometry: imaging.Geometry) -> Packet:
        return Packet(model_id=self.model_id, original=geometry.original, coded=geometry.coded, streams=streams)

    def _check_rate(self, rate: float | None, budget: int | None) -> None:
        if rate is not None and budget is not None:
            raise RecipeError("a rate and a budget of bytes exclude each other; say one of them")
        if budget is not None and budget < 1:
            raise RecipeError(f"a budget is a number of bytes from 1, got {budget}")
        self._variable().position(rate)

    def _variable(self) -> VariableModel:
        if not isinstance(self.tables, VariableModel):
            raise RecipeError(
                "this model has one rate, so none can be chosen; leave rate and budget out, or train one with several: "
                "bottleneck = { name = 'fp', rates = 5 }"
            )
        return self.tables
