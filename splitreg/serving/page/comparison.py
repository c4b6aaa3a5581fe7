"""What ordinary files of the same pixels have in bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splitreg.imaging import Geometry, Preprocess

#: Format -> pillow's options beside the quality: the smallest file, whatever time it takes.
FORMATS: Mapping[str, Mapping[str, Any]] = {"jpeg": {"optimize": True}, "webp": {"method": 6}}
#: The quality that is usual: pillow's own, and many cameras'.
USUAL = 75
_QUALITIES = range(1, 96)


def compare(pixels: NDArray[np.uint8], preprocess: Preprocess, wanted: int) -> dict[str, Any]:
    """Compress a picture at the size at which the network sees it, without a letterbox's borders.

    Args:
        pixels: (H, W, 3).
        preprocess: the network's.
        wanted: bytes of the packet.

    Returns:
        ``size`` (height, width), and for ``jpeg`` and ``webp`` the quality and the bytes of the ``usual`` file and of
        the one whose bytes are ``nearest`` to ``wanted``.
    """
    geometry = Geometry(original=(pixels.shape[0], pixels.shape[1]), coded=preprocess.size, mode=preprocess.mode)
    _, _, height, width = geometry.content
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)

    def sizes(kind: str) -> dict[str, dict[str, int]]:
        def size(quality: int) -> int:
            stream = io.BytesIO()
            small.save(stream, kind, quality=quality, **FORMATS[kind])
            return stream.tell()

        near = nearest(size, wanted)
        return {
            "usual": {"quality": USUAL, "bytes": size(USUAL)}, "nearest": {"quality": near[0], "bytes": near[1]},
        }  # fmt: skip

    return {"size": [height, width], **{kind: sizes(kind) for kind in FORMATS}}


def nearest(size: Callable[[int], int], wanted: int) -> tuple[int, int]:
    """Return the quality, and its bytes, that are nearest to ``wanted``, as far as bytes grow with the quality."""
    found: dict[int, int] = {}
    low, high = _QUALITIES[0], _QUALITIES[-1]
    while low <= high:
        middle = (low + high) // 2
        found[middle] = size(middle)
        if found[middle] < wanted:
            low = middle + 1
        else:
            high = middle - 1
    quality = min(found, key=lambda quality: (abs(found[quality] - wanted), -quality))
    return quality, found[quality]
