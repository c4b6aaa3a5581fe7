"""Head ``inst-maskrcnn``: torchvision's Mask R-CNN on any body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from splitreg.errors import DataError
from splitreg.specs import FeatureSpec
from splitreg.tasks import Prediction
from splitreg_torchvision.fasterrcnn import DETECTORS, PyramidOutput, RcnnHead, RcnnOptions, truth_of
from splitreg_torchvision.levels import region_pool
from splitreg_torchvision.predictions import InstanceMasks

if TYPE_CHECKING:
    from splitreg_torchvision.metrics import MaskAveragePrecision

#: Side of the grid of a mask of the ground truth, in its box.
TRUTH_SIDE = 112


class MaskRCNNHead(RcnnHead):
    """Boxes with classes, and a mask for each.

    It is trained by targets for detection that have masks.

    Args:
        features: any strides; the available ones of 4, 8, 16, 32 are read.
        labels: K class names.
        width: channels of the pyramid and of the layers that compute a mask.
        hidden: width of the two layers that classify a region.
        anchor_scale: side of a level's anchors in its cells; 4 by default, 8 with ``like``.
        region_scale: side of the regions that are read from a level, in its cells.
        proposals: largest number of regions per image.
        most: largest number of objects per image.
        score: objects with a lower score are left out.
        like: ``maskrcnn_resnet50_fpn`` or ``maskrcnn_resnet50_fpn_v2``: built as torchvision's model.
        pretrained: with ``like``: True, to download torchvision's weights; or the place of a checkpoint.

    Raises:
        RecipeError: an option is out of range, or there are no labels.
        BundleError: the checkpoint does not have the weights of this head.
    """

    primary = "mask_mAP"

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
        self._build("inst-maskrcnn", features, labels, options)
        norm = nn.BatchNorm2d if DETECTORS.get(like) == 2 else None
        self.regions.mask_roi_pool = region_pool(self.levels, self.region_scale, size=14)
        self.regions.mask_head = MaskRCNNHeads(width, [width] * 4, 1, norm_layer=norm)
        self.regions.mask_predictor = MaskRCNNPredictor(width, width, len(labels) + 1)
        self._load("inst-maskrcnn", options)

    def predict(self, output: PyramidOutput) -> list[Prediction]:
        """Return the objects of each image, best first."""
        return [
            InstanceMasks(
                **self._objects(result),
                masks=result["masks"][:, 0].float().cpu().numpy(),
                size=(int(output.size[0]), int(output.size[1])),
            )
            for result in self._results(output)
        ]

    def truth(self, target: Any) -> InstanceMasks:
        """Return the target's objects with score 1, without crowds."""
        single = ~target.crowd
        boxes = target.boxes.as_subclass(Tensor).float().reshape(-1, 4)
        height, width = target.boxes.canvas_size
        masks = _masks(target, len(boxes), (height, width), boxes.device)
        grids = [_grid(mask, box) for mask, box in zip(masks[single], boxes[single], strict=True)]
        return InstanceMasks(
            boxes=boxes[single].cpu().numpy(),
            scores=np.ones(int(single.sum()), np.float32),
            labels=target.labels[single].long().cpu().numpy(),
            names=self.labels,
            identities=None if target.identities is None else target.identities[single].long().cpu().numpy(),
            masks=np.stack(grids) if grids else np.zeros((0, TRUTH_SIDE, TRUTH_SIDE), np.float32),
            size=(int(height), int(width)),
        )

    def metric(self) -> MaskAveragePrecision:
        """Return ``mask_mAP``, ``mask_mAP50`` and ``mask_mAP75``."""
        from splitreg_torchvision.metrics import MaskAveragePrecision

        return MaskAveragePrecision()

    def _truth(self, target: Any, output: PyramidOutput) -> dict[str, Tensor]:
        truth = truth_of(target, output)
        masks = _masks(target, len(target.labels), output.size, truth["boxes"].device)
        return {**truth, "masks": masks[truth["single"]].to(torch.uint8)}


def _masks(target: Any, count: int, size: tuple[int, int], device: torch.device) -> Tensor:
    """Return the (N, H, W) masks of a target.

    Raises:
        DataError: it has objects but no masks.
    """
    if target.masks is None and count:
        raise DataError(
            "head inst-maskrcnn needs masks of the objects, the dataset has boxes only; use head det-fasterrcnn, or a "
            "dataset with masks"
        )
    if target.masks is None:
        return torch.zeros(0, *size, device=device)
    masks: Tensor = target.masks.as_subclass(Tensor).to(device)
    return masks


def _grid(mask: Tensor, box: Tensor) -> np.ndarray[Any, Any]:
    """Return the part of an (H, W) mask in a box, as a grid of ``TRUTH_SIDE``."""
    (height, width), (x0, y0, x1, y1) = mask.shape, box.tolist()
    steps = (torch.arange(TRUTH_SIDE, device=mask.device) + 0.5) / TRUTH_SIDE
    columns, rows = (x0 + steps * (x1 - x0)) / width * 2 - 1, (y0 + steps * (y1 - y0)) / height * 2 - 1
    places = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1)
    grid = functional.grid_sample(mask.float()[None, None], places[None], mode="bilinear", align_corners=False)
    values: np.ndarray[Any, Any] = grid[0, 0].cpu().numpy().astype(np.float32)
    return values
