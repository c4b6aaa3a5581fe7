"""Metrics of instances and poses: COCO's mean average precision with masks, and with keypoint similarity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric, detection

from splitreg.tasks import BoxTarget, PoseTarget
from splitreg_torchvision.predictions import InstanceMasks, Poses

#: Falloff of COCO's 17 keypoints; other sets have ``_SIGMA`` for each point.
_COCO_SIGMAS = np.array(
    [0.26, 0.25, 0.25, 0.35, 0.35, 0.79, 0.79, 0.72, 0.72, 0.62, 0.62, 1.07, 1.07, 0.87, 0.87, 0.89, 0.89]
) / 10  # fmt: skip
_SIGMA = 0.05
_THRESHOLDS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
#: Largest number of objects per image that count, as in the protocol.
_MAX_OBJECTS = 20


class MaskAveragePrecision(detection.MeanAveragePrecision):
    """COCO mean average precision of masks: ``mask_mAP`` (IoU .50 to .95), ``mask_mAP50``, ``mask_mAP75``.

    Source: Lin et al. 2014, arXiv:1405.0312; computed by faster-coco-eval.
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__(iou_type="segm", backend="faster_coco_eval")
        self.warn_on_many_detections = False

    def update(self, predictions: Sequence[InstanceMasks], targets: Sequence[BoxTarget]) -> None:  # type: ignore[override]
        """Keep one batch; images without masks of their objects are left out."""
        pairs = [(p, t) for p, t in zip(predictions, targets, strict=True) if t.masks is not None or not len(t.labels)]
        found = [
            {
                "masks": torch.from_numpy(_bitmaps(p)).to(self.device),
                "scores": torch.tensor(p.scores, device=self.device),
                "labels": torch.tensor(p.labels, device=self.device),
            }
            for p, _ in pairs
        ]
        truth = [
            {
                "masks": _truth_masks(t, p.size).to(self.device),
                "labels": t.labels.long().to(self.device),
                "iscrowd": t.crowd.long().to(self.device),
            }
            for p, t in pairs
        ]
        super().update(found, truth)

    def compute(self) -> dict[str, float]:
        """Return the precisions; NaN where no object is in the truth."""
        names = {"mask_mAP": "map", "mask_mAP50": "map_50", "mask_mAP75": "map_75"}
        if not any(len(labels) for labels in self.groundtruth_labels):
            return dict.fromkeys(names, math.nan)
        values: dict[str, Any] = super().compute()
        return {ours: math.nan if (v := float(values[theirs])) < 0 else v for ours, theirs in names.items()}


def _bitmaps(prediction: InstanceMasks) -> NDArray[np.bool_]:
    masks = [prediction.bitmap(index) for index in range(len(prediction.scores))]
    return np.stack(masks) if masks else np.zeros((0, *prediction.size), np.bool_)


def _truth_masks(target: BoxTarget, size: tuple[int, int]) -> Tensor:
    if target.masks is None:
        return torch.zeros(0, *size, dtype=torch.bool)
    masks: Tensor = target.masks.as_subclass(Tensor).bool()
    return masks


class PosePrecision(Metric):
    """COCO average precision with object keypoint similarity: ``OKS_AP`` (.50 to .95), ``OKS_AP50``, ``OKS_AP75``.

    The area of an object, which sets the tolerance, is half that of its box: targets have no outline.
    Crowds and objects without a known point count nowhere.

    Args:
        points: number of keypoints.

    Source: Lin et al. 2014, arXiv:1405.0312; keypoint evaluation of COCO, cocodataset.org.
    """

    full_state_update = False
    rows: list[Tensor]
    counts: list[Tensor]

    def __init__(self, points: int) -> None:
        super().__init__()
        self.variances = (2 * (_COCO_SIGMAS if points == 17 else np.full(points, _SIGMA))) ** 2
        self.add_state("rows", default=[], dist_reduce_fx="cat")
        self.add_state("counts", default=[], dist_reduce_fx="cat")

    def update(self, predictions: Sequence[Poses], targets: Sequence[PoseTarget]) -> None:
        """Match one batch."""
        for prediction, target in zip(predictions, targets, strict=True):
            classes = np.unique([*prediction.labels.tolist(), *target.labels.tolist()]).astype(int)
            for label in classes:
                rows, count = _match(prediction, target, int(label), self.variances)
                self.rows.append(torch.from_numpy(rows).to(self.device))
                self.counts.append(torch.tensor([[label, count]], device=self.device))

    def compute(self) -> dict[str, float]:
        """Return the precisions, averaged over the classes in the truth; NaN where there is no object."""
        rows = np.concatenate([row.cpu().numpy() for row in self.rows] or [np.zeros((0, 2 + 2 * len(_THRESHOLDS)))])
        counts = np.concatenate([count.cpu().numpy() for count in self.counts] or [np.zeros((0, 2))])
        values = []
        for label in np.unique(counts[:, 0]) if len(counts) else ():
            total = counts[counts[:, 0] == label, 1].sum()
            if total:
                values.append(_precisions(rows[rows[:, 0] == label], int(total)))
        mean = np.mean(values, axis=0) if values else np.full(len(_THRESHOLDS), math.nan)
        return {"OKS_AP": float(mean.mean()), "OKS_AP50": float(mean[0]), "OKS_AP75": float(mean[5])}


def similarity(
    found: NDArray[Any], points: NDArray[Any], visible: NDArray[Any], boxes: NDArray[Any], variances: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the (N, G) object keypoint similarity.

    Points of an object without any known point are compared with its box, three times as wide and high.

    Args:
        found: (N, K, 2) predicted points.
        points: (G, K, 2) points of the truth.
        visible: (G, K) bool.
        boxes: (G, 4) of the truth.
        variances: (K,) tolerance of each point.
    """
    places, sides = found[:, None].astype(np.float64), boxes[:, 2:] - boxes[:, :2]
    area = 0.5 * sides.prod(axis=1)
    low, high = (boxes[:, :2] - sides)[None, :, None], (boxes[:, 2:] + sides)[None, :, None]
    outside = np.maximum(0, low - places) + np.maximum(0, places - high)
    hidden = ~visible.any(axis=1)
    distance = (np.where(hidden[None, :, None, None], outside, places - points[None]) ** 2).sum(-1)  # (N, G, K)
    error = distance / variances / (area[None, :, None] + np.spacing(1)) / 2
    known = np.broadcast_to((visible | hidden[:, None])[None], error.shape)
    total: NDArray[np.float64] = (np.exp(-error) * known).sum(-1) / np.maximum(known.sum(-1), 1)
    return total


def _match(
    prediction: Poses, target: PoseTarget, label: int, variances: NDArray[Any]
) -> tuple[NDArray[np.float64], int]:
    """Return (N, 2 + 2 * 10): label, score, and for each threshold whether it is right and whether it counts."""
    own = np.flatnonzero(prediction.labels == label)
    own = own[np.argsort(-prediction.scores[own], kind="stable")][:_MAX_OBJECTS]
    theirs = target.labels.cpu().numpy() == label
    boxes = target.boxes.as_subclass(Tensor).float().reshape(-1, 4).cpu().numpy()[theirs]
    points = target.points.as_subclass(Tensor).float().cpu().numpy().reshape(len(theirs), len(variances), 2)[theirs]
    visible = target.visible.cpu().numpy().reshape(len(theirs), len(variances))[theirs].astype(bool)
    ignored = target.crowd.cpu().numpy()[theirs].astype(bool) | ~visible.any(axis=1)
    order = np.argsort(ignored, kind="stable")  # those that count first
    scores = similarity(prediction.keypoints[own], points, visible, boxes, variances)
    rows = np.zeros((len(own), 2 + 2 * len(_THRESHOLDS)))
    rows[:, 0], rows[:, 1] = label, prediction.scores[own]
    for t, threshold in enumerate(_THRESHOLDS):
        taken = np.zeros(len(points), bool)
        for row, _ in enumerate(own):
            best, place = min(threshold, 1 - 1e-10), -1
            for g in order:
                if taken[g] and not _is_crowd(target, theirs, g):
                    continue
                if place >= 0 and not ignored[place] and ignored[g]:
                    break
                if scores[row, g] >= best:
                    best, place = scores[row, g], int(g)
            counts = place < 0 or not ignored[place]
            rows[row, 2 + 2 * t : 4 + 2 * t] = place >= 0 and counts, counts
            if place >= 0:
                taken[place] = True
    return rows, int((~ignored).sum())


def _is_crowd(target: PoseTarget, chosen: NDArray[np.bool_], index: int) -> bool:
    """Whether an object of one class is a crowd, which several predictions may match."""
    return bool(target.crowd.cpu().numpy()[chosen][index])


def _precisions(rows: NDArray[np.float64], total: int) -> NDArray[np.float64]:
    """Return the average precision at each threshold, interpolated at 101 recalls."""
    rows = rows[np.argsort(-rows[:, 1], kind="mergesort")]
    result = np.zeros(len(_THRESHOLDS))
    for t in range(len(_THRESHOLDS)):
        right, counts = rows[:, 2 + 2 * t] > 0, rows[:, 3 + 2 * t] > 0
        hits, misses = np.cumsum(right & counts), np.cumsum(~right & counts)
        recall, precision = hits / total, hits / np.maximum(hits + misses, np.spacing(1))
        precision = np.maximum.accumulate(precision[::-1])[::-1] if len(precision) else precision
        places = np.searchsorted(recall, _RECALLS, side="left")
        result[t] = np.mean([precision[place] if place < len(precision) else 0.0 for place in places])
    return result
