"""Predictions of the heads for instances and poses; no torch, because clients read them.

Shape letters: N objects, K keypoints, M side of a mask's grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from splitreg import drawing
from splitreg.imaging import Geometry
from splitreg.predictions import Detections, Prediction, encode_mask

#: Lines between the 17 keypoints of COCO.
COCO_LINES = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10), (1, 2),
    (0, 1), (0, 2), (1, 3), (2, 4),
)  # fmt: skip
#: Largest number of numbers in the masks of one answer.
_MAX_VALUES = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceMasks(Detections):
    """Objects with masks, highest score first.

    Args:
        masks: (N, M, M) float32 in 0 to 1: for each object, how likely a cell of its box belongs to it.
        size: (height, width) of the image that the boxes are in.
    """

    masks: NDArray[np.float32]
    size: tuple[int, int]
    type_name: ClassVar[str] = "instances"

    def __post_init__(self) -> None:
        count, shape = len(self.scores), self.masks.shape
        if len(shape) != 3 or shape[0] != count or shape[1] != shape[2] or not 1 <= shape[1] <= 1024:
            raise ValueError(f"{count} objects have masks of shape {shape}, expected (N, M, M)")
        if self.boxes.shape != (count, 4) or self.labels.shape != (count,) or self.masks.size > _MAX_VALUES:
            raise ValueError(f"{count} objects, boxes {self.boxes.shape}, labels {self.labels.shape}")
        if count and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.names):
            raise ValueError(f"labels must be 0 to {len(self.names) - 1}")
        if len(self.size) != 2 or not all(isinstance(side, int) and 1 <= side <= 65535 for side in self.size):
            raise ValueError(f"size must be (height, width), got {self.size}")

    def probabilities(self, index: int) -> NDArray[np.float32]:
        """Return the (height, width) float32 probabilities of one object's mask, 0 outside its box."""
        return paste(self.masks[index], self.boxes[index], self.size)

    def bitmap(self, index: int) -> NDArray[np.bool_]:
        """Return the (height, width) bool mask of one object."""
        return self.probabilities(index) >= 0.5

    def restore(self, geometry: Geometry) -> Self:
        """Map and clip the boxes; masks keep their grid, which spans the box before it is clipped."""
        top, left, height, width = geometry.content
        h, w = geometry.original
        scale = np.array([w / width, h / height] * 2)
        boxes = ((self.boxes.astype(np.float64) - [left, top, left, top]) * scale).astype(np.float32)
        inside = geometry.boxes(self.boxes)
        moved = replace(self, boxes=boxes, size=(h, w))
        return moved._select((inside[:, 2] > inside[:, 0]) & (inside[:, 3] > inside[:, 1]))

    def _select(self, selected: NDArray[np.bool_]) -> Self:
        identities = None if self.identities is None else self.identities[selected]
        return replace(
            self, boxes=self.boxes[selected], scores=self.scores[selected], labels=self.labels[selected],
            masks=self.masks[selected], identities=identities,
        )  # fmt: skip

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Tint each object of at least the threshold's score, and draw its box with name and score."""
        colours = drawing.palette(len(self.names))
        tinted = image.copy()
        for index in np.flatnonzero(self.scores >= self.threshold)[::-1]:
            mask = self.bitmap(index)
            if mask.shape == image.shape[:2]:
                tinted[mask] = (0.5 * tinted[mask] + 0.5 * colours[self.labels[index]]).astype(np.uint8)
        return Detections.draw(self, tinted)

    def shapes(self) -> Sequence[dict[str, Any]]:
        """Return the boxes, for the page and for clients without this class."""
        return [
            {
                "points": [[x0, y0], [x1, y0], [x1, y1], [x0, y1]], "closed": True, "colour": int(label),
                "label": f"{self.names[label]} {score:.2f}",
            }
            for (x0, y0, x1, y1), label, score in zip(
                self.boxes.round(2).tolist(), self.labels, self.scores, strict=True
            )
            if score >= self.threshold
        ]  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return label, score, box and the run lengths of the mask of every object above the threshold."""
        height, width = self.size
        table = Detections.to_json(replace(self, boxes=np.clip(self.boxes, 0, [width, height] * 2)))
        kept = np.flatnonzero(self.scores >= self.threshold)
        objects = [{**table["objects"][i], "mask": encode_mask(self.bitmap(i))} for i in kept]
        return {"task": "instances", "size": list(self.size), "objects": objects}

    def meta(self) -> dict[str, Any]:
        """Return what a client rebuilds it from."""
        return Prediction.meta(self)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``boxes``, ``scores``, ``labels`` and ``masks``, and ``identities`` if they are tracked."""
        return {**Detections.arrays(self), "masks": self.masks}

    def fields(self) -> dict[str, Any]:
        """Return names, size and threshold."""
        return {"names": list(self.names), "size": list(self.size), "threshold": self.threshold}


def paste(
    mask: NDArray[np.floating[Any]], box: NDArray[np.floating[Any]], size: tuple[int, int]
) -> NDArray[np.float32]:
    """Place an (M, M) mask on an image, as torchvision does.

    Args:
        mask: the mask of a box.
        box: (4,) x0, y0, x1, y1 in pixels; may lie outside the image.
        size: (height, width) of the image.

    Returns:
        (height, width) float32.
    """
    side = mask.shape[0]
    padded = np.pad(np.asarray(mask, np.float32), 1)
    half = np.float32(0.5) * np.array([box[2] - box[0], box[3] - box[1]], np.float32) * np.float32((side + 2) / side)
    centre = np.float32(0.5) * np.array([box[2] + box[0], box[3] + box[1]], np.float32)
    x0, y0 = (int(v) for v in centre - half)
    x1, y1 = (int(v) for v in centre + half)
    width, height = max(x1 - x0 + 1, 1), max(y1 - y0 + 1, 1)
    image = np.zeros(size, np.float32)
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1 + 1, size[1]), min(y1 + 1, size[0])
    if right > left and bottom > top:
        rows, columns = _weights(side + 2, height), _weights(side + 2, width)
        image[top:bottom, left:right] = (
            rows[top - y0 : bottom - y0] @ padded.astype(np.float64) @ columns[left - x0 : right - x0].T
        )
    return image


def _weights(source: int, target: int) -> NDArray[np.float64]:
    """Return the (target, source) matrix of bilinear interpolation without aligned corners."""
    places = np.maximum((np.arange(target) + 0.5) * (source / target) - 0.5, 0)
    low = np.minimum(places.astype(np.int64), source - 1)
    high, share = np.minimum(low + 1, source - 1), places - low
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target), low), 1 - share)
    np.add.at(matrix, (np.arange(target), high), share)
    return matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Poses(Detections):
    """Objects with keypoints, highest score first.

    Args:
        keypoints: (N, K, 2) float32 x, y in pixels.
        keypoint_scores: (N, K) float32: logits of the heatmap's peak; of ground truth 1 if the point is
            known, otherwise 0.
        keypoint_names: K names.
    """

    keypoints: NDArray[np.float32]
    keypoint_scores: NDArray[np.float32]
    keypoint_names: tuple[str, ...]
    type_name: ClassVar[str] = "poses"

    def __post_init__(self) -> None:
        count, points = len(self.scores), len(self.keypoint_names)
        if self.keypoints.shape != (count, points, 2) or self.keypoint_scores.shape != (count, points):
            raise ValueError(f"{count} objects with {points} keypoints, got {self.keypoints.shape}")
        if self.boxes.shape != (count, 4) or self.labels.shape != (count,):
            raise ValueError(f"{count} objects, boxes {self.boxes.shape}, labels {self.labels.shape}")
        if count and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.names):
            raise ValueError(f"labels must be 0 to {len(self.names) - 1}")

    def restore(self, geometry: Geometry) -> Self:
        """Map boxes and keypoints; boxes are clipped."""
        moved = replace(self, keypoints=geometry.points(self.keypoints))
        return Detections.restore(moved, geometry)

    def _select(self, selected: NDArray[np.bool_]) -> Self:
        identities = None if self.identities is None else self.identities[selected]
        return replace(
            self, boxes=self.boxes[selected], scores=self.scores[selected], labels=self.labels[selected],
            keypoints=self.keypoints[selected], keypoint_scores=self.keypoint_scores[selected], identities=identities,
        )  # fmt: skip

    def shapes(self) -> Sequence[dict[str, Any]]:
        """Return dots and, for COCO's 17 points, lines of each object above the threshold."""
        shapes: list[dict[str, Any]] = []
        lines = COCO_LINES if len(self.keypoint_names) == 17 else ()
        for index in np.flatnonzero(self.scores >= self.threshold):
            points, seen = self.keypoints[index].round(2).tolist(), self.keypoint_scores[index] > 0
            shapes += [{"points": [points[a], points[b]], "colour": 0} for a, b in lines if seen[a] and seen[b]]
            shapes += [{"points": [point], "colour": 1 + i} for i, point in enumerate(points) if seen[i]]
        return shapes

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw boxes, points and lines."""
        canvas, factor = drawing.enlarge(image)
        return Detections.draw(
            replace(self, boxes=self.boxes * np.float32(factor)), drawing.shapes(canvas, self.shapes(), factor)
        )

    def to_json(self) -> dict[str, Any]:
        """Return label, score, box and keypoints of every object."""
        table = Detections.to_json(self)
        for item, points, scores in zip(table["objects"], self.keypoints, self.keypoint_scores, strict=True):
            item["keypoints"] = [
                {"label": name, "x": round(float(x), 2), "y": round(float(y), 2), "score": round(float(score), 4)}
                for name, (x, y), score in zip(self.keypoint_names, points, scores, strict=True)
            ]
        return {**table, "task": "pose"}

    def meta(self) -> dict[str, Any]:
        """Return what a client rebuilds it from."""
        return Prediction.meta(self)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of the boxes, ``keypoints`` and ``keypoint_scores``."""
        return {**Detections.arrays(self), "keypoints": self.keypoints, "keypoint_scores": self.keypoint_scores}

    def fields(self) -> dict[str, Any]:
        """Return the names and the threshold."""
        return {
            "names": list(self.names), "keypoint_names": list(self.keypoint_names), "threshold": self.threshold,
        }  # fmt: skip
