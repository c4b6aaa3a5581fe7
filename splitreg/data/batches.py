"""Batches, and how loading processes send them."""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitreg import imaging
from splitreg.errors import SplitregError
from splitreg.imaging import Geometry, Preprocess
from splitreg.tasks import Sample, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """B samples at the size of the network's input.

    Args:
        images: (B, 3, H, W) float32, normalised.
        targets: target name -> B targets, None for samples without it.
        names: B names.
        indexes: B indexes into the dataset.
        geometries: B positions of the original (in training: augmented) images in the input.
    """

    images: Tensor
    targets: dict[str, list[Target | None]]
    names: tuple[str, ...]
    indexes: tuple[int, ...]
    geometries: tuple[Geometry, ...]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch on another device."""
        targets = {name: [_moved(target, device) for target in group] for name, group in self.targets.items()}
        return dataclasses.replace(self, images=self.images.to(device, non_blocking=True), targets=targets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A sample at the size of the input; ``image`` is (H, W, 3)."""

    sample: Sample
    geometry: Geometry
    index: int
    image: NDArray[np.uint8]


def collate(items: Sequence[Item], preprocess: Preprocess) -> Batch:
    """Make a batch of samples, which may have different targets."""
    return dataclasses.replace(_targets(items), images=_normalised([item.image for item in items], preprocess))


def _normalised(images: Sequence[NDArray[np.uint8]], preprocess: Preprocess) -> Tensor:
    height, width = images[0].shape[:2]
    batch = np.empty((len(images), 3, height, width), np.float32)
    for image, planes in zip(images, batch, strict=True):
        imaging.normalise(image, preprocess, out=planes)
    return torch.from_numpy(batch)


def _targets(items: Sequence[Item]) -> Batch:
    """Return everything but the images."""
    names = dict.fromkeys(name for item in items for name in item.sample.targets)
    return Batch(
        images=torch.empty(0),
        targets={name: [item.sample.targets.get(name) for item in items] for name in names},
        names=tuple(item.sample.name for item in items),
        indexes=tuple(item.index for item in items),
        geometries=tuple(item.geometry for item in items),
    )


#: What to do if loading processes die or cannot start.
LOADER_REMEDY = (
    "use --workers 0 or fewer workers; in a container, allow more memory, and "
    "a larger /dev/shm: docker run --shm-size=1g"
)


class _Packer(pickle.Pickler):
    """Pickles tensors as arrays, by value.

    torch would move each tensor of a target to shared memory of its own, which takes longer.
    """

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            return _tensor, (type(obj), obj.as_subclass(Tensor).numpy(), dict(obj.__dict__))
        return NotImplemented


def _tensor(kind: type[Tensor], values: np.ndarray[Any, Any], state: dict[str, Any]) -> Tensor:
    tensor = torch.from_numpy(values).as_subclass(kind)
    tensor.__dict__.update(state)
    return tensor


def collate_packed(items: Sequence[Item | SplitregError]) -> bytes | SplitregError:
    """Collate in a loading process, and pickle the batch; or return the error of an item.

    The images are (B, H, W, 3) uint8 and travel through the pipe with the rest: shared memory is small in
    containers, and torch waits for ever where it is full. Errors are values, because torch would turn them into
    the text of a traceback.
    """
    items_read: list[Item] = []
    for item in items:
        if isinstance(item, SplitregError):
            return item
        items_read.append(item)
    packed = io.BytesIO()
    _Packer(packed, protocol=5).dump((_targets(items_read), [item.image for item in items_read]))
    return packed.getvalue()


def unpacked(packed: bytes, preprocess: Preprocess) -> Batch:
    """Return the batch that ``collate_packed`` packed."""
    rest: Batch
    rest, images = pickle.loads(packed)  # from our own worker
    return dataclasses.replace(rest, images=_normalised(images, preprocess))


def _moved(target: Target | None, device: torch.device | str) -> Target | None:
    if target is None or not dataclasses.is_dataclass(target):
        return target
    moved: dict[str, Any] = {
        field.name: value.to(device, non_blocking=True)
        for field in dataclasses.fields(target)
        if isinstance(value := getattr(target, field.name), Tensor)
    }
    return dataclasses.replace(target, **moved) if moved else target
