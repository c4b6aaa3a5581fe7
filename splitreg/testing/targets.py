"""Invented targets of the first-party tasks."""

from __future__ import annotations

import torch
from torchvision import tv_tensors

from splitreg import tasks
from splitreg.tasks import (
    IGNORE,
    BoxTarget,
    ClassTarget,
    DepthTarget,
    ImageTarget,
    MaskTarget,
    MultiLabelTarget,
    Target,
)


def some_target(task: str, classes: int, size: tuple[int, int], seed: int) -> Target | None:
    """Return a target for an image of ``size`` (height, width), or None for an unknown task."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    match task:
        case tasks.CLASSIFICATION:
            return ClassTarget(index=seed % classes)
        case tasks.MULTILABEL:
            return MultiLabelTarget(present=(torch.arange(classes) % 2 == seed % 2).float())
        case tasks.DETECTION:
            x, y = width // 8, height // 8
            boxes = torch.tensor([[x, y, 5 * x, 6 * y], [4 * x, 3 * y, 7 * x, 7 * y]], dtype=torch.float32)
            return _boxes(boxes, torch.tensor([seed % classes, (seed + 1) % classes]), size)
        case tasks.SEGMENTATION:
            mask = torch.full(size, seed % classes, dtype=torch.int64)
            mask[: height // 2, : width // 2] = (seed + 1) % classes
            mask[-1] = IGNORE
            return MaskTarget(mask=tv_tensors.Mask(mask))
        case tasks.DEPTH:
            depth = torch.linspace(1, 5, width).expand(height, width).clone()
            depth[0] = 0
            return DepthTarget(depth=tv_tensors.Mask(depth))
        case tasks.RECONSTRUCTION:
            image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
            return ImageTarget(image=tv_tensors.Image(image))
    return None


def empty_target(task: str, classes: int, size: tuple[int, int]) -> Target | None:
    """Return a target in which nothing is known or present, or None if the task has none."""
    match task:
        case tasks.MULTILABEL:
            return MultiLabelTarget(present=torch.full((classes,), float("nan")))
        case tasks.DETECTION:
            return _boxes(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), size)
        case tasks.SEGMENTATION:
            return MaskTarget(mask=tv_tensors.Mask(torch.full(size, IGNORE, dtype=torch.int64)))
        case tasks.DEPTH:
            return DepthTarget(depth=tv_tensors.Mask(torch.zeros(size)))
    return None


def _boxes(boxes: torch.Tensor, labels: torch.Tensor, size: tuple[int, int]) -> BoxTarget:
    return BoxTarget(
        boxes=tv_tensors.BoundingBoxes(boxes, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=size),
        labels=labels,
        crowd=torch.zeros(len(labels), dtype=torch.bool),
    )
