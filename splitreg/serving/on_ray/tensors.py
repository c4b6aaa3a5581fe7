"""Features as arrays that lie in Ray's object store, and back, with their layout in memory.

The layout matters twice: what is not dense in the order of its dimensions is copied when it is stored, and convolutions
choose their algorithm, and with it the last bits of a sum, by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from splitreg.assembly.server import FeatureBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A block's features as arrays.

    Args:
        images: as in ``FeatureBatch``.
        originals: as in ``FeatureBatch``.
        coded: as in ``FeatureBatch``.
        features: stride -> the order of dimensions in memory, and the array in that order.
    """

    images: tuple[int, ...]
    originals: tuple[tuple[int, int], ...]
    coded: tuple[int, int]
    features: Mapping[int, tuple[tuple[int, ...], NDArray[Any]]]


def store(block: FeatureBatch, strides: set[int]) -> Stored:
    """Take the features of these strides to the CPU."""
    features = {}
    for stride, tensor in block.features.items():
        if stride in strides:
            steps: tuple[int, ...] = tensor.stride()
            order = tuple(sorted(range(tensor.ndim), key=steps.__getitem__, reverse=True))
            features[stride] = (order, tensor.detach().permute(order).contiguous().cpu().numpy())
    return Stored(images=block.images, originals=block.originals, coded=block.coded, features=features)


def restore(stored: Stored, device: torch.device) -> FeatureBatch:
    """Take features to a device; a copy, since the store's memory can only be read, and a head may write into its input."""
    features = {
        stride: torch.from_numpy(array.copy()).permute([order.index(dim) for dim in range(array.ndim)]).to(device)
        for stride, (order, array) in stored.features.items()
    }
    return FeatureBatch(images=stored.images, originals=stored.originals, coded=stored.coded, features=features)
