"""Metrics for keypoints."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from splitreg_keypoints.points import Keypoints, KeypointTarget


class CorrectKeypoints(Metric):
    """``pck``: share of points within a tenth of the extent; ``error``: mean distance over extent.

    The extent is the longer side of the box around the visible points of the object, so neither metric
    depends on the image size. Points that are not visible do not count. Without any, both are NaN.

    Args:
        tolerance: largest distance of a correct point, relative to the extent.

    Source: PCK of Yang & Ramanan 2013, doi:10.1109/TPAMI.2012.261.
    """

    full_state_update = False
    correct: Tensor
    distance: Tensor
    points: Tensor

    def __init__(self, *, tolerance: float = 0.1) -> None:
        super().__init__()
        self.tolerance = tolerance
        for name in ("correct", "distance", "points"):
            self.add_state(name, torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predictions: Sequence[Keypoints], targets: Sequence[KeypointTarget]) -> None:
        """Add a batch; predictions and targets are in the same pixel coordinates."""
        for prediction, target in zip(predictions, targets, strict=True):
            seen = target.seen().cpu()
            if not seen.any():
                continue
            truth = target.points.as_subclass(Tensor).cpu()[seen].double()
            points = torch.from_numpy(prediction.points)[seen].double()
            extent = (truth.amax(0) - truth.amin(0)).amax().clamp(min=1.0)
            distance = (points - truth).norm(dim=1) / extent
            self.correct += (distance <= self.tolerance).sum()
            self.distance += distance.sum().to(self.distance)
            self.points += len(truth)

    def compute(self) -> dict[str, float]:
        """Return ``pck`` and ``error``."""
        seen = float(self.points)
        if not seen:
            return {"pck": float("nan"), "error": float("nan")}
        return {"pck": float(self.correct) / seen, "error": float(self.distance) / seen}
