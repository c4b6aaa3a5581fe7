"""Boxes of a compact answer in bits: quantised, and as differences to the boxes of the answer before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import CorruptAnswer

#: Coordinates have 0 to 1023 steps; a step has 2**-4 to 2**15 pixels.
_COORDINATE_BITS, _MIN_STEP, _STEP_BITS = 10, -4, 5
_MAX_COORDINATE = (1 << _COORDINATE_BITS) - 1
_SCORES = 63
#: Objects of one answer at most.
MAX_OBJECTS = 4096
#: Orders of the Exp-Golomb codes of sides, differences, labels and score differences.
_SIDE, _DIFFERENCE, _LABEL, _SCORE = 4, 1, 2, 1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class QuantisedBoxes:
    """Objects as they are sent, highest score first.

    Args:
        step: log2 of the pixels per step.
        rows: (N, 6) int64: x0, y0, x1, y1 in steps, label, score in 1/63.
    """

    step: int
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, boxes: NDArray[Any], scores: NDArray[Any], labels: NDArray[Any]) -> QuantisedBoxes:
        """Quantise (N, 4) pixels, (N,) scores and (N,) labels."""
        boxes = np.nan_to_num(np.asarray(boxes, np.float64)).reshape(-1, 4)
        largest = float(boxes.max(initial=0.0))
        step = _MIN_STEP
        while largest > _MAX_COORDINATE * 2.0**step and step < _MIN_STEP + (1 << _STEP_BITS) - 1:
            step += 1
        corners = np.rint(boxes / 2.0**step).clip(0, _MAX_COORDINATE)
        levels = np.rint(np.nan_to_num(np.asarray(scores, np.float64)).clip(0, 1) * _SCORES)
        rows = np.column_stack([corners, labels, levels]).astype(np.int64).reshape(-1, 6)
        return cls(step=step, rows=rows[np.argsort(-rows[:, 5], kind="stable")][:MAX_OBJECTS])

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``boxes``, ``scores`` and ``labels``."""
        return {
            "boxes": (self.rows[:, :4] * 2.0**self.step).astype(np.float32),
            "scores": (self.rows[:, 5] / _SCORES).astype(np.float32),
            "labels": self.rows[:, 4].copy(),
        }


def write_boxes(objects: QuantisedBoxes, before: QuantisedBoxes | None) -> bytes:
    """Return objects as bytes; none where they equal those before."""
    if before is not None and before.step == objects.step and np.array_equal(before.rows, objects.rows):
        return b""
    old = _usable(before, objects.step)
    bits = [_plain(objects.step - _MIN_STEP, _STEP_BITS), _golomb(len(objects.rows), 2)]
    score, free = _SCORES, set(range(len(old)))
    for row in objects.rows.tolist():
        bits.append(_golomb(score - row[5], _SCORE))
        score = row[5]
        choices = [
            (sum(abs(a - b) for a, b in zip(old[i], row[:4], strict=False)), i) for i in free if old[i][4] == row[4]
        ]
        distance, nearest = min(choices, default=(1 << 20, -1))
        if len(old):
            bits.append("1" if distance < 64 else "0")
        if distance < 64:
            free.discard(nearest)
            bits.append(_plain(nearest, _width(len(old))))
            bits += [_golomb(_zigzag(row[i] - old[nearest][i]), _DIFFERENCE) for i in range(4)]
        else:
            bits += [_golomb(row[4], _LABEL), _plain(row[0], _COORDINATE_BITS), _plain(row[1], _COORDINATE_BITS)]
            bits += [_golomb(max(0, row[2] - row[0]), _SIDE), _golomb(max(0, row[3] - row[1]), _SIDE)]
    text = "".join(bits)
    padded = text + "0" * (-len(text) % 8)
    return int(padded, 2).to_bytes(len(padded) // 8, "big")


def read_boxes(payload: bytes, before: QuantisedBoxes | None) -> QuantisedBoxes:
    """Return the objects of ``write_boxes``.

    Raises:
        CorruptAnswer: truncated, or not valid.
    """
    if not payload:
        if before is None:
            raise CorruptAnswer("the boxes repeat some that did not arrive")
        return before
    bits = _Bits(payload)
    step = bits.plain(_STEP_BITS) + _MIN_STEP
    old = _usable(before, step)
    count, score, rows = bits.golomb(2), _SCORES, []
    if count > MAX_OBJECTS:
        raise CorruptAnswer(f"the answer has {count} objects, at most {MAX_OBJECTS} are accepted")
    for _ in range(count):
        score -= bits.golomb(_SCORE)
        if len(old) and bits.plain(1):
            index = bits.plain(_width(len(old)))
            if index >= len(old):
                raise CorruptAnswer(f"an object refers to object {index} of {len(old)} of the answer before")
            corners = [old[index][i] + _signed(bits.golomb(_DIFFERENCE)) for i in range(4)]
            label = old[index][4]
        else:
            label, x, y = bits.golomb(_LABEL), bits.plain(_COORDINATE_BITS), bits.plain(_COORDINATE_BITS)
            corners = [x, y, x + bits.golomb(_SIDE), y + bits.golomb(_SIDE)]
        if score < 0 or min(corners) < 0 or max(corners) > _MAX_COORDINATE:
            raise CorruptAnswer("a score or a box of the answer is out of range")
        rows.append([*corners, label, score])
    bits.end()
    return QuantisedBoxes(step=step, rows=np.array(rows, np.int64).reshape(-1, 6))


def _usable(before: QuantisedBoxes | None, step: int) -> list[list[int]]:
    return before.rows.tolist() if before is not None and before.step == step else []


def _plain(value: int, width: int) -> str:
    return format(value, f"0{width}b") if width else ""


def _golomb(value: int, order: int) -> str:
    """Exp-Golomb code of a number from 0 on."""
    text = format(value + (1 << order), "b")
    return "0" * (len(text) - order - 1) + text


def _zigzag(value: int) -> int:
    return 2 * value - 1 if value > 0 else -2 * value


def _signed(value: int) -> int:
    return (value + 1) // 2 if value % 2 else -(value // 2)


def _width(count: int) -> int:
    return (count - 1).bit_length() if count else 0


class _Bits:
    """Bits of a payload, in order."""

    def __init__(self, payload: bytes) -> None:
        self._bits: Iterator[str] = iter("".join(format(byte, "08b") for byte in payload))
        self._left = 8 * len(payload)

    def plain(self, width: int) -> int:
        """Return the next ``width`` bits as a number."""
        if width > self._left:
            raise CorruptAnswer("the objects of the answer are truncated")
        self._left -= width
        value = 0
        for _ in range(width):
            value = value << 1 | (next(self._bits) == "1")
        return value

    def golomb(self, order: int) -> int:
        """Return the next number in Exp-Golomb code, below 2**20."""
        zeros = 0
        while not self.plain(1):
            zeros += 1
            if zeros > 20:
                raise CorruptAnswer("a number of the answer's objects is too large")
        return (1 << zeros + order | self.plain(zeros + order)) - (1 << order)

    def end(self) -> None:
        """Refuse more than the padding of the last byte."""
        if self._left > 7 or (self._left and self.plain(self._left)):
            raise CorruptAnswer("the objects of the answer have bytes after their end")
