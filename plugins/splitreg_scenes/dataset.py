"""Procedural scenes with labels of every task, rendered once into the cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torchvision import tv_tensors

from splitreg import tasks
from splitreg.errors import DataError, suggest
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import BoxTarget, ClassTarget, DepthTarget, MaskTarget, MultiLabelTarget, Sample, Target
from splitreg_scenes.cache import SceneCache, SceneReader
from splitreg_scenes.raycast import Rendering
from splitreg_scenes.rendering import FACTORS, KINDS, MODES, SEMANTIC, SHAPES, SPLITS, factors_of, grid_indexes

MULTI_TARGETS: Mapping[str, TargetSpec] = {
    tasks.CLASSIFICATION: TargetSpec(task=tasks.CLASSIFICATION, labels=KINDS),
    tasks.MULTILABEL: TargetSpec(task=tasks.MULTILABEL, labels=KINDS),
    tasks.DETECTION: TargetSpec(task=tasks.DETECTION, labels=KINDS),
    tasks.SEGMENTATION: TargetSpec(task=tasks.SEGMENTATION, labels=SEMANTIC),
    tasks.DEPTH: TargetSpec(task=tasks.DEPTH),
}


def factor_labels() -> dict[str, tuple[str, ...]]:
    """Return the class names of the six factors of 3D Shapes."""
    names = {factor: tuple(f"{value / count:.1f}" for value in range(count)) for factor, count in FACTORS.items()}
    return {
        **names,
        "scale": tuple(f"{0.75 + 0.5 * value / 7:.2f}" for value in range(FACTORS["scale"])),
        "shape": SHAPES,
        "orientation": tuple(f"{-30 + 60 * value / 14:.0f}" for value in range(FACTORS["orientation"])),
    }


#: The six factors, each a classification of the whole image.
FACTOR_TARGETS: Mapping[str, TargetSpec] = {
    name: TargetSpec(task=tasks.CLASSIFICATION, labels=labels) for name, labels in factor_labels().items()
}


class Scenes(Dataset):
    """Procedural rooms with solids.

    Args:
        root: ignored.
        split: ``"train"``, ``"val"`` or ``"test"``; they have no image in common.
        mode: ``"multi"``: one to six solids and labels of every task. ``"single"``: one solid and the
            six factors of 3D Shapes; the test split has combinations of floor and wall hue that the
            other splits do not have.
        size: pixels per side; 0: 128 (multi) or 64 (single).
        count: number of images, or split -> number as in ``{"train": 20_000}``; 0: 2000 (train) or 400.
        seed: seed of the images.
        noise: share of the pixels that salt-and-pepper noise replaces (MTL-Split: 0.08).

    Raises:
        DataError: an option is out of range, or the cache cannot be written.
    """

    def __init__(
        self,
        root: str | None = None,
        split: str = "train",
        *,
        mode: str = "multi",
        size: int = 0,
        count: int | Mapping[str, int] = 0,
        seed: int = 0,
        noise: float = 0.0,
    ) -> None:
        self.targets = self.describe(root, mode=mode)
        if not 0 <= noise <= 1:
            raise DataError(f"noise must be a share of the pixels, 0 to 1; got {noise}")
        if isinstance(count, Mapping):
            if wrong := [name for name in count if name not in SPLITS]:
                raise DataError(
                    f"scenes have no split {wrong[0]!r}.{suggest(wrong[0], SPLITS)} There are: {', '.join(SPLITS)}"
                )
            count = count.get(split, 0)
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise DataError(f"count must be a number of images, or one per split; got {count!r} for {split}")
        side = size or (128 if mode == "multi" else 64)
        cache = SceneCache(
            mode=mode,
            split=split,
            size=(side, side),
            count=count or (2000 if split == "train" else 400),
            seed=seed,
        )
        cache.fill()
        self.mode, self.split, self.seed, self.noise = mode, split, seed, noise
        self._reader = SceneReader(cache)

    @classmethod
    def describe(cls, root: str | None = None, *, mode: str = "multi", **options: Any) -> Mapping[str, TargetSpec]:
        """Return the targets of a mode.

        Raises:
            DataError: there is no such mode.
        """
        if mode not in MODES:
            raise DataError(f"scenes have no mode {mode!r}.{suggest(mode, MODES)} There are: {', '.join(MODES)}")
        return MULTI_TARGETS if mode == "multi" else FACTOR_TARGETS

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> Sample:
        scene = self._reader[index]
        image = scene.image
        if self.noise:
            image = salt_and_pepper(image, self.noise, seed=(self.seed, SPLITS.index(self.split), index))
        targets: dict[str, Target | None]
        if self.mode == "multi":
            targets = _multi_targets(scene)
        else:
            factors = factors_of(int(grid_indexes(self.split, self.seed)[index]))
            targets = {name: ClassTarget(index=value) for name, value in factors.items()}
        return Sample(
            image=tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)),
            targets=targets,
            name=f"{self.split}-{index:06d}",
        )


def salt_and_pepper(image: np.ndarray[Any, Any], part: float, *, seed: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Replace a share of the pixels of an (H, W, 3) uint8 image by black or white, by the seed."""
    rng = np.random.default_rng(seed)
    draw = rng.random(image.shape[:2], np.float32)
    noisy = image.copy()
    noisy[draw < part / 2] = 0
    noisy[(draw >= part / 2) & (draw < part)] = 255
    return noisy


def _multi_targets(scene: Rendering) -> dict[str, Target | None]:
    present = torch.zeros(len(KINDS))
    present[torch.from_numpy(scene.kinds)] = 1
    height, width = scene.surface.shape
    return {
        tasks.CLASSIFICATION: ClassTarget(index=int(scene.kinds[scene.areas.argmax()])),
        tasks.MULTILABEL: MultiLabelTarget(present=present),
        tasks.DETECTION: BoxTarget(
            boxes=tv_tensors.BoundingBoxes(torch.from_numpy(scene.boxes), format="XYXY", canvas_size=(height, width)),
            labels=torch.from_numpy(scene.kinds),
            crowd=torch.zeros(len(scene.kinds), dtype=torch.bool),
            masks=tv_tensors.Mask(torch.from_numpy(scene.masks)),
        ),
        tasks.SEGMENTATION: MaskTarget(mask=tv_tensors.Mask(torch.from_numpy(scene.semantic))),
        tasks.DEPTH: DepthTarget(depth=tv_tensors.Mask(torch.from_numpy(scene.depth))),
    }
