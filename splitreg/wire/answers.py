"""Answers: the predictions for one or several images, exact as one blob, or as JSON.

The blob is a safetensors file. A tensor is named ``IMAGE/HEAD/ARRAY``. The metadata has one key,
``splitreg-answers``, whose JSON is ``{"version": 1, "metas": [META, ...], "images": [{HEAD: index
into metas}, ...]}``. A META is ``Prediction.meta``, everything except the arrays; images of one
request share theirs. Blobs come from the network, so ``unpack`` validates everything.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from safetensors import SafetensorError

from splitreg.errors import CorruptAnswer
from splitreg.predictions import Depth, Prediction, Reconstruction, Segmentation
from splitreg.wire.parts import from_parts
from splitreg.wire.png import write_png

#: One mapping per image: head -> prediction.
Answers = Sequence[Mapping[str, Prediction]]

KEY, VERSION = "splitreg-answers", 1
#: What a client accepts: bytes per blob, bytes of its header, images, heads per image, arrays per
#: prediction.
MAX_ANSWER_BYTES, MAX_HEADER_BYTES = 1 << 30, 16 << 20
MAX_ANSWERS, MAX_HEADS, MAX_ARRAYS = 4096, 64, 16
#: How JSON represents masks, depth maps and images.
MASKS = ("rle", "png", "none")

_LENGTH = struct.Struct("<Q")


def pack(answers: Answers) -> bytes:
    """Return the answers for one or several images as one blob with exact arrays."""
    metas: dict[str, int] = {}
    tensors: dict[str, NDArray[Any]] = {}
    images: list[dict[str, int]] = []
    for i, heads in enumerate(answers):
        images.append({})
        for head, prediction in heads.items():
            text = json.dumps(prediction.meta(), sort_keys=True)
            images[-1][head] = metas.setdefault(text, len(metas))
            for name, array in prediction.arrays().items():
                tensors[f"{i}/{head}/{name}"] = np.asarray(array, order="C")
    index = f'{{"version": {VERSION}, "metas": [{", ".join(metas)}], "images": {json.dumps(images)}}}'
    return safetensors.numpy.save(tensors, {KEY: index})


def unpack(blob: bytes) -> list[dict[str, Prediction]]:
    """Return the answers in a blob: one mapping head -> prediction per image.

    Raises:
        CorruptAnswer: truncated, altered, beyond the limits, or not a blob of answers.
    """
    index = _read_index(blob)
    try:
        tensors = safetensors.numpy.load(blob)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as cause:
        raise CorruptAnswer(f"the answer's arrays are damaged: {cause}") from cause
    metas, images = index.get("metas"), index.get("images")
    if index.get("version") != VERSION:
        raise CorruptAnswer(f"answers of version {index.get('version')!r} are not supported; upgrade splitreg")
    if not isinstance(metas, list) or not isinstance(images, list) or len(images) > MAX_ANSWERS:
        raise CorruptAnswer(f"the answer does not list its images, or lists more than {MAX_ANSWERS}")
    arrays: dict[tuple[int, str], dict[str, NDArray[Any]]] = {}
    for i, heads in enumerate(images):
        if not isinstance(heads, dict) or len(heads) > MAX_HEADS:
            raise CorruptAnswer(f"the answer does not list the heads of image {i}, or lists more than {MAX_HEADS}")
        arrays |= {(i, head): {} for head in heads}
    for name, array in tensors.items():
        image, _, rest = name.partition("/")
        head, _, key = rest.rpartition("/")
        place = (int(image), head) if image.isascii() and image.isdigit() and len(image) < 6 else (-1, head)
        if place not in arrays or len(arrays[place]) == MAX_ARRAYS:
            raise CorruptAnswer(f"array {name[:60]!r} belongs to no prediction, or one has more than {MAX_ARRAYS}")
        arrays[place][key] = array
    return [
        {head: from_parts(_meta(metas, index), arrays[i, head]) for head, index in heads.items()}
        for i, heads in enumerate(images)
    ]


def to_json(answers: Answers, masks: str = "rle") -> list[dict[str, Any]]:
    """Return the answers as plain data: per image a mapping head -> JSON of its prediction.

    Args:
        answers: for one or several images.
        masks: ``"rle"`` for run lengths per class; ``"png"`` for the mask, depth (16 bits,
            millimetres) or image as a base64 PNG; ``"none"`` for neither.
    """
    return [{head: _prediction_json(prediction, masks) for head, prediction in heads.items()} for heads in answers]


def dump_json(data: Any) -> bytes:
    """Return compact, strictly valid JSON: NaN and infinity become null."""
    try:
        return json.dumps(data, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        return json.dumps(_finite(data), allow_nan=False, separators=(",", ":")).encode()


def _read_index(blob: bytes) -> dict[str, Any]:
    """Read the JSON in the blob's metadata; safetensors does not return it for bytes."""
    if not _LENGTH.size <= len(blob) <= MAX_ANSWER_BYTES:
        raise CorruptAnswer(f"an answer has {_LENGTH.size} to {MAX_ANSWER_BYTES} bytes, got {len(blob)}")
    (length,) = _LENGTH.unpack_from(blob)
    if length > min(MAX_HEADER_BYTES, len(blob) - _LENGTH.size):
        raise CorruptAnswer(f"the answer is truncated: its header has {length} bytes, the whole answer {len(blob)}")
    try:
        header = json.loads(blob[_LENGTH.size : _LENGTH.size + length])
        index = json.loads(header["__metadata__"][KEY])
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise CorruptAnswer(f"the answer's header is damaged, or its metadata has no {KEY!r}") from cause
    if not isinstance(index, dict):
        raise CorruptAnswer(f"{KEY!r} in the answer's metadata is not a JSON object")
    return index


def _meta(metas: list[Any], index: Any) -> dict[str, Any]:
    if isinstance(index, int) and 0 <= index < len(metas) and isinstance(metas[index], dict):
        meta: dict[str, Any] = metas[index]
        return meta
    raise CorruptAnswer("the answer refers to a prediction that its metadata does not describe")


def _prediction_json(prediction: Prediction, masks: str) -> dict[str, Any]:
    if masks == "rle" or not isinstance(prediction, Segmentation | Depth | Reconstruction):
        shapes = list(prediction.shapes())
        return {**prediction.to_json(), "shapes": shapes} if shapes else prediction.to_json()
    if isinstance(prediction, Segmentation):
        shares = prediction.shares().items()
        classes = [{"label": prediction.names[i], "index": i, "share": round(share, 4)} for i, share in shares]
        summary = {"task": prediction.meta()["kind"], "size": list(prediction.mask.shape), "classes": classes}
        return {**summary, "png": _base64(prediction.mask)} if masks == "png" else summary
    summary = prediction.to_json()
    if masks == "none":
        return summary
    if isinstance(prediction, Reconstruction):
        return {**summary, "png": _base64(prediction.image)}
    millimetres = np.nan_to_num(prediction.depth, nan=0.0, posinf=65.535, neginf=0.0).clip(0, 65.535) * 1000
    return {**summary, "png": _base64(millimetres.round().astype(np.uint16)), "png_unit_m": 0.001}


def _base64(pixels: NDArray[Any]) -> str:
    return base64.b64encode(write_png(pixels)).decode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value if not isinstance(value, float) or np.isfinite(value) else None
