"""Head ``det-fasterrcnn``: torchvision's feature pyramid, region proposals and RoI heads on any body."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from splitreg_heads.bases import BoxHead, check_labels
from torch import Tensor
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import FeaturePyramidNetwork, box_area, box_iou
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from splitreg.errors import RecipeError
from splitreg.predictions import Detections
from splitreg.specs import FeatureSpec
from splitreg.tasks import BoxTarget, Prediction
from splitreg_torchvision.levels import Anchors, region_pool


@dataclass(frozen=True, slots=True)
class PyramidOutput:
    """Levels of the feature pyramid, (B, width, h, w) each.

    Proposals need the truth in training, so ``loss`` and ``predict`` compute them.
    """

    levels: OrderedDict[str, Tensor]
    images: int
    size: tuple[int, int]

    def image_list(self) -> ImageList:
        """Return the images' sizes and device, as torchvision takes them."""
        like = next(iter(self.levels.values()))
        return ImageList(like.new_empty(()).expand(self.images, 3, *self.size), [self.size] * self.images)


class FasterRCNNHead(BoxHead):
    """Two stages: regions that may hold an object, then their classes and boxes.

    Args:
        features: any strides; the available ones of 4, 8, 16, 32 are read.
        labels: K class names; the background class is added internally.
        width: channels of the pyramid.
        hidden: width of the two layers that classify a region.
        anchor_scale: side of a level's anchors in its cells; torchvision has 8, for 800 pixels.
        region_scale: side of the regions that are read from a level, in its cells; ``anchor_scale``
            by default. torchvision's weights need 19.8.
        proposals: largest number of regions per image.
        most: largest number of objects per image.
        score: objects with a lower score are left out.

    Raises:
        RecipeError: an option is out of range, or there are no labels.
    """

    def __init__(
        self,
        features: Mapping[int, FeatureSpec],
        labels: tuple[str, ...],
        *,
        width: int = 256,
        hidden: int = 1024,
        anchor_scale: float = 4.0,
        region_scale: float | None = None,
        proposals: int = 1000,
        most: int = 100,
        score: float = 0.05,
    ) -> None:
        super().__init__()
        self.labels = check_labels("det-fasterrcnn", labels)
        region_scale = anchor_scale if region_scale is None else region_scale
        if min(width, hidden, anchor_scale, region_scale, proposals, most) <= 0 or not 0 <= score < 1:
            raise RecipeError(
                "width, hidden, anchor_scale, region_scale, proposals and most must be positive, score in [0, 1); "
                f"got {width}, {hidden}, {anchor_scale}, {region_scale}, {proposals}, {most}, {score}"
            )
        self.needs = tuple(sorted(features))
        channels = [features[stride].channels for stride in self.needs]
        self.pyramid = FeaturePyramidNetwork(channels, width, extra_blocks=LastLevelMaxPool())
        anchors = Anchors((*self.needs, 2 * self.needs[-1]), anchor_scale)  # the extra level halves the deepest one
        self.rpn = _Proposals(
            anchors,
            RPNHead(width, Anchors.per_cell),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2 * proposals, "testing": proposals},
            post_nms_top_n={"training": proposals, "testing": proposals},
            nms_thresh=0.7,
        )
        self.regions = RoIHeads(
            region_pool(self.needs, region_scale),
            TwoMLPHead(width * 7 * 7, hidden),
            FastRCNNPredictor(hidden, len(labels) + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=256,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=score,
            nms_thresh=0.5,
            detections_per_img=most,
        )

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> PyramidOutput:
        """Return the pyramid."""
        levels = self.pyramid(OrderedDict((str(stride), features[stride]) for stride in self.needs))
        levels = OrderedDict((name, level.float()) for name, level in levels.items())
        return PyramidOutput(levels, len(features[self.needs[0]]), image_size)

    def loss(self, output: PyramidOutput, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return ``objectness``, ``proposal_box``, ``class`` and ``box``; crowds are neither object nor background."""
        truth = [_truth(target, output) for target in targets]
        images = output.image_list()
        with _mode(self, training=True):
            proposals, first = self.rpn(images, output.levels, truth)
            proposals = [_away_from_crowds(p, t) for p, t in zip(proposals, truth, strict=True)]
            _, second = self.regions(output.levels, proposals, images.image_sizes, truth)
        return {
            "objectness": first["loss_objectness"],
            "proposal_box": first["loss_rpn_box_reg"],
            "class": second["loss_classifier"],
            "box": second["loss_box_reg"],
        }

    @torch.no_grad()
    def predict(self, output: PyramidOutput) -> list[Prediction]:
        """Return the objects of each image, best first."""
        images = output.image_list()
        with _mode(self, training=False):
            proposals, _ = self.rpn(images, output.levels)
            results, _ = self.regions(output.levels, proposals, images.image_sizes)
        return [
            Detections(
                boxes=one["boxes"].float().cpu().numpy(),
                scores=one["scores"].float().cpu().numpy(),
                labels=(one["labels"] - 1).cpu().numpy(),  # 0 is torchvision's background
                names=self.labels,
            )
            for one in results
        ]


class _Proposals(RegionProposalNetwork):  # type: ignore[misc]
    """Anchors on crowds are neither object nor background."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: list[dict[str, Tensor]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        labels, matched = super().assign_targets_to_anchors(anchors, targets)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            ignored = (label == 0) & _mostly_in(anchor, target["crowds"])
            if bool(((label >= 0) & ~ignored).any()):  # with nothing left, the mean of the loss would be 0 / 0
                label[ignored] = -1
        return labels, matched


def _truth(target: BoxTarget, output: PyramidOutput) -> dict[str, Tensor]:
    device = next(iter(output.levels.values())).device
    boxes = target.boxes.as_subclass(Tensor).to(device, torch.float32).reshape(-1, 4)
    crowd = target.crowd.to(device)
    solid = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)  # the logarithm of a side of 0 is not finite
    single = solid & ~crowd
    return {"boxes": boxes[single], "labels": target.labels.to(device)[single] + 1, "crowds": boxes[solid & crowd]}


def _mostly_in(boxes: Tensor, crowds: Tensor) -> Tensor:
    """Return (N,) bool: more than half of the box lies in one crowd."""
    if not len(crowds):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    low, high = torch.maximum(boxes[:, None, :2], crowds[:, :2]), torch.minimum(boxes[:, None, 2:], crowds[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)  # (N, crowds)
    inside: Tensor = (shared / box_area(boxes).clamp(min=1e-6)[:, None] > 0.5).any(dim=1)
    return inside


def _away_from_crowds(proposals: Tensor, truth: dict[str, Tensor]) -> Tensor:
    """Leave out the regions that lie in a crowd and overlap no object."""
    on_object = torch.zeros(len(proposals), dtype=torch.bool, device=proposals.device)
    if len(truth["boxes"]):
        on_object = box_iou(proposals, truth["boxes"]).amax(dim=1) >= 0.5
    usable = on_object | ~_mostly_in(proposals, truth["crowds"])
    return proposals[usable] if bool(usable.any()) else proposals


@contextmanager
def _mode(head: FasterRCNNHead, *, training: bool) -> Iterator[None]:
    """Put torchvision's two stages in a mode that does not depend on the head's own."""
    before = head.rpn.training, head.regions.training
    head.rpn.train(training)
    head.regions.train(training)
    try:
        yield
    finally:
        head.rpn.train(before[0])
        head.regions.train(before[1])
