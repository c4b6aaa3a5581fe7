"""Head ``det``: boxes from a map of object centres (CenterNet), trained on all cells near a centre (TTFNet)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import batched_nms, clip_boxes_to_image, generalized_box_iou_loss

from splitreg.errors import RecipeError
from splitreg.evaluation.metrics import MeanAveragePrecision
from splitreg.interfaces import Head
from splitreg.predictions import Detections
from splitreg.specs import FeatureSpec
from splitreg.tasks import DETECTION, Prediction
from splitreg_heads.centres import cell_centres, centre_targets, focal_loss
from splitreg_heads.pyramid import Pyramid, dense_strides, separable

# A distance is stride * exp(value); e**6 * 4 pixels is beyond any input, and no step makes it infinite.
_MAX_LOG = 6.0
# The share of cells that begin as "an object is here": near the truth, so that the first steps are calm.
_PRIOR = 0.02
# Scores are compared in steps of this. Enlarging a coarse map leaves neighbours that are equal but for rounding, which
# depends on batch size, threads and machine: compared exactly, a box would jump by a cell from one to the other.
_STEP = 2.0**-16


@dataclass(frozen=True, slots=True)
class CentreOutput:
    """Raw maps: ``heat`` (B, K, h, w) logits, ``sides`` (B, 4, h, w) log-distances to the box's sides; image ``size``."""

    heat: Tensor
    sides: Tensor
    stride: int
    size: tuple[int, int]

    def boxes(self) -> Tensor:
        """Return (B, h * w, 4) x0, y0, x1, y1 in pixels, not clipped."""
        distance = self.stride * self.sides.clamp(max=_MAX_LOG).exp().flatten(2).transpose(1, 2)
        x, y = cell_centres(self.heat.shape[-2], self.heat.shape[-1], self.stride, self.heat.device).unbind(-1)
        left, top, right, bottom = distance.unbind(-1)
        return torch.stack([x - left, y - top, x + right, y + bottom], dim=-1)


class CentreHead(Head):
    """One map of centres per class at stride 4, and the distances to the four sides.

    Args:
        features: any strides; those of 4, 8, 16, 32 that the body has are read.
        labels: K class names.
        width: channels of the pyramid.
        most: objects an image, at most.
        score: objects below this score are left out.
        overlap: of two objects of one class with a larger IoU only the better one stays.
        box_weight: of the box loss against the centre loss.

    Raises:
        RecipeError: an option that is not one, or no labels.
    """

    task = DETECTION
    primary = "mAP"

    def __init__(
        self,
        features: Mapping[int, FeatureSpec],
        labels: tuple[str, ...],
        *,
        width: int = 96,
        most: int = 100,
        score: float = 0.02,
        overlap: float = 0.6,
        box_weight: float = 5.0,
    ) -> None:
        super().__init__()
        if not labels:
            raise RecipeError("head det needs class names, got none; give the head labels or a dataset")
        if width < 1 or most < 1 or not 0 <= score < 1 or not 0 < overlap <= 1 or box_weight < 0:
            raise RecipeError(
                "width and most must be positive, score in [0, 1), overlap in (0, 1], box_weight 0 or more; "
                f"got {width}, {most}, {score}, {overlap}, {box_weight}"
            )
        self.labels = tuple(labels)
        self.needs = tuple(sorted(features))
        self.most, self.score, self.overlap, self.box_weight = most, score, overlap, box_weight
        self.pyramid = Pyramid(features, width)
        self.heat = _branch(width, len(labels), bias=-math.log((1 - _PRIOR) / _PRIOR))
        self.sides = _branch(width, 4, bias=1.0)

    @classmethod
    def select(cls, available: Sequence[int]) -> tuple[int, ...]:
        """Read those of strides 4, 8, 16, 32 that are there."""
        return dense_strides(available)

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> CentreOutput:
        """Return the two maps at stride 4."""
        x = self.pyramid(features, image_size)
        return CentreOutput(self.heat(x).float(), self.sides(x).float(), self.pyramid.stride, image_size)

    def loss(self, output: CentreOutput, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return ``centre`` (focal loss over cells and classes) and ``box`` (generalised IoU near the centres)."""
        shape = output.heat.shape[1:]
        truth = [centre_targets(target, shape, output.stride, output.heat.device) for target in targets]
        objects = max(1, sum(t.objects for t in truth))
        centre = focal_loss(
            output.heat, torch.stack([t.heat for t in truth]), torch.stack([t.ignored for t in truth])
        )  # fmt: skip
        weight = torch.stack([t.weight for t in truth])  # (B, h * w)
        near = weight > 0
        each = generalized_box_iou_loss(output.boxes()[near], torch.stack([t.boxes for t in truth])[near])
        box = (each * weight[near]).sum() / weight.sum().clamp(min=1e-6) + 0.0 * output.sides.sum()
        return {"centre": centre / objects, "box": self.box_weight * box}

    @torch.no_grad()
    def predict(self, output: CentreOutput) -> list[Prediction]:
        """Return the local maxima of the centre maps as objects, clipped to the image, best first."""
        heat = (output.heat.sigmoid() / _STEP).round() * _STEP
        # Only the best cell of every 3x3 neighbourhood; the suppression below removes what large objects still repeat.
        peaks = heat * (F.max_pool2d(heat, 3, stride=1, padding=1) == heat)
        cells = peaks.shape[-2] * peaks.shape[-1]
        scores, places = peaks.flatten(1).topk(min(4 * self.most, peaks[0].numel()), dim=1)
        scores, places = _in_order(scores, places)
        found: list[Prediction] = []
        for score, place, boxes in zip(scores, places, output.boxes(), strict=True):
            kept = score > self.score
            score, label = score[kept], (place // cells)[kept]
            box = clip_boxes_to_image(boxes[(place % cells)[kept]], output.size)
            best = batched_nms(box, score, label, self.overlap)[: self.most]
            found.append(
                Detections(
                    boxes=box[best].cpu().numpy(),
                    scores=score[best].cpu().numpy(),
                    labels=label[best].cpu().numpy(),
                    names=self.labels,
                )
            )
        return found

    def truth(self, target: Any) -> Detections:
        """Return the target's objects with score 1, without crowds."""
        single = ~target.crowd
        return Detections(
            boxes=target.boxes.as_subclass(Tensor)[single].float().reshape(-1, 4).cpu().numpy(),
            scores=torch.ones(int(single.sum())).numpy(),
            labels=target.labels[single].long().cpu().numpy(),
            names=self.labels,
        )

    def metric(self) -> MeanAveragePrecision:
        """Return ``mAP``, ``mAP50`` and ``mAP75``."""
        return MeanAveragePrecision()


def _in_order(scores: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Sort (B, N) by score, equal ones by place: ``topk`` leaves their order open, and suppression keeps the first."""
    places, order = places.sort(dim=1)
    scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return scores, places.gather(1, order)


def _branch(width: int, out: int, bias: float) -> nn.Sequential:
    last = nn.Conv2d(width, out, 1)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(separable(width, width), last)
