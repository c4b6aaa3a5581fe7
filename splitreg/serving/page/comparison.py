"""Sizes of JPEG and WebP files with the same pixels as the network's input."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splitreg.imaging import Geometry, Preprocess

#: Format -> Pillow's options besides the quality: smallest file, regardless of time.
FORMATS: Mapping[str, Mapping[str, Any]] = {"jpeg": {"optimize": True}, "webp": {"method": 6}}
#: Pillow's default quality, also common in cameras.
DEFAULT_QUALITY = 75
_QUALITIES = range(1, 96)


def compare_files(pixels: NDArray[np.uint8], preprocess: Preprocess, packet_bytes: int) -> dict[str, Any]:
    """Compress an image at the network's input size, without the borders of a letterbox.

    Args:
        pixels: (H, W, 3).
        preprocess: of the network.
        packet_bytes: size of the packet.

    Returns:
        ``size`` (height, width); and for ``jpeg`` and ``webp`` quality and bytes of the file with
        the default quality (``usual``) and of the file closest to ``packet_bytes`` (``nearest``).
    """
    geometry = Geometry(original=(pixels.shape[0], pixels.shape[1]), coded=preprocess.size, mode=preprocess.mode)
    _, _, height, width = geometry.content
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)

    def sizes(kind: str) -> dict[str, dict[str, int]]:
        def size(quality: int) -> int:
            stream = io.BytesIO()
            small.save(stream, kind, quality=quality, **FORMATS[kind])
            return stream.tell()

        quality, closest = nearest_quality(size, packet_bytes)
        return {
            "usual": {"quality": DEFAULT_QUALITY, "bytes": size(DEFAULT_QUALITY)},
            "nearest": {"quality": quality, "bytes": closest},
        }

    return {"size": [height, width], **{kind: sizes(kind) for kind in FORMATS}}


def nearest_quality(size: Callable[[int], int], wanted: int) -> tuple[int, int]:
    """Return the quality whose file size is closest to ``wanted``, and this size.

    Args:
        size: quality -> bytes; should not decrease with the quality, since this is a binary search.
        wanted: bytes.
    """
    tried: dict[int, int] = {}
    low, high = _QUALITIES[0], _QUALITIES[-1]
    while low <= high:
        middle = (low + high) // 2
        tried[middle] = size(middle)
        if tried[middle] < wanted:
            low = middle + 1
        else:
            high = middle - 1
    quality = min(tried, key=lambda quality: (abs(tried[quality] - wanted), -quality))
    return quality, tried[quality]
