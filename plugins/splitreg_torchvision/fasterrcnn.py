"""Head ``det-fasterrcnn``: torchvision's feature pyramid, region proposals and RoI heads on any body."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from splitreg_heads.bases import BoxHead, check_labels
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import box_area, box_iou

from splitreg.errors import RecipeError, suggest
from splitreg.predictions import Detections
from splitreg.specs import FeatureSpec
from splitreg.tasks import BoxTarget, Prediction
from splitreg_torchvision.levels import Anchors, RcnnPyramid, region_pool
from splitreg_torchvision.weights import class_order, copy_into, read_part

#: torchvision's name of a loss -> ours.
_LOSSES = {
    "loss_objectness": "objectness", "loss_rpn_box_reg": "proposal_box", "loss_classifier": "class",
    "loss_box_reg": "box", "loss_mask": "mask", "loss_keypoint": "keypoint",
}  # fmt: skip


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


#: torchvision's detectors -> version of their pyramid, proposals and box head.
DETECTORS = {
    "fasterrcnn_resnet50_fpn": 1, "fasterrcnn_resnet50_fpn_v2": 2, "maskrcnn_resnet50_fpn": 1,
    "maskrcnn_resnet50_fpn_v2": 2, "keypointrcnn_resnet50_fpn": 1,
}  # fmt: skip
#: Strides of the levels of torchvision's detectors; the body may lack the finest.
LEVELS = (4, 8, 16, 32)
#: Side of a level's anchors in its cells: that of torchvision, and that for smaller images.
_TORCHVISION_ANCHORS, _SMALL_ANCHORS = 8.0, 4.0
#: torchvision reads a region of 112 pixels at stride 8, a smaller one at stride 4.
_TORCHVISION_REGIONS = 112 / 32**0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class RcnnOptions:
    """Options of the two stages; see ``FasterRCNNHead``."""

    width: int = 256
    hidden: int = 1024
    anchor_scale: float | None = None
    region_scale: float | None = None
    proposals: int = 1000
    most: int = 100
    score: float = 0.05
    like: str = ""
    pretrained: bool | str = False

    def check(self, name: str) -> None:
        """Check the values.

        Raises:
            RecipeError: one is out of range.
        """
        scales = [scale for scale in (self.anchor_scale, self.region_scale) if scale is not None]
        if min(self.width, self.hidden, *scales, self.proposals, self.most) <= 0 or not 0 <= self.score < 1:
            raise RecipeError(
                f"head {name}: width, hidden, anchor_scale, region_scale, proposals and most must be positive, score in "
                f"[0, 1); got {self}"
            )
        if self.like and self.like not in DETECTORS:
            raise RecipeError(
                f"head {name}: torchvision has no detector {self.like!r}.{suggest(self.like, DETECTORS)} "
                f"Available: {', '.join(DETECTORS)}"
            )
        if self.pretrained and not self.like:
            raise RecipeError(
                f"head {name} has pretrained weights, so it must be built as torchvision's model: set like to one of "
                f"{', '.join(DETECTORS)}"
            )

    @property
    def place(self) -> str:
        """Where the weights are."""
        return self.pretrained if isinstance(self.pretrained, str) else f"torchvision:{self.like}"


class RcnnHead(BoxHead):
    """Base class of heads of torchvision's R-CNN family: pyramid, proposals, and a head per region."""

    def _build(
        self, name: str, features: Mapping[int, FeatureSpec], labels: tuple[str, ...], options: RcnnOptions
    ) -> None:
        """Build the stages; a subclass adds its own parts to ``regions`` and then calls ``_load``."""
        options.check(name)
        self.labels = check_labels(name, labels)
        self.needs = tuple(sorted(features))
        own, second = bool(options.like), DETECTORS.get(options.like) == 2
        anchor_scale = options.anchor_scale or (_TORCHVISION_ANCHORS if own else _SMALL_ANCHORS)
        region_scale = options.region_scale or (_TORCHVISION_REGIONS if own else anchor_scale)
        width, hidden, proposals = options.width, options.hidden, options.proposals
        norm = nn.BatchNorm2d if second else None
        self.levels = LEVELS if own else self.needs
        if self.levels[-len(self.needs) :] != self.needs:
            raise RecipeError(
                f"head {name} like {options.like} reads strides up to 32, the body has {self.needs}; cut earlier"
            )
        channels = {stride: features[stride].channels for stride in self.needs}
        self.pyramid = RcnnPyramid(channels, self.levels, width, norm)
        # the extra level halves the deepest one
        anchors = Anchors((*self.levels, 2 * self.levels[-1]), anchor_scale, inferred=own)
        self.rpn = _Proposals(
            anchors,
            RPNHead(width, Anchors.per_cell, conv_depth=2 if second else 1),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n={"training": 2 * proposals, "testing": proposals},
            post_nms_top_n={"training": proposals, "testing": proposals},
            nms_thresh=0.7,
        )
        box_head = (
            FastRCNNConvFCHead((width, 7, 7), [width] * 4, [hidden], norm_layer=nn.BatchNorm2d)
            if second
            else TwoMLPHead(width * 7 * 7, hidden)
        )
        self.region_scale = region_scale
        self.regions = RoIHeads(
            region_pool(self.levels, region_scale),
            box_head,
            FastRCNNPredictor(hidden, len(labels) + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=256,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=options.score,
            nms_thresh=0.5,
            detections_per_img=options.most,
        )

    def _load(self, name: str, options: RcnnOptions) -> None:
        """Load the pretrained weights, if there are any and the head is not on the meta device."""
        if options.pretrained and torch.get_default_device().type != "meta":
            tensors = class_order(read_part(options.place, "detector"), self.labels)
            copy_into(self, tensors, f"{options.place}, as head {name}")

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> PyramidOutput:
        """Return the pyramid."""
        levels = self.pyramid({stride: features[stride] for stride in self.needs}, image_size)
        levels = OrderedDict((name, level.float()) for name, level in levels.items())
        return PyramidOutput(levels, len(features[self.needs[0]]), image_size)

    def loss(self, output: PyramidOutput, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return ``objectness``, ``proposal_box``, ``class``, ``box`` and those of further heads of a region.

        Crowds are neither object nor background.
        """
        truth = [self._truth(target, output) for target in targets]
        images = output.image_list()
        with _mode(self, training=True):
            proposals, first = self.rpn(images, output.levels, truth)
            proposals = [_away_from_crowds(p, t) for p, t in zip(proposals, truth, strict=True)]
            _, second = self.regions(output.levels, proposals, images.image_sizes, truth)
        return {_LOSSES[name]: value for name, value in {**first, **second}.items()}

    def _truth(self, target: Any, output: PyramidOutput) -> dict[str, Tensor]:
        """Return a target as torchvision's stages take it, with the crowds apart."""
        return truth_of(target, output)

    @torch.no_grad()
    def _results(self, output: PyramidOutput) -> list[dict[str, Tensor]]:
        """Return torchvision's results for each image."""
        images = output.image_list()
        with _mode(self, training=False):
            proposals, _ = self.rpn(images, output.levels)
            results, _ = self.regions(output.levels, proposals, images.image_sizes)
        return list(results)

    def _objects(self, result: dict[str, Tensor]) -> dict[str, Any]:
        """Return the fields of ``Detections``."""
        return {
            "boxes": result["boxes"].float().cpu().numpy(),
            "scores": result["scores"].float().cpu().numpy(),
            "labels": (result["labels"] - 1).cpu().numpy(),  # 0 is torchvision's background
            "names": self.labels,
        }


class FasterRCNNHead(RcnnHead):
    """Two stages: regions that may hold an object, then their classes and boxes.

    Args:
        features: any strides; the available ones of 4, 8, 16, 32 are read.
        labels: K class names; the background class is added internally.
        width: channels of the pyramid.
        hidden: width of the two layers that classify a region.
        anchor_scale: side of a level's anchors in its cells; 4 by default, 8 with ``like``.
        region_scale: side of the regions that are read from a level, in its cells; ``anchor_scale``
            by default, 19.8 with ``like``.
        proposals: largest number of regions per image.
        most: largest number of objects per image.
        score: objects with a lower score are left out.
        like: build it as in torchvision's model of this name, such as ``fasterrcnn_resnet50_fpn_v2``.
        pretrained: with ``like``: True, to download torchvision's weights; or the place of a checkpoint.

    Raises:
        RecipeError: an option is out of range, or there are no labels.
        BundleError: the checkpoint does not have the weights of this head.
    """

    def __init__(
        self,
        features: Mapping[int, FeatureSpec],
        labels: tuple[str, ...],
        *,
        width: int = 256,
        hidden: int = 1024,
        anchor_scale: float | None = None,
        region_scale: float | None = None,
        proposals: int = 1000,
        most: int = 100,
        score: float = 0.05,
        like: str = "",
        pretrained: bool | str = False,
    ) -> None:
        super().__init__()
        options = RcnnOptions(
            width=width, hidden=hidden, anchor_scale=anchor_scale, region_scale=region_scale, proposals=proposals,
            most=most, score=score, like=like, pretrained=pretrained,
        )  # fmt: skip
        self._build("det-fasterrcnn", features, labels, options)
        self._load("det-fasterrcnn", options)

    def predict(self, output: PyramidOutput) -> list[Prediction]:
        """Return the objects of each image, best first."""
        return [Detections(**self._objects(result)) for result in self._results(output)]


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


def truth_of(target: BoxTarget, output: PyramidOutput) -> dict[str, Tensor]:
    """Return boxes, labels with background 0, crowds, and ``single``: which objects of the target these are."""
    device = next(iter(output.levels.values())).device
    boxes = target.boxes.as_subclass(Tensor).to(device, torch.float32).reshape(-1, 4)
    crowd = target.crowd.to(device)
    solid = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)  # the logarithm of a side of 0 is not finite
    single = solid & ~crowd
    return {
        "boxes": boxes[single],
        "labels": target.labels.to(device)[single] + 1,
        "crowds": boxes[solid & crowd],
        "single": single,
    }


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
def _mode(head: RcnnHead, *, training: bool) -> Iterator[None]:
    """Put torchvision's two stages in a mode that does not depend on the head's own."""
    before = head.rpn.training, head.regions.training
    head.rpn.train(training)
    head.regions.train(training)
    try:
        yield
    finally:
        head.rpn.train(before[0])
        head.regions.train(before[1])
