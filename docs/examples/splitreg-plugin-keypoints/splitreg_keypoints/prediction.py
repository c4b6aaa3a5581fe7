"""The prediction of the task ``keypoints``; no torch, because clients read it. Shape letter: K points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from splitreg.imaging import Geometry
from splitreg.predictions import Prediction

#: The task's name: a dataset's target of this task trains a head of this task.
TASK = "keypoints"


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
    type_name: ClassVar[str] = "keypoints"

    def __post_init__(self) -> None:
        count = len(self.names)  # on a client, the values come from the network
        if self.points.shape != (count, 2) or self.scores.shape != (count,):
            raise ValueError(f"{count} names, points {self.points.shape}, scores {self.scores.shape}")

    def restore(self, geometry: Geometry) -> Self:
        """Map the points to pixels of the original image."""
        return replace(self, points=geometry.points(self.points))

    def shapes(self) -> list[dict[str, Any]]:
        """Return a dot with its name for each point; the page and clients without this package draw it too."""
        return [
            {"points": [[round(float(v), 2) for v in self.points[i]]], "label": name, "colour": i}
            for i, name in enumerate(self.names)
            if self.scores[i] >= self.threshold
        ]

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
