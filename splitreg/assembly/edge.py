"""``EdgeModel``: the edge half in torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from splitreg.assembly.reading import read_edge
from splitreg.bundle import Bundle
from splitreg.coding import LatentCoding
from splitreg.edge.half import EdgeHalf
from splitreg.interfaces import Bottleneck
from splitreg.registry import Registry


class EdgeModel(EdgeHalf):
    """Prefix, encoder and coding.

    Args:
        prefix: backbone stages that run on the device; None if the bottleneck reads the image.
        bottleneck: only its ``encoder`` is used.
        coding: preprocessing, tables and codec; the server half has the same.
    """

    def __init__(self, prefix: nn.Module | None, bottleneck: Bottleneck, coding: LatentCoding) -> None:
        super().__init__(coding)
        self.prefix = prefix
        self.bottleneck = bottleneck

    @classmethod
    def load(cls, path: str | Path, *, registry: Registry | None = None) -> EdgeModel:
        """Load the edge half: ``config.json`` and ``edge.safetensors``; needs no plugin of a head.

        Args:
            path: the folder, or ``zoo:NAME``.
            registry: the installed plugins, by default.

        Raises:
            BundleError: a file is missing or altered, or tensors do not fit; names every such tensor.
        """
        return cls(*read_edge(Bundle.open(path), registry))

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The modules with the device's weights."""
        return (self.bottleneck.encoder,) if self.prefix is None else (self.prefix, self.bottleneck.encoder)

    def latent(self, image: Tensor) -> Tensor:
        """(B, 3, H, W) normalised -> (B, C, h, w) float32, before quantisation."""
        return self.bottleneck.analyse(image if self.prefix is None else self.prefix(image))

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
