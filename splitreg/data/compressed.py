"""Pictures that an ordinary image codec has compressed: what a baseline sends, and what its receiver may learn from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splitreg.errors import RecipeError, suggest

#: Codec -> what pillow calls it, and its options beside the quality.
CODECS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "jpeg": ("JPEG", {"optimize": True}),
    "webp": ("WEBP", {"method": 6}),
    "png": ("PNG", {"optimize": True}),
}


def compress(image: NDArray[np.uint8], codec: str, quality: int = 75) -> tuple[NDArray[np.uint8], int]:
    """Compress an (H, W, 3) picture and decode it again.

    Args:
        image: uint8.
        codec: ``"jpeg"``, ``"webp"`` (lossy) or ``"png"`` (lossless; ``quality`` means nothing there).
        quality: 1 to 100.

    Returns:
        The decoded picture, and the bytes of the file.

    Raises:
        RecipeError: no such codec or quality.
    """
    if codec not in CODECS:
        raise RecipeError(f"no image codec named {codec!r}.{suggest(codec, CODECS)} There are: {', '.join(CODECS)}")
    if not 1 <= quality <= 100:
        raise RecipeError(f"quality is 1 to 100, got {quality}")
    kind, options = CODECS[codec]
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options, **({} if codec == "png" else {"quality": quality}))
    size = stream.tell()
    stream.seek(0)
    with Image.open(stream) as opened:
        return np.asarray(opened.convert("RGB")), size
