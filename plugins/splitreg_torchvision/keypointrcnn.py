"""Head ``pose-keypointrcnn``: torchvision's Keypoint R-CNN on any body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor

from splitreg.errors import DataError, RecipeError
from splitreg.specs import FeatureSpec
from splitreg.tasks import POSE, Prediction
from splitreg_torchvision.fasterrcnn import PyramidOutput, RcnnHead, RcnnOptions, truth_of
from splitreg_torchvision.levels import region_pool
from splitreg_torchvision.poses import COCO_KEYPOINTS
from splitreg_torchvision.predictions import Poses

if TYPE_CHECKING:
    from splitreg_torchvision.metrics import PosePrecision


class KeypointRCNNHead(RcnnHead):
    """Boxes with classes, and keypoints for each.

    Args:
        features: any strides; the available ones of 4, 8, 16, 32 are read.
        labels: K class names, for COCO ``["person"]``.
        keypoints: names of the keypoints; COCO's 17 by default.
        width: channels of the pyramid.
        hidden: width of the two layers that classify a region.
        layers: width of the eight layers that compute the heatmaps.
        anchor_scale: side of a level's anchors in its cells; 4 by default, 8 with ``like``.
        region_scale: side of the regions that are read from a level, in its cells.
        proposals: largest number of regions per image.
        most: largest number of objects per image.
        score: objects with a lower score are left out.
        like: ``keypointrcnn_resnet50_fpn``: built as torchvision's model.
        pretrained: with ``like``: True, to download torchvision's weights; or the place of a checkpoint.

    Raises:
        RecipeError: an option is out of range, or there are no labels.
        BundleError: the checkpoint does not have the weights of this head.
    """

    task = POSE
    primary = "OKS_AP"

    def __init__(
        self,
        features: Mapping[int, FeatureSpec],
        labels: tuple[str, ...],
        *,
        keypoints: tuple[str, ...] = COCO_KEYPOINTS,
        width: int = 256,
        hidden: int = 1024,
        layers: int = 512,
        anchor_scale: float | None = None,
        region_scale: float | None = None,
        proposals: int = 1000,
        most: int = 100,
        score: float = 0.05,
        like: str = "",
        pretrained: bool | str = False,
    ) -> None:
        super().__init__()
        if not keypoints or layers < 1:
            raise RecipeError(
                f"head pose-keypointrcnn needs names of keypoints and layers above 0; got {keypoints}, {layers}"
            )
        options = RcnnOptions(
            width=width, hidden=hidden, anchor_scale=anchor_scale, region_scale=region_scale, proposals=proposals,
            most=most, score=score, like=like, pretrained=pretrained,
        )  # fmt: skip
        self.keypoints = tuple(keypoints)
        self._build("pose-keypointrcnn", features, labels, options)
        self.regions.keypoint_roi_pool = region_pool(self.levels, self.region_scale, size=14)
        self.regions.keypoint_head = KeypointRCNNHeads(width, [layers] * 8)
        self.regions.keypoint_predictor = KeypointRCNNPredictor(layers, len(self.keypoints))
        self._load("pose-keypointrcnn", options)

    def predict(self, output: PyramidOutput) -> list[Prediction]:
        """Return the objects of each image, best first."""
        return [
            Poses(
                **self._objects(result),
                keypoints=result["keypoints"][..., :2].float().cpu().numpy().reshape(-1, len(self.keypoints), 2),
                keypoint_scores=result["keypoints_scores"].float().cpu().numpy().reshape(-1, len(self.keypoints)),
                keypoint_names=self.keypoints,
            )
            for result in self._results(output)
        ]

    def truth(self, target: Any) -> Poses:
        """Return the target's objects with score 1, without crowds."""
        single, count = ~target.crowd, self._count(target)
        return Poses(
            boxes=target.boxes.as_subclass(Tensor)[single].float().reshape(-1, 4).cpu().numpy(),
            scores=np.ones(int(single.sum()), np.float32),
            labels=target.labels[single].long().cpu().numpy(),
            names=self.labels,
            keypoints=target.points.as_subclass(Tensor)[single].float().reshape(-1, count, 2).cpu().numpy(),
            keypoint_scores=target.visible[single].float().reshape(-1, count).cpu().numpy(),
            keypoint_names=self.keypoints,
        )

    def metric(self) -> PosePrecision:
        """Return ``OKS_AP``, ``OKS_AP50`` and ``OKS_AP75``."""
        from splitreg_torchvision.metrics import PosePrecision

        return PosePrecision(len(self.keypoints))

    def _truth(self, target: Any, output: PyramidOutput) -> dict[str, Tensor]:
        truth = truth_of(target, output)
        device = truth["boxes"].device
        count = self._count(target)
        points = target.points.as_subclass(Tensor).to(device, torch.float32).reshape(-1, count, 2)
        seen = target.visible.to(device, torch.float32).reshape(-1, count, 1)
        return {**truth, "keypoints": torch.cat([points, seen], dim=2)[truth["single"]]}

    def _count(self, target: Any) -> int:
        """Return K.

        Raises:
            DataError: the target has another number of keypoints.
        """
        count = len(self.keypoints)
        if target.visible.shape[-1] != count:
            raise DataError(
                f"head pose-keypointrcnn predicts {count} keypoints, and the objects of the dataset have "
                f"{target.visible.shape[-1]}; set keypoints to their names, in the order of the dataset"
            )
        return count
