"""How large the answers to a request become, estimated before it is accepted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from splitreg.predictions import CLASSIFICATION, DEPTH, DETECTION, MULTILABEL, RECONSTRUCTION, SEGMENTATION
from splitreg.wire import AnswerFormat
from splitreg.wire.protocol import ANSWERS

#: Bytes per pixel of a map: as exact arrays, and as JSON with PNG files in base64. Tasks of plugins
#: may return maps too.
_EXACT: Mapping[str, int] = {SEGMENTATION: 1, DEPTH: 4, RECONSTRUCTION: 3}
_PNG: Mapping[str, int] = {SEGMENTATION: 2, DEPTH: 3, RECONSTRUCTION: 4}
_WITHOUT_MAP = (CLASSIFICATION, MULTILABEL, DETECTION)
_OTHER_BYTES_PER_PIXEL = 4
#: Bytes of an answer of a head besides its map: a few hundred class names or boxes.
_BASE_BYTES = 16 * 1024


def estimate_bytes(
    heads: Iterable[Mapping[str, Any]], sizes: Iterable[tuple[int, int]], answer_format: AnswerFormat, max_pixels: int
) -> int:
    """Return an upper estimate of the bytes of answers, for maps that are not extreme.

    Args:
        heads: entries of the heads in ``/v1/models``.
        sizes: (height, width) of the original images.
        answer_format: of the answers.
        max_pixels: of a map.
    """
    pixels = [min(height * width, max_pixels) for height, width in sizes]
    per_pixel = sum(_bytes_per_pixel(head.get("task"), answer_format) for head in heads)
    return per_pixel * sum(pixels) + _BASE_BYTES * len(pixels) * len(list(heads))


def _bytes_per_pixel(task: str | None, answer_format: AnswerFormat) -> int:
    if task is None or task in _WITHOUT_MAP:
        return 0
    if answer_format.media == ANSWERS:
        return _EXACT.get(task, _OTHER_BYTES_PER_PIXEL)
    if answer_format.masks == "png":
        return _PNG.get(task, _OTHER_BYTES_PER_PIXEL)
    if task == SEGMENTATION:
        return 1 if answer_format.masks == "rle" else 0
    return 0 if task in _EXACT else _OTHER_BYTES_PER_PIXEL
