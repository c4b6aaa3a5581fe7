"""The dataset ``corners``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from splitreg.errors import DataError, suggest
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import Sample
from splitreg_keypoints.points import TASK, KeypointTarget

SPLITS = ("train", "val", "test")
#: Clockwise. A flipped image would need other names: train with ``augment = { flip = 0 }``.
CORNERS = ("top left", "top right", "bottom right", "bottom left")


class Corners(Dataset):
    """One tilted square on a noisy background, rendered for every index: same index, same image.

    Args:
        root: not needed.
        split: ``"train"``, ``"val"`` or ``"test"``; they have no image in common.
        count: number of images.
        size: pixels per side.

    Raises:
        DataError: the split does not exist, or size or count is out of range.
    """

    def __init__(self, root: str | None = None, split: str = "train", *, count: int = 512, size: int = 64) -> None:
        if split not in SPLITS:
            raise DataError(f"corners has no split {split!r}.{suggest(split, SPLITS)} There are: {', '.join(SPLITS)}")
        if count < 1 or size < 16:
            raise DataError(f"corners: count must be 1 or more, size 16 or more; got {count} and {size}")
        self.targets = self.describe(root)
        self.split, self.count, self.size = split, count, size

    @classmethod
    def describe(cls, root: str | None = None, **options: Any) -> Mapping[str, TargetSpec]:
        """Return the only target: four named points."""
        return {TASK: TargetSpec(task=TASK, labels=CORNERS)}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"corners has {self.count} images, index {index} is out of range")
        rng = np.random.default_rng([SPLITS.index(self.split), index])
        half, angle = rng.uniform(0.12, 0.25) * self.size, rng.uniform(-0.5, 0.5)  # radians; corners keep their names
        middle = rng.uniform(0.3, 0.7, size=2) * self.size
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = middle + half * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) @ turn.T
        dark, bright = rng.uniform(20, 110, size=3), rng.uniform(150, 240, size=3)
        if rng.random() < 0.5:
            dark, bright = bright, dark

        grid = np.stack(np.meshgrid(*[np.arange(self.size) + 0.5] * 2, indexing="xy"), axis=-1)
        reach = np.abs((grid - middle) @ turn).max(axis=-1)  # distance from the middle, in the square's own axes
        cover = np.clip(half - reach + 0.5, 0, 1)[..., None]  # one pixel of soft edge
        picture = dark * (1 - cover) + bright * cover + rng.normal(0, 6, size=(self.size, self.size, 1))
        image = torch.from_numpy(np.clip(picture, 0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()

        place = torch.from_numpy(points.astype(np.float32))
        inside = ((place >= 0) & (place <= self.size)).all(dim=1)
        target = KeypointTarget(points=tv_tensors.KeyPoints(place, canvas_size=(self.size, self.size)), visible=inside)
        return Sample(image=tv_tensors.Image(image), targets={TASK: target}, name=f"{self.split}-{index:05d}")
