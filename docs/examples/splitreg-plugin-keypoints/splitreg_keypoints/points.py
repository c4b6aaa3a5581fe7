"""The target of the task ``keypoints``. Shape letter: K points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from splitreg.tasks import Target
from splitreg_keypoints.prediction import TASK, Keypoints

__all__ = ["TASK", "KeypointTarget", "Keypoints", "perfect"]

if TYPE_CHECKING:
    from torchvision import tv_tensors


@dataclass(frozen=True, slots=True, kw_only=True)
class KeypointTarget(Target):
    """The points of one object.

    Args:
        points: (K, 2) x, y in pixels, with their canvas size. A tv_tensor: it is transformed with the image.
        visible: (K,) bool: whether the position of a point is known.
    """

    points: tv_tensors.KeyPoints
    visible: Tensor

    def seen(self) -> Tensor:
        """Return (K,) bool: known, and inside the image (a crop may have moved a point out of it)."""
        height, width = self.points.canvas_size
        x, y = self.points.as_subclass(Tensor).unbind(-1)
        inside = (x >= 0) & (y >= 0) & (x <= width) & (y <= height)
        seen: Tensor = self.visible & inside
        return seen


def perfect(target: KeypointTarget, names: tuple[str, ...]) -> Keypoints:
    """Return the target as a prediction: score 1 for visible points, 0 for others."""
    return Keypoints(
        points=target.points.as_subclass(Tensor).cpu().numpy().astype(np.float32),
        scores=target.seen().to(torch.float32).cpu().numpy(),
        names=names,
    )
