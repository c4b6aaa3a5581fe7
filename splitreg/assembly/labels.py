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


#: Ids of COCO's categories, 1 to 90, that no object has.
COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)


def class_names(task: str, count: int) -> tuple[str, ...]:
    """Return names for the classes of another project's weights: the task's usual set of that size, else numbers.

    Ninety for boxes are COCO's 80 and after them the ids that no object has, ``"no class 12"`` and on.
    """
    usual = default_labels(task) or ()
    if task == DETECTION and count == 90:
        usual += tuple(f"no class {gap}" for gap in COCO_GAPS)
    return usual if len(usual) == count else tuple(f"class {index}" for index in range(count))


#: Tasks whose heads cannot be built without class names.
LABELLED = frozenset({CLASSIFICATION, MULTILABEL, DETECTION, SEGMENTATION})
