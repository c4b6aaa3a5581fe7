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
from torch import Tensor

from splitreg.errors import DataError, SplitregError
from splitreg.imaging import Geometry
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
    """A sample at the size of the input; ``image`` is (3, H, W), normalised."""

    sample: Sample
    geometry: Geometry
    index: int
    image: np.ndarray[Any, np.dtype[np.float32]]


def collate(items: Sequence[Item]) -> Batch:
    """Make a batch of samples, which may have different targets."""
    names = dict.fromkeys(name for item in items for name in item.sample.targets)
    return Batch(
        images=torch.from_numpy(np.stack([item.image for item in items])),
        targets={name: [item.sample.targets.get(name) for item in items] for name in names},
        names=tuple(item.sample.name for item in items),
        indexes=tuple(item.index for item in items),
        geometries=tuple(item.geometry for item in items),
    )


#: What to do if loading processes die.
LOADER_REMEDY = (
    "use --workers 0, fewer workers or a smaller batch_size; in a container, enlarge /dev/shm: docker run --shm-size=1g"
)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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


def collate_packed(items: Sequence[Item | SplitregError]) -> tuple[Tensor, bytes] | SplitregError:
    """Collate in a loading process: images in shared memory, and the pickled rest; or the error of an item.

    Errors are values here, because torch would turn them into the text of a traceback.
    """
    items_read: list[Item] = []
    for item in items:
        if isinstance(item, SplitregError):
            return item
        items_read.append(item)
    batch = collate(items_read)
    try:
        batch.images.share_memory_()  # type: ignore[no-untyped-call]  # not later in torch's queue, whose errors nobody would see
    except (RuntimeError, OSError) as cause:
        return DataError(f"a loading process has no shared memory left ({_first_line(cause)}); {LOADER_REMEDY}")
    packed = io.BytesIO()
    _Packer(packed, protocol=5).dump(dataclasses.replace(batch, images=torch.empty(0)))
    return batch.images, packed.getvalue()


def unpacked(images: Tensor, packed: bytes) -> Batch:
    """Return the batch that ``collate_packed`` packed."""
    batch: Batch = pickle.loads(packed)  # from our own worker
    return dataclasses.replace(batch, images=images)


def _moved(target: Target | None, device: torch.device | str) -> Target | None:
    if target is None or not dataclasses.is_dataclass(target):
        return target
    moved: dict[str, Any] = {
        field.name: value.to(device, non_blocking=True)
        for field in dataclasses.fields(target)
        if isinstance(value := getattr(target, field.name), Tensor)
    }
    return dataclasses.replace(target, **moved) if moved else target
