"""Tasks: targets of datasets and predictions of heads.

A task is a name. Each built-in task has a target type (torch tensors, in pixels of the sample's image)
and a prediction type (numpy arrays, in pixels of the original image after ``restore``, see
``splitreg.predictions``). A plugin with a new task defines both types.

Shape letters: N objects, K classes (of poses: keypoints), H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitreg.errors import DataError
from splitreg.predictions import (
    CLASSIFICATION,
    DEPTH,
    DETECTION,
    IGNORE,
    MULTILABEL,
    POSE,
    RECONSTRUCTION,
    SEGMENTATION,
    Prediction,
)

if TYPE_CHECKING:
    from torchvision import tv_tensors

__all__ = [
    "CLASSIFICATION", "DEPTH", "DETECTION", "IGNORE", "MULTILABEL", "POSE", "RECONSTRUCTION", "SEGMENTATION",
    "BoxTarget", "ClassTarget", "Clip", "DepthTarget", "ImageTarget", "MaskTarget", "MultiLabelTarget", "PoseTarget",
    "Prediction", "Sample", "Target",
]  # fmt: skip


class Target:
    """Ground truth of one image for one task; tensors that are transformed with the image are tv_tensors."""

    def relabel(self, indexes: Sequence[int | None], count: int) -> Target | None:
        """Return the target with other class indexes; called where classes of dataset and head differ.

        Args:
            indexes: new index of each class; None: leave its labels out.
            count: number of new classes.

        Returns:
            The target; None if the whole image is to be left out.

        Raises:
            DataError: this type of target cannot be relabelled.
        """
        raise DataError(
            f"{type(self).__name__} has no relabel method, so the classes of dataset and model must be the same, in "
            "the same order"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassTarget(Target):
    """``index`` of the class of the whole image."""

    index: int

    def relabel(self, indexes: Sequence[int | None], count: int) -> ClassTarget | None:
        """Return it with another index; None if the class is left out."""
        index = indexes[self.index]
        return None if index is None else replace(self, index=index)


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiLabelTarget(Target):
    """``present`` (K,) float: 1 present, 0 absent, NaN unknown."""

    present: Tensor

    def relabel(self, indexes: Sequence[int | None], count: int) -> MultiLabelTarget:
        """Return it with other classes; those that the dataset lacks are unknown.

        A class that several others become is present if one of them is, and unknown if none is and one is unknown.
        """
        present = torch.full((count,), math.nan, dtype=torch.float32, device=self.present.device)
        for new in {index for index in indexes if index is not None}:
            olds = self.present[[old for old, index in enumerate(indexes) if index == new]]
            present[new] = 1.0 if bool((olds == 1).any()) else olds.sum()
        return replace(self, present=present)


@dataclass(frozen=True, slots=True, kw_only=True)
class BoxTarget(Target):
    """Objects.

    Args:
        boxes: (N, 4) x0, y0, x1, y1 in pixels, with the canvas size.
        labels: (N,) int64.
        crowd: (N,) bool: groups, which losses and the COCO protocol ignore.
        masks: (N, H, W) bool, or None.
        identities: (N,) int64, equal for one object in all frames of a clip; None: unknown.
    """

    boxes: tv_tensors.BoundingBoxes
    labels: Tensor
    crowd: Tensor
    masks: tv_tensors.Mask | None = None
    identities: Tensor | None = None

    def relabel(self, indexes: Sequence[int | None], count: int) -> BoxTarget:
        """Return it with other labels, without the objects whose class is left out."""
        if not len(self.labels):
            return self
        labels = _lookup(indexes, -1, self.labels.device)[self.labels]
        known = labels >= 0
        relabelled = replace(self, labels=labels)
        return relabelled if bool(known.all()) else relabelled.select(known)

    def select(self, keep: Tensor) -> BoxTarget:
        """Return it with the objects of a (N,) bool tensor only."""
        return replace(
            self, boxes=_rows(self.boxes, keep), labels=self.labels[keep], crowd=self.crowd[keep],
            masks=None if self.masks is None else _rows(self.masks, keep),
            identities=None if self.identities is None else self.identities[keep],
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
        mirror: K indexes: which keypoint each one is in a mirrored image, as the left eye is the right one; empty: itself.
    """

    boxes: tv_tensors.BoundingBoxes
    labels: Tensor
    crowd: Tensor
    points: tv_tensors.KeyPoints
    visible: Tensor
    mirror: tuple[int, ...] = ()

    def relabel(self, indexes: Sequence[int | None], count: int) -> PoseTarget:
        """Return it with other labels, without the objects whose class is left out."""
        if not len(self.labels):
            return self
        labels = _lookup(indexes, -1, self.labels.device)[self.labels]
        return replace(self, labels=labels).select(labels >= 0)

    def select(self, keep: Tensor) -> PoseTarget:
        """Return it with the objects of a (N,) bool tensor only."""
        return replace(
            self, boxes=_rows(self.boxes, keep), labels=self.labels[keep], crowd=self.crowd[keep],
            points=_rows(self.points, keep), visible=self.visible[keep],
        )  # fmt: skip

    def mirrored(self) -> PoseTarget:
        """Return it with the keypoints renamed as in a mirrored image; positions stay."""
        if not self.mirror:
            return self
        order = list(self.mirror)
        points = _like(self.points, self.points.as_subclass(Tensor)[:, order])
        return replace(self, points=points, visible=self.visible[:, order])


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskTarget(Target):
    """``mask`` (H, W) int64 class indexes; ``IGNORE``: unknown."""

    mask: tv_tensors.Mask

    def relabel(self, indexes: Sequence[int | None], count: int) -> MaskTarget:
        """Return it with other classes; pixels whose class is left out are ``IGNORE``."""
        mask = self.mask.as_subclass(Tensor).long()
        table = _lookup(indexes, IGNORE, mask.device)
        known = (mask >= 0) & (mask < len(indexes))
        new = torch.where(known, table[mask.clamp(0, len(indexes) - 1)], mask)
        return replace(self, mask=_like(self.mask, new))


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthTarget(Target):
    """``depth`` (H, W) float32 in metres; 0: unknown."""

    depth: tv_tensors.Mask


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTarget(Target):
    """``image`` (3, H, W) uint8: the input itself, the target ``"reconstruction"`` of every sample."""

    image: tv_tensors.Image


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """A video within a dataset.

    Args:
        name: name of the clip.
        frames: indexes of its samples, in the order of time.
        rate: frames per second; 0: unknown.
    """

    name: str
    frames: range
    rate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One image with its targets.

    Args:
        image: (3, H, W) uint8.
        targets: target name -> target; None or missing: unknown.
        name: name of the image, e.g. its file name.
    """

    image: tv_tensors.Image
    targets: dict[str, Target | None]
    name: str = ""

    def with_reconstruction(self) -> Sample:
        """Return the sample with its own image as the target ``"reconstruction"``."""
        return replace(self, targets={**self.targets, RECONSTRUCTION: ImageTarget(image=self.image)})

    def array(self) -> NDArray[np.uint8]:
        """Return the image as (H, W, 3) uint8."""
        return np.ascontiguousarray(self.image.permute(1, 2, 0).to(torch.uint8).numpy())


def _lookup(indexes: Sequence[int | None], absent: int, device: torch.device) -> Tensor:
    """Return a table from old to new class indexes."""
    return torch.tensor([absent if index is None else index for index in indexes], dtype=torch.int64, device=device)


def _rows(values: Tensor, keep: Tensor) -> Any:
    """Return rows of a tv_tensor as a tv_tensor."""
    return _like(values, values.as_subclass(Tensor)[keep])


def _like(old: Tensor, new: Tensor) -> Any:
    from torchvision import tv_tensors

    return tv_tensors.wrap(new, like=old)
