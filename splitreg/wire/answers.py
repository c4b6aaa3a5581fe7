"""Answers: the predictions of one or several images, exact in one blob, or as JSON.

The blob is safetensors. A tensor's name is ``IMAGE/HEAD/ARRAY``; the metadata has one key, ``splitreg-answers``, whose
JSON is ``{"version": 1, "metas": [META, ...], "images": [{HEAD: index into metas}, ...]}``: a meta is what is not an
array (``Prediction.meta``), and images of one request share theirs. The bytes come from a link: nothing is trusted.
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

Answers = Sequence[Mapping[str, Prediction]]

KEY, VERSION = "splitreg-answers", 1
#: What a client accepts of a server: bytes of a blob, of its header, images, heads an image, arrays a prediction.
MAX_ANSWER_BYTES, MAX_HEADER_BYTES = 1 << 30, 16 << 20
MAX_ANSWERS, MAX_HEADS, MAX_ARRAYS = 4096, 64, 16
#: How masks, depths and images are shown in JSON.
MASKS = ("rle", "png", "none")

_LENGTH = struct.Struct("<Q")


def pack(answers: Answers) -> bytes:
    """Return the answers of one or several images as one blob, with exact arrays."""
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
    told = f'{{"version": {VERSION}, "metas": [{", ".join(metas)}], "images": {json.dumps(images)}}}'
    return safetensors.numpy.save(tensors, {KEY: told})


def unpack(blob: bytes) -> list[dict[str, Prediction]]:
    """Return the answers of a blob, image by image.

    Raises:
        CorruptAnswer: cut short, altered, beyond the limits, or no answers.
    """
    told = _told(blob)
    try:
        tensors = safetensors.numpy.load(blob)
    except (SafetensorError, ValueError, KeyError, TypeError, OverflowError, MemoryError) as cause:
        raise CorruptAnswer(f"the answer is not whole: {cause}") from cause
    metas, images = told.get("metas"), told.get("images")
    if told.get("version") != VERSION:
        raise CorruptAnswer(f"answers of version {told.get('version')!r} are not known here; upgrade splitreg")
    if not isinstance(metas, list) or not isinstance(images, list) or len(images) > MAX_ANSWERS:
        raise CorruptAnswer(f"the answer does not list its images, or more than {MAX_ANSWERS}")
    parts: dict[tuple[int, str], dict[str, NDArray[Any]]] = {}
    for i, heads in enumerate(images):
        if not isinstance(heads, dict) or len(heads) > MAX_HEADS:
            raise CorruptAnswer(f"the answer for image {i} does not list its heads, or more than {MAX_HEADS}")
        parts |= {(i, head): {} for head in heads}
    for name, array in tensors.items():
        image, _, rest = name.partition("/")
        head, _, key = rest.rpartition("/")
        place = (int(image), head) if image.isascii() and image.isdigit() and len(image) < 6 else (-1, head)
        if place not in parts or len(parts[place]) == MAX_ARRAYS:
            raise CorruptAnswer(f"the answer has an array {name[:60]!r} of no prediction, or too many of one")
        parts[place][key] = array
    return [
        {head: from_parts(_meta(metas, index), parts[i, head]) for head, index in heads.items()}
        for i, heads in enumerate(images)
    ]


def to_json(answers: Answers, masks: str = "rle") -> list[dict[str, Any]]:
    """Return the answers as plain data, one table an image: head -> what it says.

    Args:
        answers: of one or several images.
        masks: ``"rle"``, run lengths of every class; ``"png"``, the whole mask, depth (16 bits, millimetres) or image
            as base64 of a PNG; ``"none"``, neither.
    """
    return [{head: _shown(prediction, masks) for head, prediction in heads.items()} for heads in answers]


def dump_json(data: Any) -> bytes:
    """Return compact JSON that every parser reads: what is not finite becomes null."""
    try:
        return json.dumps(data, allow_nan=False, separators=(",", ":")).encode()
    except ValueError:
        return json.dumps(_finite(data), allow_nan=False, separators=(",", ":")).encode()


def _told(blob: bytes) -> dict[str, Any]:
    """Read the JSON in the blob's metadata; the library does not give it for bytes."""
    if not _LENGTH.size <= len(blob) <= MAX_ANSWER_BYTES:
        raise CorruptAnswer(f"{len(blob)} bytes are too few or too many for an answer")
    (length,) = _LENGTH.unpack_from(blob)
    if length > min(MAX_HEADER_BYTES, len(blob) - _LENGTH.size):
        raise CorruptAnswer("the answer is cut short, or is none: its header has more bytes than it")
    try:
        header = json.loads(blob[_LENGTH.size : _LENGTH.size + length])
        told = json.loads(header["__metadata__"][KEY])
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise CorruptAnswer("the answer's header is damaged, or not that of answers") from cause
    if not isinstance(told, dict):
        raise CorruptAnswer("the answer's header does not say what is in it")
    return told


def _meta(metas: list[Any], index: Any) -> dict[str, Any]:
    if isinstance(index, int) and 0 <= index < len(metas) and isinstance(metas[index], dict):
        found: dict[str, Any] = metas[index]
        return found
    raise CorruptAnswer("the answer names a prediction that it does not describe")


def _shown(prediction: Prediction, masks: str) -> dict[str, Any]:
    if masks == "rle" or not isinstance(prediction, Segmentation | Depth | Reconstruction):
        return prediction.to_json()
    if isinstance(prediction, Segmentation):
        shares = prediction.shares().items()
        classes = [{"label": prediction.names[i], "index": i, "share": round(share, 4)} for i, share in shares]
        found = {"task": prediction.meta()["kind"], "size": list(prediction.mask.shape), "classes": classes}
        return {**found, "png": _base64(prediction.mask)} if masks == "png" else found
    found = prediction.to_json()
    if masks == "none":
        return found
    if isinstance(prediction, Reconstruction):
        return {**found, "png": _base64(prediction.image)}
    millimetres = np.nan_to_num(prediction.depth, nan=0.0, posinf=65.535, neginf=0.0).clip(0, 65.535) * 1000
    return {**found, "png": _base64(millimetres.round().astype(np.uint16)), "png_unit_m": 0.001}


def _base64(pixels: NDArray[Any]) -> str:
    return base64.b64encode(write_png(pixels)).decode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value if not isinstance(value, float) or np.isfinite(value) else None
