"""The rANS coder in numpy and plain integers: the bytes of the C kernel, some hundred times slower.

It is used if the kernel was not built, and to check the kernel in tests. The steps are those of
``rans.c``; the format is described in ``docs/wire-format.md``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding import leb128
from splitreg.coding.rans_tables import Tables
from splitreg.coding.symbols import SymbolModel
from splitreg.errors import CorruptPacket

_TOTAL = 1 << 16
_LOW = 1 << 32  # states are in [2**32, 2**48)
_LANES, _ADAPT, _ESCAPES = 3, 4, 8  # first byte of the payload: logarithm of the lanes, two flags, and
_SIXTH = 16  # from this bit on, one bit per lane: its state has a sixth byte
_SAMPLED = 4  # without adaptation, one row in four estimates the size
_ESCAPE_BYTES = 5  # largest size of an escaped value, and of the size of all of them
_THRESHOLDS = np.array([80, 200, 360, 600, 960])


def encode(values: NDArray[Any], model: SymbolModel, tables: Tables, adapt: bool) -> bytes:
    """Encode (C, h, w) int32 symbols, or a float32 latent.

    Raises:
        InvalidLatent: the latent is not finite, or beyond ``2**23``.
    """
    symbols = values if values.dtype == np.int32 else model.quantise(values)
    rows = model.rows(symbols.shape)
    last = tables.symbols[rows].astype(np.int64) - 1
    indexes = symbols - tables.offsets[rows].astype(np.int64)
    escaped = (indexes < 0) | (indexes >= last)
    folded = np.where(indexes < 0, -2 * indexes - 1, 2 * (indexes - last))
    escapes = b"".join(leb128.write(value) for value in folded[escaped].tolist())
    indexes = np.where(escaped, last, indexes)
    adapt = adapt and (tables.priors is not None or model.indexes is not None)
    while True:
        starts, frequencies, plain = _entries(indexes, model, tables, adapt)
        payload = _code(starts, frequencies, plain, adapt, escapes)
        if not adapt or len(payload) <= plain + 8 + len(escapes):
            return payload
        adapt = False  # adaptation costs more than it saves


def decode(payload: bytes, out: NDArray[Any], model: SymbolModel, tables: Tables) -> None:
    """Decode into a (C, h, w) array of int32 symbols or float32 latents.

    Raises:
        CorruptPacket: the payload is not valid for this shape and model.
    """
    reader = _PayloadReader(payload)
    lanes, adapt, states = reader.head()
    if adapt and tables.priors is None and model.indexes is None:
        raise _corrupt()
    channels, height, width = out.shape
    total = channels * height
    tail = _tail(total, lanes)
    symbols = np.empty(out.shape, np.int32)
    rows = model.rows(out.shape)
    bank = _AdaptiveTables(model, tables, adapt, width)
    for c in range(channels):
        bank.enter(c)
        for r in range(height):
            if lanes > 1 and c * height + r == total - tail:
                reader.append_states(states)
            context = bank.contexts(r, None if model.indexes is None else model.indexes[c, r])
            solo = c * height + r >= total - tail
            indexes = reader.row(states, bank, context.tolist(), 1 if solo else lanes)
            bank.leave(context, indexes)
            symbols[c, r] = tables.offsets[rows[c, r]].astype(np.int64) + indexes
            for i in np.flatnonzero(indexes == tables.symbols[rows[c, r]] - 1):
                symbols[c, r, i] = reader.escape(int(tables.offsets[rows[c, r, i]]), int(indexes[i]))
    reader.finish(states, lanes)
    out[...] = symbols if out.dtype == np.int32 else model.dequantise(symbols)


class _AdaptiveTables:
    """Adaptive tables: one per context of a channel, or per row that the symbols' indexes name."""

    def __init__(self, model: SymbolModel, tables: Tables, adapt: bool, width: int) -> None:
        self.model, self.tables, self.adapt, self.width = model, tables, adapt, width
        self.before: dict[int, NDArray[np.int64]] = {}  # row -> running mean of the magnitudes

    def enter(self, channel: int) -> None:
        """Start a channel with fresh tables, unless symbols have their own rows."""
        self.channel = channel
        if channel == 0 or self.model.indexes is None:
            self._reset(channel)

    def _reset(self, c: int) -> None:
        tables = self.tables
        if self.model.indexes is not None:
            self.priors, self.symbols, self.modes = tables.frequencies, tables.symbols, tables.modes
        else:
            adapted = self.adapt and tables.priors is not None
            self.priors = tables.priors[c] if adapted and tables.priors is not None else tables.frequencies[c : c + 1]
            self.symbols = np.repeat(tables.symbols[c], len(self.priors))
            self.modes = np.repeat(tables.modes[c], len(self.priors))
        self.priors = self.priors.astype(np.int64)
        self.frequencies = self.priors.copy()
        self.starts = self.frequencies.cumsum(1) - self.frequencies
        self.lists = [starts[:n].tolist() for starts, n in zip(self.starts, self.symbols, strict=True)]
        self.counts = np.zeros_like(self.priors)
        self.seen = np.zeros(len(self.priors), np.int64)
        self.next = np.array([_interval(0, int(n)) for n in self.symbols])
        self.above: list[NDArray[np.int64]] = []

    def contexts(self, r: int, indexes: NDArray[np.int32] | None) -> NDArray[np.int64]:
        """Return the table of each symbol of row r, after adapting to the rows before."""
        if self.adapt:
            for k in np.flatnonzero(self.seen >= self.next):
                self._update(int(k))
        if indexes is not None:
            return indexes.astype(np.int64)
        if not self.adapt:
            return np.zeros(self.width, np.int64)
        self.r = r
        before = self.before.get(r)
        if before is None:
            before = self.before[r] = np.full(self.width, 16, np.int64)
        if r == 0:
            local = 5 * before
        else:
            up = np.pad(self.above[-1], 1)
            second = self.above[-2] if r > 1 else 0
            local = 2 * up[1:-1] + up[:-2] + up[2:] + second
        score = 3 * local + 10 * before
        return np.asarray((score[:, None] > _THRESHOLDS).sum(1))

    def leave(self, context: NDArray[np.int64], indexes: NDArray[np.int64], counted: bool = True) -> None:
        """Count a row's symbols and store its magnitudes."""
        if not counted:
            return
        np.add.at(self.counts, (context, indexes), 1)
        if not self.adapt:
            return
        self.seen += np.bincount(context, minlength=len(self.seen))
        if self.model.indexes is None:
            distance = np.abs(indexes - self.modes[0])
            now = np.minimum(distance * int(self.tables.inverses[self.channel]) >> 8, 255)
            self.before[self.r] = (3 * self.before[self.r] + now) >> 2
            self.above = [*self.above[-1:], now]

    def _update(self, k: int) -> None:
        n = int(self.symbols[k])
        if self.seen[k] >> 20:
            self.counts[k] >>= 1
            self.seen[k] = self.counts[k].sum()
        scale = ((_TOTAL - n) << 31) // (_TOTAL + 1024 * int(self.seen[k]))
        frequencies = 1 + ((self.priors[k, :n] + 1024 * self.counts[k, :n]) * scale >> 31)
        frequencies[self.modes[k]] += _TOTAL - frequencies.sum()
        self.frequencies[k, :n] = frequencies
        self.starts[k, :n] = frequencies.cumsum() - frequencies
        self.lists[k] = self.starts[k, :n].tolist()
        self.next[k] = self.seen[k] + _interval(int(self.seen[k]), n)

    def cost(self) -> int:
        """Return the code length of the counted symbols by the model's tables, in 1/256 bits."""
        costs = self.tables.costs if self.model.indexes is not None else self.tables.costs[self.channel]
        return int((self.counts * costs.astype(np.int64)).sum())


def _entries(
    indexes: NDArray[np.int64], model: SymbolModel, tables: Tables, adapt: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return start and frequency of every symbol, and the code length by the model's tables in bytes."""
    channels, height, width = indexes.shape
    starts, frequencies = np.empty_like(indexes), np.empty_like(indexes)
    plain = 0
    bank = _AdaptiveTables(model, tables, adapt, width)
    for c in range(channels):
        bank.enter(c)
        for r in range(height):
            context = bank.contexts(r, None if model.indexes is None else model.indexes[c, r])
            starts[c, r] = bank.starts[context, indexes[c, r]]
            frequencies[c, r] = bank.frequencies[context, indexes[c, r]]
            bank.leave(context, indexes[c, r], adapt or (c * height + r) % _SAMPLED == 0)
        if model.indexes is None or c == channels - 1:
            plain += bank.cost()
    return starts, frequencies, (plain if adapt else plain * _SAMPLED) // 2048


def _code(starts: NDArray[np.int64], frequencies: NDArray[np.int64], plain: int, adapt: bool, escapes: bytes) -> bytes:
    width = starts.shape[2]
    log_lanes = sum(plain >= limit for limit in (2048, 10240, 16384))
    lanes = 1 << log_lanes
    entries = list(zip(starts.reshape(-1, width).tolist(), frequencies.reshape(-1, width).tolist(), strict=True))
    tail = len(entries) - _tail(len(entries), lanes)
    words: list[int] = []  # in the order of writing; they are read from the last to the first
    states = [_LOW] * lanes
    _put_rows(entries[tail:], states, 1, words)
    # The words written first, so read last, become the other lanes' initial states.
    initial = words[: 2 * (lanes - 1)]
    del words[: len(initial)]
    for i, word in enumerate(reversed(initial)):
        states[1 + i // 2] |= word << (0 if i % 2 else 16)
    _put_rows(entries[:tail], states, lanes, words)
    head = log_lanes | (_ADAPT if adapt else 0) | (_ESCAPES if escapes else 0)
    body = b""
    for lane, state in enumerate(states):
        sixth = lanes == 8 or bool(state >> 40)
        head |= _SIXTH << lane if sixth and lanes < 8 else 0
        body += state.to_bytes(6 if sixth else 5, "little")
    if escapes:
        body += leb128.write(len(escapes)) + escapes
    return bytes([head]) + body + np.array(words[::-1], "<u2").tobytes()


def _put_rows(entries: list[tuple[list[int], list[int]]], states: list[int], lanes: int, words: list[int]) -> None:
    for starts, frequencies in reversed(entries):
        for i in range(len(starts) - 1, -1, -1):
            x, f = states[i % lanes], frequencies[i]
            if x >= f << 32:
                words.append(x & 0xFFFF)
                x >>= 16
            states[i % lanes] = x // f * _TOTAL + starts[i] + x % f


class _PayloadReader:
    """Reads a payload; every read is checked."""

    def __init__(self, payload: bytes) -> None:
        self.payload, self.position = payload, 0
        self.escapes, self.escape_position = b"", 0
        self.words: Iterator[int] = iter(())
        self.left = 0

    def head(self) -> tuple[int, bool, list[int]]:
        flags = self._take(1)[0]
        lanes = 1 << (flags & _LANES)
        if flags >> 4 and (lanes == 8 or flags >> (4 + lanes)):
            raise _corrupt()
        states = []
        for lane in range(lanes):
            sixth = lanes == 8 or bool(flags & _SIXTH << lane)
            state = int.from_bytes(self._take(6 if sixth else 5), "little")
            if state < _LOW or (sixth and lanes < 8 and not state >> 40):
                raise _corrupt()
            states.append(state)
        if flags & _ESCAPES:
            count, self.position = leb128.read(self.payload, self.position, _ESCAPE_BYTES)
            if not count:
                raise _corrupt()
            self.escapes = self._take(count)
        rest = self.payload[self.position :]
        if len(rest) % 2:
            raise _corrupt()
        self._set(np.frombuffer(rest, "<u2").tolist())
        return lanes, bool(flags & _ADAPT), states

    def append_states(self, states: list[int]) -> None:
        """Append the other lanes' states, which hold the last words."""
        rest = list(self.words)
        for state in states[1:]:
            if state >> 32 != 1:
                raise _corrupt()
            rest += [state >> 16 & 0xFFFF, state & 0xFFFF]
        self._set(rest)

    def row(self, states: list[int], bank: _AdaptiveTables, context: list[int], lanes: int) -> NDArray[np.int64]:
        indexes = np.empty(len(context), np.int64)
        for i, k in enumerate(context):
            x = states[i % lanes]
            slot, starts = x & 0xFFFF, bank.lists[k]
            index = bisect_right(starts, slot) - 1
            end = starts[index + 1] if index + 1 < len(starts) else _TOTAL
            x = (end - starts[index]) * (x >> 16) + slot - starts[index]
            if x < _LOW:
                word = next(self.words, None)
                if word is None:
                    raise _corrupt()
                self.left -= 1
                x = x << 16 | word
            states[i % lanes] = x
            indexes[i] = index
        return indexes

    def escape(self, offset: int, last: int) -> int:
        """Read the value of an escaped symbol."""
        folded, self.escape_position = leb128.read(self.escapes, self.escape_position, _ESCAPE_BYTES)
        value = offset - 1 - (folded >> 1) if folded & 1 else offset + last + (folded >> 1)
        if not -(2**31) <= value < 2**31:
            raise _corrupt()
        return value

    def finish(self, states: list[int], lanes: int) -> None:
        """Check that everything was read, except for unused words of the other lanes' initial states."""
        if (
            states[0] != _LOW
            or self.left > 2 * (lanes - 1)
            or any(self.words)
            or self.escape_position < len(self.escapes)
        ):
            raise _corrupt()

    def _set(self, words: list[int]) -> None:
        self.words, self.left = iter(words), len(words)

    def _take(self, count: int) -> bytes:
        if len(self.payload) - self.position < count:
            raise _corrupt()
        self.position += count
        return self.payload[self.position - count : self.position]


def _interval(seen: int, symbols: int) -> int:
    """Return the number of symbols until the next update of a table."""
    return max(seen // 2, 32, symbols)


def _tail(rows: int, lanes: int) -> int:
    """Return the rows at the end that lane 0 codes alone; its words fill the other lanes' states."""
    return rows if lanes == 1 else max(1, rows // 128)


def _corrupt() -> CorruptPacket:
    return CorruptPacket("the payload is not valid for this model and shape; it is damaged or of another model")
