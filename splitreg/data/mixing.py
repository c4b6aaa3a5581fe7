"""Augmentations that combine several images: mosaic and mix-up."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from splitreg.errors import RecipeError
from splitreg.imaging import FILL
from splitreg.tasks import (
    CLASSIFICATION,
    DETECTION,
    IGNORE,
    MULTILABEL,
    SEGMENTATION,
    BoxTarget,
    MaskTarget,
    Sample,
    Target,
)

#: Key of ``augment`` -> tasks whose targets can be combined that way.
TASKS: Mapping[str, tuple[str, ...]] = {
    "mosaic": (DETECTION, SEGMENTATION),
    "mixup": (CLASSIFICATION, MULTILABEL, SEGMENTATION),
    "copy_paste": (DETECTION, SEGMENTATION),
}
#: The tiles of a mosaic meet in this part of each side.
MEETING = (0.3, 0.7)
#: Smallest part of a tile's image that is shown, by side.
SHOWN = 0.6


def check_tasks(tasks: Mapping[str, str], options: Mapping[str, Any]) -> None:
    """Refuse combinations that the heads cannot learn from.

    Args:
        tasks: head -> task.
        options: keys of ``augment``.

    Raises:
        RecipeError: names the heads.
    """
    for key, allowed in TASKS.items():
        heads = [f"head {name!r} is for {task}" for name, task in tasks.items() if task not in allowed]
        if options.get(key) and heads:
            raise RecipeError(
                f"augment: {key} combines targets of {', '.join(allowed)}; {', '.join(heads)}. Remove {key}, or the head"
            )
    if options.get("copy_paste") and DETECTION not in tasks.values():
        raise RecipeError(
            "augment: copy_paste pastes the objects that a detection head learns; add such a head, or remove it"
        )


def mosaic(samples: Sequence[Sample]) -> Sample:
    """Return four samples as the tiles of one image, of the size of the first (Bochkovskiy et al. 2020, arXiv:2004.10934).

    Each tile is a random crop, resized. Targets other than boxes and masks are left out: a crop may not show them. Draws
    from torch's generator.

    Args:
        samples: four of them, all with the same targets.
    """
    height, width = samples[0].image.shape[-2:]
    low, high = MEETING
    y, x = (max(1, round(side * (low + (high - low) * float(torch.rand(()))))) for side in (height, width))
    y, x = min(y, height - 1), min(x, width - 1)
    places = [(0, 0, y, x), (0, x, y, width - x), (y, 0, height - y, x), (y, x, height - y, width - x)]
    image = torch.full((height, width, 3), FILL, dtype=torch.uint8)
    tiles = []
    for sample, (top, left, rows, columns) in zip(samples, places, strict=True):
        pixels, targets = _tile(sample, rows, columns)
        image[top : top + rows, left : left + columns] = pixels.as_subclass(Tensor).permute(1, 2, 0)
        tiles.append({name: _moved(target, (top, left), (height, width)) for name, target in targets.items()})
    targets = {name: _joined([tile[name] for tile in tiles], places) for name in tiles[0]}
    return dataclasses.replace(samples[0], image=tv_tensors.Image(image.permute(2, 0, 1)), targets=targets)


def can_combine(samples: Sequence[Sample]) -> bool:
    """Whether all samples have the same targets, none unknown, and no image is tiny."""
    known = all(target is not None for sample in samples for target in sample.targets.values())
    same = all(sample.targets.keys() == samples[0].targets.keys() for sample in samples)
    return known and same and all(min(sample.image.shape[-2:]) >= 4 for sample in samples)


def _tile(sample: Sample, rows: int, columns: int) -> tuple[Tensor, dict[str, Target | None]]:
    """Return a random crop of a sample, of the shape of a tile, at its size."""
    height, width = sample.image.shape[-2:]
    part = SHOWN + (1 - SHOWN) * float(torch.rand(()))
    shape = min(height / rows, width / columns) * part
    tall, wide = max(1, min(height, round(rows * shape))), max(1, min(width, round(columns * shape)))
    top, left = (int(torch.randint(0, room + 1, ())) for room in (height - tall, width - wide))

    def fit(tensor: tv_tensors.TVTensor) -> Any:
        mode = v2.InterpolationMode.NEAREST if isinstance(tensor, tv_tensors.Mask) else v2.InterpolationMode.BILINEAR
        if isinstance(tensor, tv_tensors.BoundingBoxes):  # torchvision would round integers down
            tensor = tv_tensors.wrap(tensor.to(torch.float32), like=tensor)
        return F.resized_crop(tensor, top, left, tall, wide, [rows, columns], interpolation=mode, antialias=True)

    targets: dict[str, Target | None] = {}
    for name, target in sample.targets.items():
        if isinstance(target, BoxTarget):
            masks = None if target.masks is None else fit(target.masks)
            targets[name] = dataclasses.replace(target, boxes=fit(target.boxes), masks=masks)
        elif isinstance(target, MaskTarget):
            targets[name] = dataclasses.replace(target, mask=fit(target.mask))
    return fit(sample.image), targets


def _moved(target: Target | None, corner: tuple[int, int], size: tuple[int, int]) -> Target | None:
    """Return the boxes of a tile in the pixels of the mosaic; masks stay."""
    if not isinstance(target, BoxTarget):
        return target
    boxes = target.boxes.as_subclass(Tensor)
    height, width = target.boxes.canvas_size
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([width, height, width, height], dtype=boxes.dtype))
    top, left = corner
    moved = tv_tensors.BoundingBoxes(
        boxes + torch.tensor([left, top, left, top]), format=target.boxes.format, canvas_size=size
    )
    return dataclasses.replace(target, boxes=moved)


def _joined(tiles: Sequence[Target | None], places: Sequence[tuple[int, int, int, int]]) -> Target | None:
    """Return the targets of the tiles as one; objects that left their tile are dropped."""
    height, width = places[-1][0] + places[-1][2], places[-1][1] + places[-1][3]
    if all(isinstance(tile, MaskTarget) for tile in tiles):
        masks: list[Any] = [tile.mask.as_subclass(Tensor) for tile in tiles]  # type: ignore[union-attr]
        mask = torch.full((height, width), IGNORE, dtype=masks[0].dtype)
        for tile, (top, left, rows, columns) in zip(masks, places, strict=True):
            mask[top : top + rows, left : left + columns] = tile
        return MaskTarget(mask=tv_tensors.Mask(mask))
    groups: list[Any] = list(tiles)
    outlines = None
    if all(tile.masks is not None for tile in groups):
        outlines = tv_tensors.Mask(
            torch.cat([_placed(tile.masks, place, (height, width)) for tile, place in zip(groups, places, strict=True)])
        )
    joined = BoxTarget(
        boxes=tv_tensors.wrap(
            torch.cat([tile.boxes.as_subclass(Tensor) for tile in groups]), like=groups[0].boxes
        ),
        labels=torch.cat([tile.labels for tile in groups]),
        crowd=torch.cat([tile.crowd for tile in groups]),
        masks=outlines,
    )  # fmt: skip
    sides = joined.boxes.as_subclass(Tensor)[:, 2:] - joined.boxes.as_subclass(Tensor)[:, :2]
    keep = (sides >= 1).all(1)
    return joined.select(keep)


def _placed(masks: Tensor, place: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
    top, left, rows, columns = place
    placed = torch.zeros((len(masks), *size), dtype=masks.dtype)
    placed[:, top : top + rows, left : left + columns] = masks.as_subclass(Tensor)
    return placed
