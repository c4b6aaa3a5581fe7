"""What the targets with a converter and a runtime of their own have in common."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding import LatentCoding
from splitreg.edge import EdgeSource, Runner
from splitreg.errors import BundleError
from splitreg.imaging import prepare, read

#: (1, 3, H, W) float32 to (1, C, h, w) float32.
Latents = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def convert(name: str, source: EdgeSource, run: Callable[[Any, Any], Any]) -> Any:
    """Convert the torch module of an edge half.

    Args:
        name: of the converter, for messages.
        source: the edge half.
        run: called with the module and a (1, 3, H, W) example.

    Raises:
        BundleError: there is no torch module, or the converter fails; the message has its first line.
    """
    if source.module is None:
        raise BundleError(
            f"the target {name} converts the torch module, and this source is a graph alone; export with splitreg publish"
        )
    import torch

    module = source.module()
    example = torch.zeros(1, 3, *source.coding.preprocess.size)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the converters' own
            return run(module, example)
    except Exception as cause:  # a converter may raise anything
        raise BundleError(f"{name} cannot convert the edge half: {first_line(cause)}") from cause


def runner(latents: Latents, coding: LatentCoding) -> Runner:
    """Return a function from image to packet that computes latents by a runtime."""

    def encode(image: NDArray[np.uint8]) -> bytes:
        pixels, geometry = prepare(read(image), coding.preprocess)
        return coding.packet(np.array(latents(pixels[None])[0], np.float32), geometry).to_bytes()

    return encode


def first_line(cause: Exception) -> str:
    """Return the first line of an error's message."""
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return lines[0] if lines else type(cause).__name__
