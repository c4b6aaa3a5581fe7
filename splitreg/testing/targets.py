"""Targets for checks: invented ones of the first-party tasks, and those of installed datasets."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torchvision import tv_tensors

from splitreg import tasks
from splitreg.data.transforms import FitInput
from splitreg.imaging import Preprocess
from splitreg.registry import Registry
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


@dataclass(frozen=True, slots=True, kw_only=True)
class BorrowedTargets:
    """Targets of a dataset, and their class names; empty if no dataset has any."""

    targets: tuple[Target, ...] = ()
    labels: tuple[str, ...] = ()


def borrow_targets(
    task: str, size: tuple[int, int], registry: Registry, package: str, root: str | None
) -> BorrowedTargets:
    """Return targets of a task from the first installed dataset that has any.

    Args:
        task: name of the task.
        size: (height, width) of the network's input, to which images and targets are resized.
        registry: where to look.
        package: its datasets come first.
        root: folder of the dataset; None for datasets that need no folder.
    """
    with torch.device("cpu"):  # a check may build its head on the meta device
        return _borrow_targets(task, size, registry, package, root)


def _borrow_targets(
    task: str, size: tuple[int, int], registry: Registry, package: str, root: str | None
) -> BorrowedTargets:
    entries = sorted(registry["dataset"].values(), key=lambda entry: entry.package != package)
    for entry in entries:
        try:
            dataset_type = registry.component("dataset", entry.name).cls
            specs = dataset_type.describe(root)
            name = next((name for name, spec in specs.items() if spec.task == task), None)
            if name is None:
                continue
            dataset = dataset_type(root, "train")
        except Exception:
            continue  # most datasets need another folder
        fit = FitInput(Preprocess(size=size))
        samples = (dataset[index] for index in range(min(len(dataset), 32)))
        fitted = [fit(sample).targets[name] for sample in samples if sample.targets.get(name) is not None]
        targets = tuple(target for target in fitted[:8] if target is not None)
        if targets:
            return BorrowedTargets(targets=targets, labels=specs[name].labels)
    return BorrowedTargets()


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
