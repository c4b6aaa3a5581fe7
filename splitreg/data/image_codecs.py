"""Images compressed by an ordinary image codec: baselines, and training data for their receivers."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splitreg.errors import RecipeError, suggest
from splitreg.files import IMAGE_CODECS
from splitreg.parsing import check_name


def parse_codec(text: str) -> tuple[str, int]:
    """Read ``"CODEC"`` or ``"CODEC:QUALITY"``; the quality is 75 by default, and 0 for PNG.

    Raises:
        RecipeError: unknown codec, or quality out of range.

    >>> parse_codec("webp:20"), parse_codec("png")
    (('webp', 20), ('png', 0))
    """
    codec, _, quality = text.strip().partition(":")
    if codec not in IMAGE_CODECS or (quality and not (quality.isdigit() and 1 <= int(quality) <= 100)):
        raise RecipeError(
            f"invalid image codec {text!r}.{suggest(codec, IMAGE_CODECS)} Give CODEC or CODEC:QUALITY, with a codec of "
            f"{', '.join(IMAGE_CODECS)} and a quality of 1 to 100, e.g. webp:50"
        )
    return codec, 0 if codec == "png" else int(quality or 75)


def compress(image: NDArray[np.uint8], codec: str, quality: int = 75) -> tuple[NDArray[np.uint8], int]:
    """Compress an image and decode it again.

    Args:
        image: (H, W, 3) uint8.
        codec: ``"jpeg"``, ``"webp"`` (lossy) or ``"png"`` (lossless, ignores ``quality``).
        quality: 1 to 100.

    Returns:
        The decoded (H, W, 3) image, and the size of the file in bytes.

    Raises:
        RecipeError: unknown codec, or quality out of range.
    """
    check_name(codec, IMAGE_CODECS, "image codec")
    if not 1 <= quality <= 100:
        raise RecipeError(f"quality must be 1 to 100, got {quality}")
    kind, options = IMAGE_CODECS[codec]
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options, **({} if codec == "png" else {"quality": quality}))
    size = stream.tell()
    stream.seek(0)
    with Image.open(stream) as opened:
        return np.asarray(opened.convert("RGB")), size
