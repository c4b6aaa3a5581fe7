"""The edge half in torch: a picture in, a packet out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splitreg import imaging
from splitreg.coding import Codec, LatentModel, Packet
from splitreg.errors import BundleError
from splitreg.imaging import ImageLike, Preprocess
from splitreg.interfaces import Bottleneck

if TYPE_CHECKING:
    from pathlib import Path


class EdgeModel:
    """Prefix and encoder, tables, codec.

    Args:
        prefix: backbone stages that run on the device; None where the bottleneck reads the image.
        bottleneck: only its ``encoder`` is used.
        codec: symbols to bytes.
        preprocess: picture to network input.
        symbols: frozen tables; None until the model is frozen.
        model_id: what packets carry.
    """

    def __init__(
        self,
        *,
        prefix: nn.Module | None,
        bottleneck: Bottleneck,
        codec: Codec,
        preprocess: Preprocess,
        symbols: LatentModel | None = None,
        model_id: int = 0,
    ) -> None:
        self.prefix = prefix
        self.bottleneck = bottleneck
        self.codec = codec
        self.preprocess = preprocess
        self.symbols = symbols
        self.model_id = model_id

    @classmethod
    def load(cls, bundle: str | Path) -> EdgeModel:
        """Load the edge half of a bundle; touches ``config.json`` and ``edge.safetensors`` alone."""
        from splitreg.publishing import load_edge

        return load_edge(bundle)

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """What holds the device's weights."""
        return (self.bottleneck.encoder,) if self.prefix is None else (self.prefix, self.bottleneck.encoder)

    def encode(self, images: ImageLike | Iterable[ImageLike]) -> list[bytes]:
        """Turn pictures into packets, one at a time: a packet does not depend on its neighbours.

        Args:
            images: paths, bytes of encoded pictures, PIL images or (H, W, 3) uint8 arrays; or one of them.

        Returns:
            One packet an image; ``len(packet)`` is the rate.

        Raises:
            ImageError: a picture cannot be read or is too large.
            InvalidLatent: the encoder gave NaN, infinite or huge values.
            BundleError: the model has no tables yet.
        """
        many = isinstance(images, Iterable) and not isinstance(
            images, str | bytes | bytearray | memoryview | np.ndarray
        )
        return [self._encode_one(image) for image in (images if many else [images])]

    def latent(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, C, h, w) float32, before quantisation."""
        return self.bottleneck.analyse(image if self.prefix is None else self.prefix(image))

    def latent_of(self, image: ImageLike) -> tuple[NDArray[np.float32], imaging.Geometry]:
        """Return the (C, h, w) latent of one picture, before quantisation, and its geometry."""
        pixels, geometry = imaging.prepare(imaging.read(image), self.preprocess)
        return self._analyse(pixels), geometry

    @property
    def tables(self) -> LatentModel:
        """The frozen tables.

        Raises:
            BundleError: there are none yet.
        """
        if self.symbols is None:
            raise BundleError("this model has no integer tables yet; call model.freeze_tables() after training")
        return self.symbols

    def _encode_one(self, image: ImageLike) -> bytes:
        latent, geometry = self.latent_of(image)
        streams = self.tables.encode(latent, self.codec)
        return Packet(
            model_id=self.model_id, original=geometry.original, coded=geometry.coded, streams=streams
        ).to_bytes()

    def _analyse(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        training = [module for module in self.modules if module.training]
        for module in training:
            module.eval()
        weight = next((p for module in self.modules for p in module.parameters()), None)
        with torch.inference_mode():
            image = torch.from_numpy(pixels)[None]
            latent = self.latent(image if weight is None else image.to(weight.device))
        for module in training:
            module.train()
        return latent[0].float().cpu().numpy()
