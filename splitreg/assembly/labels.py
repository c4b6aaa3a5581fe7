"""Class names where no dataset gives them: the usual label sets of the tasks."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path

from splitreg.tasks import CLASSIFICATION, DETECTION, MULTILABEL, SEGMENTATION

#: Task -> its usual label set in ``class_names.json``, which ``scripts/make_class_names.py`` writes.
_USUAL = {CLASSIFICATION: "imagenet", DETECTION: "coco", MULTILABEL: "coco", SEGMENTATION: "voc"}


def default_labels(task: str) -> tuple[str, ...] | None:
    """Return ImageNet's 1,000 for classification, COCO's 80 for boxes and multi-label, VOC's 21 for masks.

    None where a task has no usual set. Source: the metadata of torchvision's weights.
    """
    return tuple(_label_sets()[_USUAL[task]]) if task in _USUAL else None


@functools.cache
def _label_sets() -> Mapping[str, list[str]]:
    names: dict[str, list[str]] = json.loads(Path(__file__).with_name("class_names.json").read_bytes())
    return names


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
