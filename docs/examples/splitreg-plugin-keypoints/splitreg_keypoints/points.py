"""The task ``keypoints``: what a dataset gives and what the head returns. Shape letter: K points."""

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
        points: (K, 2) x, y in pixels, with their canvas size. A tv_tensor: it moves when the picture is resized,
            flipped or cropped.
        visible: (K,) bool: whether a point's place is known.
    """

    points: tv_tensors.KeyPoints
    visible: Tensor

    def seen(self) -> Tensor:
        """Return (K,) bool: known, and inside the picture (a crop may have moved a point out of it)."""
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
        scores: (K,) float32 in 0 to 1: how much of the heatmap lies at the point.
        names: K names.
        threshold: points from this score on are drawn.
    """

    points: NDArray[np.float32]
    scores: NDArray[np.float32]
    names: tuple[str, ...]
    threshold: float = 0.05

    def restore(self, geometry: Geometry) -> Self:
        """Map the points to the original picture."""
        return replace(self, points=geometry.points(self.points))

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw a dot a point and name the points below the picture."""
        canvas, factor = drawing.enlarged(image)
        colours = drawing.palette(len(self.names))
        picture = Image.fromarray(canvas)
        pen = ImageDraw.Draw(picture)
        radius = max(3, max(canvas.shape[:2]) // 64)
        shown = [i for i in range(len(self.names)) if self.scores[i] >= self.threshold]
        for i in shown:
            x, y = (float(v) * factor for v in self.points[i])
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_colour(colours[i]), outline="white")
        return drawing.legend(np.asarray(picture), [self.names[i] for i in shown], colours[shown])

    def to_json(self) -> dict[str, Any]:
        """Return name, place and score of every point."""
        found = [
            {"label": name, "x": round(float(x), 2), "y": round(float(y), 2), "score": round(float(score), 4)}
            for name, (x, y), score in zip(self.names, self.points, self.scores, strict=True)
        ]
        return {"task": TASK, "points": found}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``points`` and ``scores``."""
        return {"points": self.points, "scores": self.scores}


def perfect(target: KeypointTarget, names: tuple[str, ...]) -> Keypoints:
    """Return the target as a prediction: score 1 for what is seen, 0 for what is not."""
    return Keypoints(
        points=target.points.as_subclass(Tensor).cpu().numpy().astype(np.float32),
        scores=target.seen().to(torch.float32).cpu().numpy(),
        names=names,
    )


def _colour(colour: NDArray[np.uint8]) -> tuple[int, int, int]:
    red, green, blue = (int(c) for c in colour)
    return red, green, blue
