"""Procedural scenes with labels of every task, rendered once into the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from splitreg import tasks
from splitreg.errors import DataError, suggest
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import BoxTarget, ClassTarget, Clip, DepthTarget, MaskTarget, MultiLabelTarget, Sample, Target
from splitreg_scenes.cache import SceneCache, SceneReader
from splitreg_scenes.raycast import Rendering
from splitreg_scenes.rendering import (
    FACTORS,
    FRAMES,
    KINDS,
    MIN_VISIBLE,
    MODES,
    RATE,
    SEMANTIC,
    SHAPES,
    SPLITS,
    factors_of,
    grid_indexes,
)  # fmt: skip

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
            other splits do not have. ``"video"``: clips of 64 frames at 10 frames per second, with labels
            of every task and identities of the solids; ``clips`` lists them.
        size: pixels per side; 0: 64 (single) or 128.
        count: number of images, or split -> number as in ``{"train": 20_000}``; 0: 2000 (train) or 400,
            in whole clips 1920 or 384.
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
        side = size or (64 if mode == "single" else 128)
        if not count:
            count = 2000 if split == "train" else 400
            count = count // FRAMES * FRAMES if mode == "video" else count
        cache = SceneCache(
            mode=mode,
            split=split,
            size=(side, side),
            count=count,
            seed=seed,
        )
        cache.fill()
        self.mode, self.split, self.seed, self.noise = mode, split, seed, noise
        self._reader = SceneReader(cache)
        if mode == "video":
            self.clips = [
                Clip(name=f"{split}-{start // FRAMES:05d}", frames=range(start, min(count, start + FRAMES)), rate=RATE)
                for start in range(0, count, FRAMES)
            ]

    @classmethod
    def describe(cls, root: str | None = None, *, mode: str = "multi", **options: Any) -> Mapping[str, TargetSpec]:
        """Return the targets of a mode.

        Raises:
            DataError: there is no such mode.
        """
        if mode not in MODES:
            raise DataError(f"scenes have no mode {mode!r}.{suggest(mode, MODES)} There are: {', '.join(MODES)}")
        return FACTOR_TARGETS if mode == "single" else MULTI_TARGETS

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> Sample:
        scene = self._reader[index]
        image = scene.image
        if self.noise:
            image = salt_and_pepper(image, self.noise, seed=(self.seed, SPLITS.index(self.split), index))
        targets: dict[str, Target | None]
        name = f"{self.split}-{index:06d}"
        if self.mode == "multi":
            targets = _multi_targets(scene)
        elif self.mode == "video":
            targets = _video_targets(scene)
            name = f"{self.split}-{index // FRAMES:05d}-{index % FRAMES:02d}"
        else:
            factors = factors_of(int(grid_indexes(self.split, self.seed)[index]))
            targets = {factor: ClassTarget(index=value) for factor, value in factors.items()}
        return Sample(image=tv_tensors.Image(torch.from_numpy(image).permute(2, 0, 1)), targets=targets, name=name)


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
    return {
        tasks.CLASSIFICATION: ClassTarget(index=int(scene.kinds[scene.areas.argmax()])),
        tasks.MULTILABEL: MultiLabelTarget(present=present),
        tasks.DETECTION: _box_target(scene, np.arange(len(scene.kinds))),
        **_map_targets(scene),
    }


def _video_targets(scene: Rendering) -> dict[str, Target | None]:
    """Return the targets of a frame; solids of which next to nothing is visible are crowds, not classes."""
    visible = np.flatnonzero(scene.areas)
    tiny = scene.areas[visible] < MIN_VISIBLE * scene.surface.size
    boxes = _box_target(scene, visible)
    present = torch.zeros(len(KINDS))
    for subset, value in ((tiny, float("nan")), (~tiny, 1.0)):
        present[torch.from_numpy(scene.kinds[visible[subset]])] = value
    largest = int(scene.areas.argmax())
    return {
        tasks.CLASSIFICATION: ClassTarget(index=int(scene.kinds[largest])) if scene.areas[largest] else None,
        tasks.MULTILABEL: MultiLabelTarget(present=present),
        tasks.DETECTION: replace(boxes, crowd=torch.from_numpy(tiny), identities=torch.from_numpy(visible + 1)),
        **_map_targets(scene),
    }


def _box_target(scene: Rendering, solids: NDArray[np.int64]) -> BoxTarget:
    height, width = scene.surface.shape
    boxes = torch.from_numpy(scene.boxes[solids])
    return BoxTarget(
        boxes=tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
        labels=torch.from_numpy(scene.kinds[solids]),
        crowd=torch.zeros(len(solids), dtype=torch.bool),
        masks=tv_tensors.Mask(torch.from_numpy(scene.masks[solids])),
    )


def _map_targets(scene: Rendering) -> dict[str, Target | None]:
    return {
        tasks.SEGMENTATION: MaskTarget(mask=tv_tensors.Mask(torch.from_numpy(scene.semantic))),
        tasks.DEPTH: DepthTarget(depth=tv_tensors.Mask(torch.from_numpy(scene.depth))),
    }
