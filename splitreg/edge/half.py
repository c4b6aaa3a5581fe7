"""What every edge half does, whatever runs its networks: a picture in, a packet out."""

from __future__ import annotations

import abc
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from splitreg import imaging
from splitreg.coding import Codec, LatentModel, Packet
from splitreg.errors import BundleError
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

    def encode(self, images: ImageLike | Iterable[ImageLike], *, batch: bool = False) -> list[bytes]:
        """Turn pictures into packets; what a picture becomes does not depend on its neighbours.

        Args:
            images: paths, bytes of encoded pictures, PIL images or (H, W, 3) uint8 arrays; or one of them.
            batch: put them all into one packet, or into as few as a packet's limits allow (``Packet.join``). That saves
                about 18 bytes an image.

        Returns:
            One packet an image, or the batch's; ``len(packet)`` is the rate. ``ServerModel.infer`` takes either.

        Raises:
            ImageError: a picture cannot be read or is too large.
            InvalidLatent: the encoder gave NaN, infinite or huge values.
            BundleError: the model has no tables yet.
        """
        many = isinstance(images, Iterable) and not isinstance(
            images, str | bytes | bytearray | memoryview | np.ndarray
        )
        packets = (self._encode_one(image) for image in (images if many else [images]))
        return [packet.to_bytes() for packet in (Packet.join(packets) if batch else packets)]

    def latent_of(self, image: ImageLike) -> tuple[NDArray[np.float32], imaging.Geometry]:
        """Return the (C, h, w) latent of one picture, before quantisation, and its geometry."""
        pixels, geometry = imaging.prepare(imaging.read(image), self.preprocess)
        return self._analyse(pixels), geometry

    @abc.abstractmethod
    def _analyse(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """(3, H, W) normalised -> latent (C, h, w), which the next call may overwrite."""

    def _encode_one(self, image: ImageLike) -> Packet:
        latent, geometry = self.latent_of(image)
        streams = self.tables.encode(latent, self.codec)
        return Packet(model_id=self.model_id, original=geometry.original, coded=geometry.coded, streams=streams)
