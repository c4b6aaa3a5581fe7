"""The task ``pose``: objects with keypoints. Shape letters: N objects, K keypoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from splitreg.tasks import Target

if TYPE_CHECKING:
    from torchvision import tv_tensors

#: Name of the task.
TASK = "pose"
#: Names of COCO's keypoints.
COCO_KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class PoseTarget(Target):
    """Objects with keypoints.

    Args:
        boxes: (N, 4) x0, y0, x1, y1 in pixels, with the canvas size.
        labels: (N,) int64.
        crowd: (N,) bool: groups, which losses and the metric ignore.
        points: (N, K, 2) x, y in pixels, with the canvas size.
        visible: (N, K) bool: whether the position of a point is known.
    """

    boxes: tv_tensors.BoundingBoxes
    labels: Tensor
    crowd: Tensor
    points: tv_tensors.KeyPoints
    visible: Tensor

    def relabel(self, indexes: Sequence[int | None], count: int) -> PoseTarget:
        """Return it with other labels, without the objects whose class is left out."""
        table = torch.tensor([-1 if index is None else index for index in indexes], device=self.labels.device)
        labels = table[self.labels] if len(self.labels) else self.labels
        known = labels >= 0
        return replace(
            self, boxes=_rows(self.boxes, known), labels=labels[known], crowd=self.crowd[known],
            points=_rows(self.points, known), visible=self.visible[known],
        )  # fmt: skip


def _rows(values: Tensor, known: Tensor) -> Any:
    from torchvision import tv_tensors

    return tv_tensors.wrap(values.as_subclass(Tensor)[known], like=values)
