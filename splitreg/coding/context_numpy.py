"""Coding with a context model in numpy and plain integers: the same as ``context.c``, byte for byte, far slower."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.context import FRACTION, MAX_INPUT, NEIGHBOURS, STEPS
from splitreg.coding.context_state import (
    LEVELS,
    SIGN_MIX,
    STEP_MIX,
    ZERO_MIX,
    ContextTables,
    first_weights,
    slot_count,
)  # fmt: skip
from splitreg.coding.mixing import BitCoder
from splitreg.errors import CorruptPacket


def encode(symbols: NDArray[np.int32], tables: ContextTables) -> bytes:
    """Encode (C, h, w) symbols."""
    coder = BitCoder()
    _Plane(coder, tables, symbols).run()
    return coder.end()


def decode(payload: bytes, out: NDArray[np.int32], tables: ContextTables) -> None:
    """Decode into (C, h, w) symbols.

    Raises:
        CorruptPacket: not a payload of this shape and these tables.
    """
    if payload.endswith(b"\0"):
        raise CorruptPacket("the payload ends with a zero, which an encoder leaves out; it is damaged")
    coder = BitCoder(payload)
    _Plane(coder, tables, out).run()
    coder.end()


class _Plane:
    def __init__(self, coder: BitCoder, tables: ContextTables, symbols: NDArray[np.int32]) -> None:
        self.coder, self.tables, self.symbols = coder, tables, symbols
        channels, height, width = symbols.shape
        self.slots, self.weights = np.zeros(slot_count(channels), np.uint32), first_weights()
        self.known = np.zeros((height + 2, width + 4, 2 * channels), np.int64)  # symbols by sign, padded

    def run(self) -> None:
        """Encode the symbols, or decode them."""
        context = self.tables.context
        _, height, width = self.symbols.shape
        weights = [
            layer.weight[:, :, 0, 0].astype(np.int64) for layer in (context.around, context.hidden, context.here)
        ]
        around, hidden, here = weights
        for y in range(height):
            for x in range(width):
                inputs = [self.known[y + 2 + row, x + 2 + column] for row, column in NEIGHBOURS]
                units = context.around.shifted(
                    around @ np.concatenate([*inputs, [context.level]]) + context.around.bias
                )
                units = context.hidden.shifted(hidden @ units + context.hidden.bias)
                self.position(y, x, here[:, : context.width] @ units, here[:, context.width :])

    def position(self, y: int, x: int, sums: NDArray[np.int64], here: NDArray[np.int64]) -> None:
        """Code the symbols of all channels at a position."""
        context, channels = self.tables.context, len(self.symbols)
        output = self.tables.output.astype(np.int64)
        bias = context.logits.bias.reshape(channels, 3).astype(np.int64)
        sums = sums + context.here.bias
        known = self.known[y + 2, x + 2]
        for c in range(channels):
            units = context.here.shifted(sums[c * context.units : (c + 1) * context.units])
            corrections = context.logits.shifted(output[c] @ units + bias[c])
            symbol = self.symbol(c, int(self.symbols[c, y, x]), corrections.tolist())
            self.symbols[c, y, x] = symbol
            if symbol:
                source = c if symbol > 0 else channels + c
                known[source] = min(abs(symbol), MAX_INPUT)
                sums += here[:, source] * (known[source] << FRACTION)

    def symbol(self, c: int, symbol: int, corrections: list[int]) -> int:
        """Encode or decode a symbol of channel c."""
        coder, logits = self.coder, self.tables.logits[c].tolist()
        symbol = 0 if coder.decoding else symbol
        prior = logits[0] + corrections[0]
        if not self.bit(int(symbol != 0), c * LEVELS + _level(prior), prior, ZERO_MIX):
            return 0
        prior = logits[1] + corrections[1]
        first = len(self.symbols) * LEVELS
        positive = self.bit(int(symbol > 0), first + c * LEVELS + _level(prior), prior, SIGN_MIX)
        size = 1
        while size <= STEPS:
            prior = logits[1 + size] + corrections[2]
            if not self.bit(int(abs(symbol) > size), 2 * first + (size - 1) * LEVELS + _level(prior), prior, STEP_MIX):
                break
            size += 1
        else:
            size = self.tail(c, bool(positive), abs(symbol))
        symbol = size if positive else -size
        if not -(2**31) <= symbol < 2**31:
            raise CorruptPacket("a symbol of the payload does not fit 32 bits; it is damaged")
        return symbol

    def tail(self, c: int, positive: bool, size: int) -> int:
        """Code how far a symbol is from zero, beyond all steps, by the tables: escape or not, then by bisection."""
        coder, sign = self.coder, 1 if positive else -1
        cdf, offset = self.tables.cdf[c].tolist(), int(self.tables.offsets[c])
        escape, far = int(self.tables.lengths[c]) - 2, sign * (STEPS + 1) - offset
        low, high = (max(far, 0), escape) if positive else (0, min(far + 1, escape))
        index = sign * size - offset
        escaped = high <= low
        if not escaped:
            outside = cdf[escape + 1] - cdf[escape]
            escaped = bool(
                coder.code_with(int(not low <= index < high), _part(outside, outside + cdf[high] - cdf[low]))
            )
        if escaped:
            found = STEPS + coder.code_gamma(size - STEPS)
            if low <= sign * found - offset < high:
                raise CorruptPacket("a symbol of the payload is escaped without need; it is damaged")
            return found
        while high - low > 1:
            middle = (low + high) // 2
            part = _part(cdf[high] - cdf[middle], cdf[high] - cdf[low])
            low, high = (middle, high) if coder.code_with(int(index >= middle), part) else (low, middle)
        return sign * (low + offset)

    def bit(self, bit: int, slot: int, prior: int, mix: int) -> int:
        """Code a decision."""
        return self.coder.code(bit, self.slots, [slot], prior, self.weights[mix], 255)


def _part(part: int, whole: int) -> int:
    """Return the probability of a part of a whole, in 1/65536."""
    return max(1, min(65535, (part << 16) // whole))


def _level(logit: int) -> int:
    return max(0, min(LEVELS - 1, (logit + 2048) >> 8))
