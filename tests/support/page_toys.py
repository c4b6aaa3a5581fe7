"""A bundle for tests of the page: every kind of head, and labels that contain markup."""

import io

import numpy as np
from PIL import Image

HOSTILE = "<img src=x onerror=document.title='taken'>"
LABELS = [HOSTILE, "road & <b>sky</b>", "'\"`", "tree"]


def make_page_bundle(folder, rates=3, onnx=True, channels=6):
    import splitreg
    from splitreg.assembly import save
    from support.bundles import save_with_onnx

    bottleneck = {
        "name": "fp",
        "channels": channels,
        "hidden": 8,
        "from": "image",
        **({"rates": rates} if rates else {}),
    }
    labels = {"cls": LABELS, "multilabel": LABELS[:3], "seg": LABELS, "det": LABELS[:2]}
    model = splitreg.build(
        backbone="test_resnet", bottleneck=bottleneck, input={"size": [64, 96]},
        heads=[{"name": name, **({"labels": labels[name]} if name in labels else {})}
               for name in ("cls", "multilabel", "seg", "det", "depth", "recon")],
    )  # fmt: skip
    return (save_with_onnx if onnx else save)(model, folder)


def image_file(kind="PNG", size=(60, 90), seed=0, **options):
    """A file with a smooth image of (height, width)."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC).save(stream, kind, **options)
    return stream.getvalue()
