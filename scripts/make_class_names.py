"""Write the usual class names, from torchvision's metadata: ``python scripts/make_class_names.py``.

With ``--check``, only compare. splitreg reads the file, because importing torchvision takes seconds.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

FILE = Path(__file__).parents[1] / "splitreg" / "assembly" / "class_names.json"


def content() -> str:
    """Return the file's content: name of a label set -> class names in the order of their indexes."""
    from torchvision.models import ResNet50_Weights
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
    from torchvision.models.segmentation import DeepLabV3_ResNet50_Weights

    boxes = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    names = {
        "imagenet": ResNet50_Weights.IMAGENET1K_V1.meta["categories"],
        "coco": [name for name in boxes if name not in ("__background__", "N/A")],
        "voc": DeepLabV3_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1.meta["categories"],
    }
    return json.dumps(names, indent=1) + "\n"


def main() -> None:
    """Write the file, or compare it."""
    if "--check" not in sys.argv[1:]:
        FILE.write_text(content())
    elif FILE.read_text() != content():
        sys.exit(f"{FILE.name} differs from torchvision's class names: run python scripts/make_class_names.py")


if __name__ == "__main__":
    main()
