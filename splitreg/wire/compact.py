"""Compact answers: predictions in as few bytes as a thin link needs.

``CompactWriter`` and ``CompactReader`` are a pair that sees the same answers in the same order. In a
stream they keep what was sent: class names are sent once, masks are coded given the mask before, and
boxes as differences to the boxes before. The format is described in ``docs/wire-format.md``.

What is lossy: boxes (steps of 1/1024 of the image's larger side), scores (6 bits), probabilities
(8 bits, five classes), depth (8 bits, logarithmic). Masks are lossless at the requested resolution.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding import leb128
from splitreg.coding.labels import LabelCoder
from splitreg.errors import CorruptAnswer, CorruptPacket
from splitreg.predictions import CLASSIFICATION, DEPTH, DETECTION, MULTILABEL, SEGMENTATION, Detections, Prediction
from splitreg.wire.answers import MAX_HEADS, pack, unpack
from splitreg.wire.boxes import QuantisedBoxes, read_boxes, write_boxes
from splitreg.wire.parts import from_parts

VERSION = 1
#: Classes of a classification whose probabilities are sent.
TOP_CLASSES = 5
#: Bytes of the tables of an answer, before and after compression.
MAX_TABLE_BYTES = 1 << 20
_NEW_TABLES, _KNOWN_TABLES = 0x10, 0x20
_LENGTH_BYTES = 4
#: Ratio of neighbouring depths: 1 cm to 400 m in 255 steps.
_DEPTH_NEAR, _DEPTH_FAR = 0.01, 400.0


@dataclass(slots=True, kw_only=True)
class _HeadState:
    """What both sides know about a head: its table, and its last answer."""

    head: str
    meta: Mapping[str, Any]
    labels: LabelCoder = field(default_factory=LabelCoder)
    boxes: QuantisedBoxes | None = None


class CompactWriter:
    """Writes the answers of a stream, or of one request.

    Args:
        known_tables: CRC-32 of the tables that the reader has, see ``CompactReader.tables``; if they
            are those of the first answer, they are not sent.
    """

    def __init__(self, known_tables: int | None = None) -> None:
        self._known = known_tables
        self._states: dict[str, _HeadState] = {}

    def write(self, heads: Mapping[str, Prediction]) -> bytes:
        """Return the next answer."""
        tables, parts = [], [leb128.write(len(heads))]
        for head, prediction in heads.items():
            meta = _meta(prediction)
            key = json.dumps([head, meta], sort_keys=True)
            if key not in self._states:
                self._states[key] = _HeadState(head=head, meta=meta)
                tables.append([head, meta])
            payload = _write(prediction, self._states[key])
            parts += [leb128.write(list(self._states).index(key)), leb128.write(len(payload)), payload]
        start = _VERSION_BYTES[0]
        if tables:
            text = json.dumps(tables, separators=(",", ":")).encode()
            if len(tables) == len(self._states) and zlib.crc32(text) == self._known:
                start = _VERSION_BYTES[_KNOWN_TABLES]
            else:
                packed = zlib.compress(text, 9)
                start = b"".join([_VERSION_BYTES[_NEW_TABLES], leb128.write(len(packed)), packed])
        return start + b"".join(parts)


class CompactReader:
    """Reads the answers of a ``CompactWriter``.

    Args:
        tables: of an earlier reader, which the writer may know.

    Attributes:
        tables: the tables of the first answer, as JSON; its CRC-32 names them to a writer.
    """

    def __init__(self, tables: bytes = b"") -> None:
        self.tables = tables
        self._states: list[_HeadState] = []

    def read(self, data: bytes) -> dict[str, Prediction]:
        """Return head -> prediction of the next answer; masks have the size that was requested.

        Raises:
            CorruptAnswer: truncated, damaged, or not the next answer. Do not use the reader after it.
        """
        try:
            return self._read(data)
        except CorruptPacket as cause:
            raise CorruptAnswer(f"the compact answer is damaged: {cause}") from cause

    def _read(self, data: bytes) -> dict[str, Prediction]:
        if not data or data[0] & 0x0F != VERSION or data[0] & 0xC0:
            raise CorruptAnswer("not a compact answer of this version; upgrade splitreg")
        start = 1
        if data[0] & _NEW_TABLES:
            length, start = leb128.read(data, start, _LENGTH_BYTES)
            text = _inflate(_slice(data, start, length), MAX_TABLE_BYTES)
            self.tables = self.tables if self._states else text
            self._add(text)
            start += length
        elif data[0] & _KNOWN_TABLES:
            self._add(self.tables)
        count, start = leb128.read(data, start, _LENGTH_BYTES)
        heads: dict[str, Prediction] = {}
        for _ in range(min(count, MAX_HEADS + 1)):
            index, start = leb128.read(data, start, _LENGTH_BYTES)
            length, start = leb128.read(data, start, _LENGTH_BYTES)
            if index >= len(self._states):
                raise CorruptAnswer(f"the compact answer refers to table {index} of {len(self._states)}")
            state = self._states[index]
            heads[state.head] = _read(_slice(data, start, length), state)
            start += length
        if count != len(heads) or start != len(data):
            raise CorruptAnswer("the compact answer has other heads than it announces, or bytes after its end")
        return heads

    def _add(self, text: bytes) -> None:
        try:
            tables = json.loads(text)
        except (ValueError, RecursionError) as cause:
            raise CorruptAnswer("the tables of the compact answer are not JSON") from cause
        if not isinstance(tables, list) or len(self._states) + len(tables) > MAX_HEADS:
            raise CorruptAnswer(f"the tables of the compact answer are not a list of at most {MAX_HEADS}")
        for table in tables:
            match table:
                case [str(head), dict(meta)]:
                    self._states.append(_HeadState(head=head, meta=meta))
                case _:
                    raise CorruptAnswer("a table of the compact answer is not a head and its description")


def join_compact(answers: Iterable[bytes]) -> bytes:
    """Return the answers for several images as one body, each after its length (LEB128)."""
    return b"".join(leb128.write(len(answer)) + answer for answer in answers)


def split_compact(body: bytes) -> Iterator[bytes]:
    """Yield the answers of a body from ``join_compact``.

    Raises:
        CorruptAnswer: the body is truncated.
    """
    start = 0
    while start < len(body):
        try:
            length, start = leb128.read(body, start, _LENGTH_BYTES)
        except CorruptPacket as cause:
            raise CorruptAnswer(f"the compact answer is damaged: {cause}") from cause
        yield _slice(body, start, length)
        start += length


_VERSION_BYTES = {flags: bytes([VERSION | flags]) for flags in (0, _NEW_TABLES, _KNOWN_TABLES)}
_EXACT = "exact"


def _meta(prediction: Prediction) -> Mapping[str, Any]:
    """Return what is constant in a head's predictions."""
    meta = prediction.meta()
    tracked = isinstance(prediction, Detections) and prediction.identities is not None
    return meta if meta["kind"] in _WRITERS and not tracked else {"kind": _EXACT}


def _write(prediction: Prediction, state: _HeadState) -> bytes:
    writer = _WRITERS.get(state.meta["kind"])
    if writer is None:
        return zlib.compress(pack([{"": prediction}]), 9)
    return writer(prediction.arrays(), state)


def _read(payload: bytes, state: _HeadState) -> Prediction:
    kind = state.meta.get("kind")
    if kind == _EXACT:
        answers = unpack(_inflate(payload, 1 << 28))
        if len(answers) != 1 or list(answers[0]) != [""]:
            raise CorruptAnswer("an exact prediction of the compact answer is damaged")
        return answers[0][""]
    reader = _READERS.get(kind) if isinstance(kind, str) else None
    if reader is None:
        raise CorruptAnswer(f"unknown kind of prediction: {str(kind)[:40]!r}; upgrade splitreg")
    return from_parts(state.meta, reader(payload, state))


def _write_classes(arrays: Mapping[str, NDArray[Any]], state: _HeadState) -> bytes:
    probabilities = arrays["probabilities"]
    order = np.argsort(-probabilities, kind="stable")[:TOP_CLASSES]
    parts = [leb128.write(int(i)) + bytes([round(float(probabilities[i]) * 255)]) for i in order]
    return b"".join(parts)


def _read_classes(payload: bytes, state: _HeadState) -> dict[str, NDArray[Any]]:
    count, start = _count(state), 0
    known: dict[int, float] = {}
    while start < len(payload):
        index, start = leb128.read(payload, start, _LENGTH_BYTES)
        level = _slice(payload, start, 1)[0]
        if index >= count or index in known or len(known) == TOP_CLASSES:
            raise CorruptAnswer(f"a class of the compact answer is not one of {count}, or is there twice")
        known[index], start = level / 255, start + 1
    rest = max(0.0, 1 - sum(known.values())) / max(1, count - len(known))
    probabilities = np.full(count, min(rest, *known.values(), 1.0), np.float32)  # never above those that were sent
    for rank, (index, share) in enumerate(known.items()):
        probabilities[index] = share + (len(known) - rank) * 1e-6  # equal ones stay in order
    return {"probabilities": probabilities / probabilities.sum()}


def _write_labels(arrays: Mapping[str, NDArray[Any]], state: _HeadState) -> bytes:
    levels = np.rint(np.nan_to_num(arrays["probabilities"], nan=0.0).clip(0, 1) * 255)
    return np.asarray(levels, np.uint8).tobytes()


def _read_labels(payload: bytes, state: _HeadState) -> dict[str, NDArray[Any]]:
    return {"probabilities": np.frombuffer(payload, np.uint8).astype(np.float32) / 255}


def _write_objects(arrays: Mapping[str, NDArray[Any]], state: _HeadState) -> bytes:
    objects = QuantisedBoxes.of(arrays["boxes"], arrays["scores"], arrays["labels"])
    payload = write_boxes(objects, state.boxes)
    state.boxes = objects
    return payload


def _read_objects(payload: bytes, state: _HeadState) -> dict[str, NDArray[Any]]:
    state.boxes = read_boxes(payload, state.boxes)
    return state.boxes.arrays()


def _write_mask(arrays: Mapping[str, NDArray[Any]], state: _HeadState) -> bytes:
    return _write_shape(arrays["mask"].shape) + state.labels.encode(arrays["mask"])


def _read_mask(payload: bytes, state: _HeadState) -> dict[str, NDArray[Any]]:
    shape, start = _read_shape(payload)
    return {"mask": state.labels.decode(payload[start:], shape)}


def _write_depth(arrays: Mapping[str, NDArray[Any]], state: _HeadState) -> bytes:
    depth = arrays["depth"]
    known = np.isfinite(depth) & (depth > 0)
    scale = 254 / np.log(_DEPTH_FAR / _DEPTH_NEAR)
    levels = np.log(np.where(known, depth, 1.0).clip(_DEPTH_NEAR, _DEPTH_FAR) / _DEPTH_NEAR) * scale
    coded = np.where(known, 1 + np.rint(levels), 0).astype(np.uint8)
    return _write_shape(coded.shape) + zlib.compress(np.diff(coded, axis=1, prepend=np.uint8(0)).tobytes(), 9)


def _read_depth(payload: bytes, state: _HeadState) -> dict[str, NDArray[Any]]:
    shape, start = _read_shape(payload)
    pixels = shape[0] * shape[1]
    data = _inflate(payload[start:], pixels)
    if len(data) != pixels:
        raise CorruptAnswer(f"the depth map has {len(data)} of {pixels} pixels")
    coded = np.cumsum(np.frombuffer(data, np.uint8).reshape(shape), axis=1, dtype=np.uint8)
    scale = np.log(_DEPTH_FAR / _DEPTH_NEAR) / 254
    metres = _DEPTH_NEAR * np.exp((coded.astype(np.float32) - 1) * scale)
    return {"depth": np.where(coded > 0, metres, 0).astype(np.float32)}


_WRITERS = {
    CLASSIFICATION: _write_classes, MULTILABEL: _write_labels, DETECTION: _write_objects, SEGMENTATION: _write_mask,
    DEPTH: _write_depth,
}  # fmt: skip
_READERS = {
    CLASSIFICATION: _read_classes, MULTILABEL: _read_labels, DETECTION: _read_objects, SEGMENTATION: _read_mask,
    DEPTH: _read_depth,
}  # fmt: skip


def _count(state: _HeadState) -> int:
    names = state.meta.get("names")
    if not isinstance(names, list):
        raise CorruptAnswer("the table of a head of the compact answer has no names")
    return len(names)


def _write_shape(shape: tuple[int, ...]) -> bytes:
    return leb128.write(shape[0]) + leb128.write(shape[1])


def _read_shape(payload: bytes) -> tuple[tuple[int, int], int]:
    height, start = leb128.read(payload, 0, 3)
    width, start = leb128.read(payload, start, 3)
    if not 1 <= height * width <= 1 << 24:
        raise CorruptAnswer(f"a map of the compact answer has {height}x{width} pixels, it may have 1 to 16 million")
    return (height, width), start


def _slice(data: bytes, start: int, length: int) -> bytes:
    if length > len(data) - start:
        raise CorruptAnswer(f"the compact answer is truncated: {length} bytes expected, {len(data) - start} left")
    return data[start : start + length]


def _inflate(data: bytes, limit: int) -> bytes:
    decoder = zlib.decompressobj()
    try:
        text = decoder.decompress(data, limit)
    except zlib.error as cause:
        raise CorruptAnswer(f"a part of the compact answer cannot be decompressed: {cause}") from cause
    if not decoder.eof or decoder.unused_data:
        raise CorruptAnswer(f"a part of the compact answer is truncated, or larger than {limit} bytes")
    return text
