"""Head ``det``: boxes from a map of object centres.

CenterNet's maps, trained on all cells near a centre as in TTFNet. torchvision is imported when a
loss or a prediction needs its box operations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from splitreg.errors import RecipeError
from splitreg.predictions import Detections
from splitreg.specs import FeatureSpec
from splitreg.tasks import Prediction
from splitreg_heads.bases import BoxHead, check_labels
from splitreg_heads.centres import cell_centres, centre_targets, focal_loss
from splitreg_heads.pyramid import Pyramid, separable

# A distance is stride * exp(value): e**6 * 4 pixels is larger than any input, and always finite.
_MAX_LOG = 6.0
# Share of the cells that predict an object before training: near the truth, so first steps are small.
_PRIOR = 0.02
# Scores are rounded to steps of this. Enlarging a coarse map leaves neighbours that are equal except
# for rounding, which depends on batch size, threads and machine: the peak would jump between them.
_STEP = 2.0**-16


@dataclass(frozen=True, slots=True)
class CentreOutput:
    """Raw maps of a batch.

    Args:
        heat: (B, K, h, w) logits of the centres.
        sides: (B, 4, h, w) logarithms of the distances to a box's sides, in cells.
        stride: pixels per cell.
        size: (H, W) of the image.
    """

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


class CentreHead(BoxHead):
    """One map of centres per class at stride 4, and the distances to the four sides.

    Args:
        features: any strides; the available ones of 4, 8, 16, 32 are read.
        labels: K class names.
        width: channels of the pyramid.
        most: largest number of objects per image.
        score: objects with a lower score are left out.
        overlap: IoU above which non-maximum suppression removes the worse of two objects of a class.
        box_weight: weight of the box loss against the centre loss.

    Raises:
        RecipeError: an option is out of range, or there are no labels.
    """

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
        self.labels = check_labels("det", labels)
        if width < 1 or most < 1 or not 0 <= score < 1 or not 0 < overlap <= 1 or box_weight < 0:
            raise RecipeError(
                "width and most must be positive, score in [0, 1), overlap in (0, 1], box_weight 0 or more; "
                f"got {width}, {most}, {score}, {overlap}, {box_weight}"
            )
        self.needs = tuple(sorted(features))
        self.most, self.score, self.overlap, self.box_weight = most, score, overlap, box_weight
        self.pyramid = Pyramid(features, width)
        self.heat = _branch(width, len(labels), bias=-math.log((1 - _PRIOR) / _PRIOR))
        self.sides = _branch(width, 4, bias=1.0)

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> CentreOutput:
        """Return the two maps at stride 4."""
        x = self.pyramid(features, image_size)
        return CentreOutput(self.heat(x).float(), self.sides(x).float(), self.pyramid.stride, image_size)

    def loss(self, output: CentreOutput, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return ``centre``, a focal loss over cells and classes, and ``box``, generalised IoU."""
        from torchvision.ops import generalized_box_iou_loss

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
        from torchvision.ops import batched_nms, clip_boxes_to_image

        heat = (output.heat.sigmoid() / _STEP).round() * _STEP
        # The best cell of each 3x3 neighbourhood; large objects have several, which the suppression removes.
        peaks = heat * (F.max_pool2d(heat, 3, stride=1, padding=1) == heat)
        cells = peaks.shape[-2] * peaks.shape[-1]
        scores, places = peaks.flatten(1).topk(min(4 * self.most, peaks[0].numel()), dim=1)
        scores, places = _in_order(scores, places)
        predictions: list[Prediction] = []
        for score, place, boxes in zip(scores, places, output.boxes(), strict=True):
            above = score > self.score
            score, label = score[above], (place // cells)[above]
            box = clip_boxes_to_image(boxes[(place % cells)[above]], output.size)
            best = batched_nms(box, score, label, self.overlap)[: self.most]
            predictions.append(
                Detections(
                    boxes=box[best].cpu().numpy(),
                    scores=score[best].cpu().numpy(),
                    labels=label[best].cpu().numpy(),
                    names=self.labels,
                )
            )
        return predictions


def _in_order(scores: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Sort (B, N) by score, equal scores by place.

    ``topk`` does not define the order of equal scores, and suppression keeps the first.
    """
    places, order = places.sort(dim=1)
    scores, order = scores.gather(1, order).sort(dim=1, descending=True, stable=True)
    return scores, places.gather(1, order)


def _branch(width: int, out: int, bias: float) -> nn.Sequential:
    last = nn.Conv2d(width, out, 1)
    nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(separable(width, width), last)
