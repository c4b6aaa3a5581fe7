"""Temporal coding in numpy and plain integers: the same as ``temporal.c``, byte for byte, some hundred times slower."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.mixing import BitCoder, mixing_tables
from splitreg.coding.temporal_state import (
    CHANGE_MIX,
    DIRECTION_MIX,
    DIRECTION_SLOTS,
    DISTANCE_MIX,
    MAX_COUNT,
    MAX_VOTES,
    NEIGHBOUR_SLOTS,
    NEVER,
    PAST_SLOTS,
    QUIET,
    QUIET_MIX,
    QUIET_SLOTS,
    SCORES,
    UNARY,
    FrameTables,
    History,
)  # fmt: skip
from splitreg.errors import CorruptPacket

_S = SCORES
_NEIGHBOURS = QUIET_SLOTS
_PAST = _NEIGHBOURS + NEIGHBOUR_SLOTS
_DIRECTIONS = _PAST + PAST_SLOTS
_DISTANCES = _DIRECTIONS + DIRECTION_SLOTS


def encode(symbols: NDArray[np.int32], history: History, tables: FrameTables, limit: int) -> bytes | None:
    """Encode (C, h, w) symbols into at most ``limit`` bytes; None: they do not fit, and the history must be discarded."""
    if np.array_equal(symbols, history.previous):
        _remember(history, symbols)
        return b""
    coder = BitCoder()
    _Frame(coder, history, tables, symbols).run()
    payload = coder.end() or b"\0"  # because an empty payload is a frame without change
    if max(coder.size, 1) > limit:
        return None
    _remember(history, symbols)
    return payload


def decode(payload: bytes, history: History, tables: FrameTables) -> NDArray[np.int32]:
    """Decode (C, h, w) symbols.

    Raises:
        CorruptPacket: not a payload of this history, which must be discarded.
    """
    symbols = history.previous.copy()
    if payload:
        if len(payload) > 1 and payload.endswith(b"\0"):
            raise CorruptPacket("the payload ends with a zero, which an encoder leaves out; it is damaged")
        coder = BitCoder(payload)
        _Frame(coder, history, tables, symbols).run()
        coder.end()
    _remember(history, symbols)
    return symbols


@dataclass(frozen=True, slots=True, kw_only=True)
class _Surroundings:
    """Of a symbol, as differences from what it was."""

    west: int
    north: int
    east: int
    south: int
    background: int
    alternative: int
    mode: int
    moved: int
    near: int
    history: int
    age: int
    count: int


class _Frame:
    def __init__(self, coder: BitCoder, history: History, tables: FrameTables, symbols: NDArray[np.int32]) -> None:
        self.coder, self.history, self.symbols = coder, history, symbols
        self.channels, self.height, self.width = symbols.shape
        rows = tables.indexes
        if rows is None:
            rows = np.broadcast_to(np.arange(self.channels)[:, None, None], symbols.shape)
        self.modes = tables.modes.astype(np.int64)[rows]
        distance = np.minimum(np.abs(history.previous.astype(np.int64) - self.modes), 4096)
        self.magnitude = np.minimum(distance * tables.inverses.astype(np.int64)[rows] >> 8, 64)
        self.changed, self.below, self.count = np.zeros((3, self.height + 4, self.width + 4), np.int64)

    def run(self) -> None:
        """Encode the symbols, or decode them."""
        before = 0
        rates = self.history.rates
        for c in range(self.channels):
            restless, busy = 0, before // (c + 1)
            for y in range(self.height):
                restless = self.row(c, y, busy, restless)
            total = int(self.changed.sum())
            before += total
            self.count = np.minimum(self.count + self.changed, MAX_COUNT)
            rates[c] = max(16, (7 * int(rates[c]) + 65535 * total // (self.height * self.width)) // 8)
            self.changed, self.below = np.zeros_like(self.changed), self.changed

    def score_row(self, c: int, y: int) -> NDArray[np.int64]:
        """Return (w,) logits of a change before the row's own symbols are known."""
        history, n, p = self.history, self.width, y + 2

        def around(plane: NDArray[np.int64]) -> NDArray[np.int64]:
            sides = plane[p, 1 : n + 1] + plane[p, 3 : n + 3]
            return np.asarray(sides + plane[p - 1, 2 : n + 2] + plane[p + 1, 2 : n + 2])

        up, age = self.changed[p - 1], history.age[c, y]
        away = history.previous[c, y] != history.background[c, y]
        score = _S.bias + up[2 : n + 2] * _S.north + up[1 : n + 1] * _S.northwest + up[3 : n + 3] * _S.northeast
        score += self.changed[p - 2, 2 : n + 2] * _S.north2
        score += self.below[p, 2 : n + 2] * _S.below + around(self.below) * _S.below4
        score += self.count[p, 2 : n + 2] * _S.channels + around(self.count) * _S.channels4
        score += (age < 2) * _S.age2 + (age < 4) * _S.age4 + (age < 12) * _S.age12 + (age < NEVER) * _S.aged
        return np.asarray(score + away * _S.away + (self.magnitude[c, y] * _S.magnitude >> 4))

    def row(self, c: int, y: int, busy: int, restless: int) -> int:
        """Code a row; return whether a quiet symbol of it changed."""
        history, coder = self.history, self.coder
        rate = int(mixing_tables().stretch[int(history.rates[c]) >> 4]) * _S.rate >> 8
        scores = self.score_row(c, y) + rate
        quiet = scores < QUIET
        hidden = int((quiet & (self.symbols[c, y] != history.previous[c, y])).any())
        if quiet.any():
            sharing = int(quiet.sum())
            slot = (min(7, sharing.bit_length()) * 16 + min(15, busy.bit_length())) * 2 + restless
            prior = rate + 90 * min(15, sharing.bit_length()) + _S.bias
            hidden = restless = coder.code(hidden, history.slots, [slot], prior, history.weights[QUIET_MIX], 255)
        changed = self.changed[y + 2]
        for x in range(self.width) if hidden else np.flatnonzero(~quiet).tolist():
            around = self.look_around(c, y, x)
            score = int(scores[x] + changed[x + 1] * _S.west + changed[x] * _S.west2) + (300 if quiet[x] else 0)
            level = max(0, min(15, (score + 2000) // 240))
            slots = [
                _NEIGHBOURS + around.near * 16 + level,
                _PAST + ((around.history * 4 + around.age) * 16 + level) * 8 + around.count,
            ]
            was, value = int(history.previous[c, y, x]), int(self.symbols[c, y, x])
            if coder.code(int(value != was), history.slots, slots, score, history.weights[CHANGE_MIX], 127):
                changed[x + 2] = 1
                self.symbols[c, y, x] = self.change(around, was, value)
        return restless

    def look_around(self, c: int, y: int, x: int) -> _Surroundings:
        """Return what surrounds a symbol."""
        history, symbols, previous = self.history, self.symbols, self.history.previous
        was = int(previous[c, y, x])
        west = int(symbols[c, y, x - 1]) - was if x else 0
        north = int(symbols[c, y - 1, x]) - was if y else 0
        east = int(previous[c, y, x + 1]) - was if x + 1 < self.width else 0
        south = int(previous[c, y + 1, x]) - was if y + 1 < self.height else 0
        known = [(c, y, x - 1)] * (x > 0) + [(c, y - 1, x)] * (y > 0) + [(c - 1, y, x)] * (c > 0)
        background = int(history.background[c, y, x]) - was
        alternative = int(history.alternative[c, y, x]) - was
        age = int(history.age[c, y, x])
        return _Surroundings(
            west=west, north=north, east=east, south=south, background=background, alternative=alternative,
            mode=int(self.modes[c, y, x]) - was,
            moved=max([min(3, abs(int(symbols[i]) - int(previous[i]))) for i in known], default=0),
            near=((_clamp(west, 2) + 2) * 5 + _clamp(north, 2) + 2) * 9 + (_sign(east) + 1) * 3 + _sign(south) + 1,
            history=(_sign(background) + 1) * 5 + _clamp(alternative, 2) + 2,
            age=0 if age < 2 else 1 if age < 4 else 2 if age < 12 else 3,
            count=min(7, int(self.count[y + 2, x + 2])),
        )  # fmt: skip

    def change(self, s: _Surroundings, was: int, value: int) -> int:
        """Code a symbol that differs from the previous one: its direction and its distance."""
        coder, slots, weights = self.coder, self.history.slots, self.history.weights
        first = _DIRECTIONS + (s.history * 4 + s.age) * 7 + _clamp(s.mode, 3) + 3
        up = coder.code(int(value > was), slots, [first, _DIRECTIONS + 420 + s.near], 0, weights[DIRECTION_MIX], 60)
        way = 1 if up else -1
        distance = way * (value - was)
        k = 1
        while k < UNARY:
            step = min(k, 7)
            relations = (_relation(way * s.alternative, k) * 4 + _relation(way * s.background, k)) * 4
            sides = (1 + _sign(way * s.west - k)) * 3 + 1 + _sign(way * s.north - k)
            ahead = (way * s.east > k) + (way * s.south > k)
            chosen = [
                _DISTANCES + (relations + _relation(way * s.mode, k)) * 8 + step,
                _DISTANCES + 512 + (s.moved * 8 + step) * 8 + s.count,
                _DISTANCES + 768 + (sides * 3 + ahead) * 8 + step,
            ]
            if not coder.code(int(distance > k), slots, chosen, -200, weights[DISTANCE_MIX + min(step - 1, 2)], 60):
                break
            k += 1
        else:
            k = UNARY - 1 + self.coder.code_gamma(distance - UNARY + 1)
        value = was + way * k
        if not -(2**31) <= value < 2**31:
            raise CorruptPacket("a symbol of the payload does not fit 32 bits; it is damaged")
        return value


def _remember(history: History, symbols: NDArray[np.int32]) -> None:
    differs = symbols != history.previous
    same = symbols == history.background
    votes = np.where(same, np.minimum(history.votes + 1, MAX_VOTES), history.votes - 1).astype(np.uint8)
    history.alternative[...] = np.where(differs, history.previous, history.alternative)
    history.background[...] = np.where(votes > 0, history.background, symbols)
    history.votes[...] = np.maximum(votes, 1)
    history.age[...] = np.where(differs, 1, np.minimum(history.age.astype(np.int32) + 1, NEVER))
    history.previous[...] = symbols


def _clamp(value: int, most: int) -> int:
    return max(-most, min(most, value))


def _sign(value: int) -> int:
    return (value > 0) - (value < 0)


def _relation(target: int, k: int) -> int:
    return 0 if target <= 0 else 1 if target == k else 2 if target > k else 3
