"""The augmentation copy-paste: objects of one image on top of another."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from splitreg.errors import RecipeError
from splitreg.tasks import BoxTarget, MaskTarget, Sample, Target

#: Probability that an object of the other image is pasted; at least one is.
PASTE_PROBABILITY = 0.5
#: Smallest and largest factor on the size of the pasted objects.
ZOOM = (0.5, 1.25)
#: An object of which less than this part is left is dropped.
MIN_VISIBLE = 0.2


def copy_paste(sample: Sample, other: Sample) -> Sample:
    """Return the sample with some objects of another one on top, at another size and place.

    Pixels, outlines and boxes move together; what is covered is taken from the outlines and boxes below.
    Targets other than boxes and masks are left out. Draws from torch's generator.

    Args:
        sample: with boxes; without outlines of all its objects it stays as it is.
        other: with the same targets.

    Source: Ghiasi et al. 2021, arXiv:2012.07177.
    """
    targets: dict[str, Target | None] = {
        name: each for name, each in sample.targets.items() if isinstance(each, BoxTarget | MaskTarget)
    }
    below, above = _outlined(sample), _outlined(other)
    objects = None if below is None or above is None else _chosen(above)
    if objects is None or not len(objects.labels):
        return dataclasses.replace(sample, targets=targets)
    size = (sample.image.shape[-2], sample.image.shape[-1])
    crop, place = _places(objects, size)

    def placed(tensor: tv_tensors.TVTensor) -> Tensor:
        """Return a part of the other sample's tensor in an empty one of the size of this sample."""
        mode = v2.InterpolationMode.NEAREST if isinstance(tensor, tv_tensors.Mask) else v2.InterpolationMode.BILINEAR
        if tensor.dtype == torch.bool:
            tensor = tv_tensors.Mask(tensor.to(torch.uint8))
        part = F.resized_crop(tensor, *crop, list(place[2:]), interpolation=mode, antialias=True).as_subclass(Tensor)
        whole = torch.zeros((*tensor.shape[:-2], *size), dtype=tensor.dtype)
        top, left, height, width = place
        whole[..., top : top + height, left : left + width] = part
        return whole

    outlines = placed(_masks(objects)).bool()
    covered = outlines.any(0)
    image = torch.where(covered, placed(other.image), sample.image.as_subclass(Tensor))
    pasted: dict[str, Target | None] = {}
    for name, target in targets.items():
        if isinstance(target, BoxTarget):
            pasted[name] = _pasted(target, objects, outlines, covered)
        elif isinstance(target, MaskTarget):
            source = other.targets[name]
            assert isinstance(source, MaskTarget)
            mask = torch.where(covered, placed(source.mask), target.mask.as_subclass(Tensor))
            pasted[name] = MaskTarget(mask=tv_tensors.Mask(mask))
    rows = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # a view of (H, W, 3) memory, as images are decoded
    return dataclasses.replace(sample, image=tv_tensors.Image(rows), targets=pasted)


def check_outlines(source: Any, indexes: Iterable[int]) -> None:
    """Refuse copy-paste for objects without outlines.

    Args:
        source: a dataset.
        indexes: of the samples to look at.

    Raises:
        RecipeError: all objects are without.
    """
    targets = [target for index in indexes for target in source[index].targets.values()]
    boxes = [target for target in targets if isinstance(target, BoxTarget) and len(target.labels)]
    if boxes and all(target.masks is None for target in boxes):
        raise RecipeError(
            "augment: copy_paste needs the outlines of objects, and the dataset gives boxes without; set masks = true for "
            "the dataset if it has outlines, or remove copy_paste"
        )


def _outlined(sample: Sample) -> BoxTarget | None:
    """Return the boxes of a sample if all have outlines."""
    for target in sample.targets.values():
        if isinstance(target, BoxTarget) and (target.masks is not None or not len(target.labels)):
            return target
    return None


def _masks(target: BoxTarget) -> tv_tensors.Mask:
    assert target.masks is not None
    return target.masks


def _chosen(target: BoxTarget) -> BoxTarget:
    """Return a random part of the objects with an outline."""
    if not len(target.labels):
        return target
    usable = ~target.crowd & _masks(target).as_subclass(Tensor).flatten(1).any(1)
    order = usable.nonzero()[:, 0]
    if not len(order):
        return target.select(usable)
    keep = usable & (torch.rand(len(usable)) < PASTE_PROBABILITY)
    keep[order[torch.randint(0, len(order), ())]] = True
    return target.select(keep)


def _places(objects: BoxTarget, size: tuple[int, int]) -> tuple[tuple[int, int, int, int], tuple[int, int, int, int]]:
    """Return (top, left, height, width) of the objects in their image, and of their place in one of ``size``."""
    masks = _masks(objects).as_subclass(Tensor)
    left, top, right, bottom = (int(value) for value in _boxes(masks.any(0)[None])[0].tolist())
    height, width = bottom - top, right - left
    low, high = (math.log(zoom) for zoom in ZOOM)
    scale = math.exp(low + (high - low) * float(torch.rand(())))
    scale *= min(size[0] / masks.shape[-2], size[1] / masks.shape[-1])
    scale = min(scale, size[0] / height, size[1] / width)
    rows, columns = (max(1, min(limit, round(side * scale))) for side, limit in zip((height, width), size, strict=True))
    y, x = (int(torch.randint(0, room + 1, ())) for room in (size[0] - rows, size[1] - columns))
    return (top, left, height, width), (y, x, rows, columns)


def _pasted(target: BoxTarget, objects: BoxTarget, outlines: Tensor, covered: Tensor) -> BoxTarget:
    """Return the objects that are still seen, with boxes around what is left of them, and the pasted ones."""
    boxes = target.boxes.as_subclass(Tensor).float()
    masks = torch.zeros((0, *covered.shape), dtype=torch.bool)
    keep = torch.ones(0, dtype=torch.bool)
    if len(target.labels):
        before = _masks(target).as_subclass(Tensor).bool()
        masks = before & ~covered
        areas, left = (each.flatten(1).sum(1) for each in (before, masks))
        keep = (areas == 0) | ((left > 0) & (left >= MIN_VISIBLE * areas))  # some outlines are empty: points and lines
        boxes = torch.where((left < areas)[:, None], _boxes(masks), boxes)
        masks, boxes = masks[keep], boxes[keep]
    added = outlines.flatten(1).any(1)  # small ones may vanish
    return BoxTarget(
        boxes=tv_tensors.wrap(torch.cat([boxes, _boxes(outlines[added])]), like=target.boxes),
        labels=torch.cat([target.labels[keep], objects.labels[added]]),
        crowd=torch.cat([target.crowd[keep], objects.crowd[added]]),
        masks=tv_tensors.Mask(torch.cat([masks, outlines[added]])),
    )


def _boxes(masks: Tensor) -> Tensor:
    """(N, H, W) bool -> (N, 4) x0, y0, x1, y1 of the smallest boxes around them; zeros for empty ones."""
    boxes, shown = torch.zeros((len(masks), 4)), masks.flatten(1).any(1)
    boxes[shown] = masks_to_boxes(masks[shown]) + torch.tensor([0.0, 0.0, 1.0, 1.0])  # torchvision's are inclusive
    return boxes
