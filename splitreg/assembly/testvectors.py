"""Test vectors: an image, its packet and its predictions, to verify a bundle on another machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from splitreg.assembly.model import SplitModel
from splitreg.assembly.weights import write_tensors
from splitreg.tasks import Prediction

NAMES = ("testvectors/image.png", "testvectors/packet.bin", "testvectors/predictions.safetensors")

#: Largest share of symbols that may differ: rounding of floats depends on the machine.
MAX_SYMBOL_DIFFERENCE = 0.005


def image(height: int = 120, width: int = 160) -> NDArray[np.uint8]:
    """Return an image with edges, gradients and texture: (H, W, 3) uint8, always the same."""
    y, x = np.mgrid[:height, :width]
    red = (x * 255) // max(1, width - 1)
    green = (y * 255) // max(1, height - 1)
    blue = ((x // 8 + y // 8) % 2) * 160 + (x * y) % 64
    disc = (x - width // 3) ** 2 + (y - height // 2) ** 2 < (height // 4) ** 2
    pixels = np.stack([red, green, blue], -1)
    pixels[disc] = (230, 60, 40)
    return np.asarray(pixels, np.uint8)


def write(folder: Path, model: SplitModel) -> None:
    """Write the image, its packet and the exact arrays of every head's prediction."""
    folder.mkdir(parents=True)
    Image.fromarray(image()).save(folder / "image.png")
    packet = model.edge.encode(folder / "image.png")[0]
    (folder / "packet.bin").write_bytes(packet)
    write_tensors(folder / "predictions.safetensors", flatten(model.server.infer(packet)[0]))


def flatten(predictions: Mapping[str, Prediction]) -> dict[str, torch.Tensor]:
    """Return ``head/array`` -> tensor."""
    return {
        f"{head}/{name}": torch.from_numpy(np.ascontiguousarray(_storable(array)).copy())
        for head, prediction in predictions.items()
        for name, array in prediction.arrays().items()
    }


def symbol_difference(latent: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the share of a restored latent that differs from a reference by more than rounding."""
    return float(np.mean(~np.isclose(latent, reference, rtol=1e-2, atol=1e-2)))


def _storable(array: NDArray[Any]) -> NDArray[Any]:
    return array if array.dtype != np.bool_ else array.astype(np.uint8)
