"""Label maps in numpy and plain integers: the same as ``labels.c``, byte for byte, some hundred times slower.

A label is coded in up to three steps: whether it is the guess (the label that continues the edges of the row above),
whether it is one of two rivals (other labels nearby), and otherwise its eight bits. The contexts of the first step
are which of ten neighbours equal the guess, the guess itself, the map before, and the place in the image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.label_state import (
    BANDS,
    BY_CLASS,
    CLASSES,
    LIMIT,
    PAIRS,
    PAST,
    PATTERNS,
    PLACES,
    RIVAL,
    RIVAL_MIX,
    RIVALS,
    SIDES,
    TREE_LIMIT,
    TREE_MIX,
    LabelState,
)  # fmt: skip
from splitreg.coding.mixing import BitCoder
from splitreg.errors import CorruptAnswer, CorruptPacket

#: (rows above, columns to the right) of the neighbours.
_NEIGHBOURS = ((0, -1), (1, 0), (1, -1), (1, 1), (0, -2), (2, 0), (2, 1), (2, -1), (1, 2), (1, -2))
_W, _N, _NW, _NE, _WW, _NN = range(6)
_OF_PAST = PATTERNS + BY_CLASS
_PLACES = _OF_PAST + PAST
_RIVALS = _PLACES + PLACES
_TREE = _RIVALS + RIVALS * RIVAL


def encode(labels: NDArray[np.uint8], state: LabelState) -> bytes:
    """Encode an (H, W) map; the state learns."""
    coder = BitCoder()
    _Map(coder, labels.tolist(), state).run()
    return coder.end()


def decode(payload: bytes, shape: tuple[int, int], state: LabelState) -> NDArray[np.uint8]:
    """Decode an (H, W) map; the state learns.

    Raises:
        CorruptAnswer: not a payload of this state, which must be discarded.
    """
    coder = BitCoder(payload)
    labels = _Map(coder, [[0] * shape[1] for _ in range(shape[0])], state)
    labels.run()
    try:
        coder.end()
    except CorruptPacket as cause:
        raise CorruptAnswer("the label map's payload has bytes after its end; it is damaged") from cause
    return np.array(labels.labels, np.uint8).reshape(shape)


class _Map:
    def __init__(self, coder: BitCoder, labels: list[list[int]], state: LabelState) -> None:
        self.coder, self.labels, self.state = coder, labels, state
        self.previous: list[list[int]] | None = None if state.previous is None else state.previous.tolist()
        self.height, self.width = len(labels), len(labels[0])

    def run(self) -> None:
        """Encode the labels, or decode them."""
        for y in range(self.height):
            for x in range(self.width):
                self.labels[y][x] = self.code(y, x, self.labels[y][x])

    def look(self, y: int, x: int, otherwise: int) -> int:
        """Return a label of this map."""
        return self.labels[y][x] if y >= 0 and 0 <= x < self.width else otherwise

    def before(self, y: int, x: int, otherwise: int) -> int:
        """Return a label of the map before."""
        inside = self.previous is not None and 0 <= y < self.height and 0 <= x < self.width
        return self.previous[y][x] if inside and self.previous is not None else otherwise

    def code(self, y: int, x: int, label: int) -> int:
        """Code one label."""
        west = self.look(y, x - 1, self.look(y - 1, x, 0))
        n = [west, *(self.look(y - dy, x + dx, west) for dy, dx in _NEIGHBOURS[1:])]
        guess = n[_N] if west == n[_NW] else west
        equal = [int(neighbour == guess) for neighbour in n]
        pattern = sum(bit << i for i, bit in enumerate(equal))
        was = -1 if self.previous is None else self.previous[y][x]
        corner = (pattern & 3) * 2 + equal[_NE]
        chosen = [
            pattern,
            PATTERNS + guess % CLASSES * 64 + (pattern & 63),
            _OF_PAST + self.past(y, x, was, guess, n) * 8 + corner,
            _PLACES + (y * BANDS // self.height * CLASSES + guess % CLASSES) * 8 + corner,
        ]
        certain = all(equal)
        row, prior = (0, 1400) if certain else (1 if sum(equal) > 6 else 2, sum(equal) * 150 - 700)
        slots, weights = self.state.slots, self.state.weights
        if self.coder.code(int(label == guess), slots, chosen, prior, weights[row], LIMIT):
            return guess
        tried: list[int] = []
        for rival in (west, n[_N], n[_NE], n[_NW], was, n[_NN]):
            if len(tried) == RIVALS or rival < 0 or rival == guess or rival in tried:
                continue
            start = _RIVALS + len(tried) * RIVAL
            sides = [n[i] == rival for i in (_W, _N, _NE, _NW, _NN, _WW)]
            chosen = [
                start + guess % CLASSES * CLASSES + rival % CLASSES,
                start + PAIRS + sum(bit << i for i, bit in enumerate(sides)),
                start + PAIRS + SIDES + self.rival_past(y, x, was, rival),
            ]
            prior = 0 if tried else 500
            if self.coder.code(int(label == rival), slots, chosen, prior, weights[RIVAL_MIX + len(tried)], LIMIT):
                return rival
            tried.append(rival)
        node = 1
        for bit in range(7, -1, -1):
            node = node * 2 + self.coder.code(
                label >> bit & 1, slots, [_TREE + node], 0, weights[TREE_MIX], TREE_LIMIT
            )  # fmt: skip
        return node & 255

    def past(self, y: int, x: int, was: int, guess: int, n: list[int]) -> int:
        """Return what the map before says about the guess."""
        if self.previous is None:
            return 0
        east, south = self.before(y, x + 1, was), self.before(y + 1, x, was)
        bits = [
            was == guess, east == guess, south == guess, self.before(y + 1, x + 1, south) == guess,
            self.before(y, x - 1, was) == n[_W], self.before(y - 1, x, was) == n[_N],
        ]  # fmt: skip
        return 64 | sum(bit << i for i, bit in enumerate(bits))

    def rival_past(self, y: int, x: int, was: int, rival: int) -> int:
        """Return what the map before says about a rival."""
        if self.previous is None:
            return 0
        bits = [was == rival, self.before(y, x + 1, was) == rival, self.before(y + 1, x, was) == rival]
        return 8 | sum(bit << i for i, bit in enumerate(bits))
