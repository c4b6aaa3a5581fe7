"""The task ``keypoints``: its target and its prediction. Shape letter: K points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision import tv_tensors

from splitreg import drawing
from splitreg.imaging import Geometry
from splitreg.tasks import Prediction, Target

#: The task's name: a dataset's target of this task trains a head of this task.
TASK = "keypoints"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Keypoints(Prediction):
    """The points of one object.

    Args:
        points: (K, 2) float32 x, y in pixels.
        scores: (K,) float32 in 0 to 1: probability of the best cell of the heatmap.
        names: K names.
        threshold: points with a lower score are not drawn.
    """

    points: NDArray[np.float32]
    scores: NDArray[np.float32]
    names: tuple[str, ...]
    threshold: float = 0.05

    def restore(self, geometry: Geometry) -> Self:
        """Map the points to pixels of the original image."""
        return replace(self, points=geometry.points(self.points))

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw one dot per point and a legend below the image."""
        canvas, factor = drawing.enlarge(image)
        colours = drawing.palette(len(self.names))
        drawn = Image.fromarray(canvas)
        pen = ImageDraw.Draw(drawn)
        radius = max(3, max(canvas.shape[:2]) // 64)
        shown = [i for i in range(len(self.names)) if self.scores[i] >= self.threshold]
        for i in shown:
            x, y = (float(v) * factor for v in self.points[i])
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_colour(colours[i]), outline="white")
        return drawing.legend(np.asarray(drawn), [self.names[i] for i in shown], colours[shown])

    def to_json(self) -> dict[str, Any]:
        """Return name, position and score of each point."""
        points = [
            {"label": name, "x": round(float(x), 2), "y": round(float(y), 2), "score": round(float(score), 4)}
            for name, (x, y), score in zip(self.names, self.points, self.scores, strict=True)
        ]
        return {"task": TASK, "points": points}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``points`` and ``scores``."""
        return {"points": self.points, "scores": self.scores}


def perfect(target: KeypointTarget, names: tuple[str, ...]) -> Keypoints:
    """Return the target as a prediction: score 1 for visible points, 0 for others."""
    return Keypoints(
        points=target.points.as_subclass(Tensor).cpu().numpy().astype(np.float32),
        scores=target.seen().to(torch.float32).cpu().numpy(),
        names=names,
    )


def _colour(colour: NDArray[np.uint8]) -> tuple[int, int, int]:
    red, green, blue = (int(c) for c in colour)
    return red, green, blue
