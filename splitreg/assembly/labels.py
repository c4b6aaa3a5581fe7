"""Class names where no dataset gives them: the field's usual label sets."""

from __future__ import annotations

import functools

from splitreg.tasks import CLASSIFICATION, DETECTION, MULTILABEL, SEGMENTATION


@functools.cache
def default_labels(task: str) -> tuple[str, ...] | None:
    """Return ImageNet's 1,000 for classification, COCO's 80 for boxes and multi-label, VOC's 21 for masks.

    None where a task has no usual set. Source: the names that torchvision's weights carry.
    """
    from torchvision import models

    if task == CLASSIFICATION:
        return tuple(models.ResNet50_Weights.IMAGENET1K_V1.meta["categories"])
    if task in (DETECTION, MULTILABEL):
        names = models.detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
        return tuple(name for name in names if name not in ("__background__", "N/A"))
    if task == SEGMENTATION:
        return tuple(models.segmentation.DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"])
    return None


#: Tasks whose heads cannot be built without class names.
LABELLED = frozenset({CLASSIFICATION, MULTILABEL, DETECTION, SEGMENTATION})
