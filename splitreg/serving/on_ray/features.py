"""Features as numpy arrays for Ray's object store, and back, with the same memory layout.

The layout matters twice: arrays that are not dense are copied when they are stored, and
convolutions choose their algorithm, and with it the last bits of a sum, by the layout of their
input.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from splitreg.assembly.server import FeatureBatch


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredBatch:
    """A ``FeatureBatch`` whose features are numpy arrays.

    Args:
        images: as in ``FeatureBatch``.
        originals: as in ``FeatureBatch``.
        coded: as in ``FeatureBatch``.
        features: stride -> the order of the dimensions in memory, and a dense array in this order.
    """

    images: tuple[int, ...]
    originals: tuple[tuple[int, int], ...]
    coded: tuple[int, int]
    features: Mapping[int, tuple[tuple[int, ...], NDArray[Any]]]


def store(batch: FeatureBatch, strides: Set[int]) -> StoredBatch:
    """Return a batch with the features of these strides, on the CPU."""
    features = {}
    for stride, tensor in batch.features.items():
        if stride in strides:
            steps: tuple[int, ...] = tensor.stride()
            order = tuple(sorted(range(tensor.ndim), key=steps.__getitem__, reverse=True))
            features[stride] = (order, tensor.detach().permute(order).contiguous().cpu().numpy())
    return StoredBatch(images=batch.images, originals=batch.originals, coded=batch.coded, features=features)


def restore(stored: StoredBatch, device: torch.device) -> FeatureBatch:
    """Return a batch on a device; its tensors are copies, since the object store is read-only."""
    features = {
        stride: torch.from_numpy(array.copy()).permute([order.index(dim) for dim in range(array.ndim)]).to(device)
        for stride, (order, array) in stored.features.items()
    }
    return FeatureBatch(images=stored.images, originals=stored.originals, coded=stored.coded, features=features)
