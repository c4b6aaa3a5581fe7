"""A binary range coder whose probabilities are learned: the tables of ``mixing.h``, and the same coder in Python.

Every bit is coded with a probability that is a weighted sum of others in the logistic domain: of adaptive probabilities
("slots"), chosen by what surrounds the bit, and of a fixed prior. Slots and weights learn from every bit. All arithmetic
is on integers, so both sides of a link compute the same.

Source: Mahoney 2005, "Adaptive weighing of context models for lossless data compression", Florida Tech CS-2005-16 (mixing);
Martin 1979, "Range encoding: an algorithm for removing redundancy from a digitised message" (coder).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import CorruptPacket

#: Logits are in 1/256 nats, at most this.
MAX_LOGIT = 2047
#: Largest number of slots of a mixer.
MAX_INPUTS = 4

#: exp(-1/256) in units of 2**-32.
_DECAY = 4278222805
_ONE = 1 << 32
_MAX_WEIGHT = 1 << 20
_EVEN = 1 << 15


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MixingTables:
    """Integer tables of the coder.

    Args:
        squash: (4096,) uint16, from a logit of -2048 to the probability in 1/65536.
        stretch: (4096,) int16, from a probability in 1/4096 to its logit.
        reciprocals: (256,) uint16, step size of a probability after n bits, in 1/65536.
    """

    squash: NDArray[np.uint16]
    stretch: NDArray[np.int16]
    reciprocals: NDArray[np.uint16]


@cache
def mixing_tables() -> MixingTables:
    """Return the tables, computed in integers."""
    decays = [_ONE]
    while len(decays) < MAX_LOGIT + 1:
        decays.append(decays[-1] * _DECAY >> 32)
    upper = [(_ONE << 16) // (_ONE + decay) for decay in decays]  # of logits from 0
    squash = np.array([1] + [(1 << 16) - p for p in upper[:0:-1]] + upper)
    middles = np.arange(4096) * 16 + 8
    return MixingTables(
        squash=squash.astype(np.uint16),
        stretch=(np.searchsorted(squash[:-1], middles) - 2048).clip(-MAX_LOGIT, MAX_LOGIT).astype(np.int16),
        reciprocals=np.array([655360 // (10 * n + 16) for n in range(256)], np.uint16),
    )


class BitCoder:
    """Encodes bits, or decodes those of a payload; the twin of ``mixing.h``.

    Args:
        payload: what to decode; None: encode.
    """

    def __init__(self, payload: bytes | None = None) -> None:
        tables = mixing_tables()
        self._squash: list[int] = tables.squash.tolist()
        self._stretch: list[int] = tables.stretch.tolist()
        self._reciprocals: list[int] = tables.reciprocals.tolist()
        self.decoding = payload is not None
        self._range, self._low, self._value = _ONE - 1, 0, 0
        self._payload, self._at = payload or b"", 0
        self._out = bytearray()
        self.size = 0  # of the payload, before zeros at its end are left out
        if self.decoding:
            self._value = int.from_bytes(self._payload[:4].ljust(4, b"\0"), "big")
            self._at = 4

    def code_with(self, bit: int, probability: int) -> int:
        """Encode or decode a bit that is 1 with a probability in 1/65536."""
        ones = (self._range >> 16) * probability
        if self.decoding:
            bit = int(self._value < ones)
            self._value -= 0 if bit else ones
            self._low = self._low + (0 if bit else ones) & (_ONE - 1)
        elif not bit:
            self._add(ones)
        self._range = ones if bit else self._range - ones
        while self._range < 1 << 24:
            if self.decoding:
                byte = self._payload[self._at] if self._at < len(self._payload) else 0
                self._at += 1
                self._value = self._value << 8 | byte
            else:
                self._out.append(self._low >> 24)
            self._low = self._low << 8 & (_ONE - 1)
            self._range <<= 8
        return bit

    def code_plain(self, value: int, count: int) -> int:
        """Encode or decode the lowest ``count`` bits of a value, with probability 1/2 each."""
        found = 0
        for shift in range(count - 1, -1, -1):
            found = found << 1 | self.code_with(value >> shift & 1, _EVEN)
        return found

    def code_gamma(self, value: int) -> int:
        """Encode or decode a number from 1 on, below ``2**33``, in Elias gamma code.

        Raises:
            CorruptPacket: the payload has a larger one.
        """
        value = 0 if self.decoding else value
        length = 1
        while self.code_with(int(value >> length != 0), _EVEN):
            length += 1
            if length > 33:
                raise CorruptPacket("a symbol of the payload does not fit 32 bits; it is damaged")
        return 1 << (length - 1) | self.code_plain(value, length - 1)

    def code(
        self,
        bit: int,
        slots: NDArray[np.uint32],
        chosen: Sequence[int],
        prior: int,
        weights: NDArray[np.int32],
        limit: int,
    ) -> int:
        """Encode or decode a bit, and learn from it.

        Args:
            bit: to encode.
            slots: all adaptive probabilities: 22 bits above a count of 10 bits.
            chosen: indexes of at most ``MAX_INPUTS`` of them.
            prior: logit of the probability before anything was seen.
            weights: of the chosen and, last, of the prior, in 1/65536.
            limit: bounds how slowly a slot learns.
        """
        prior = max(-MAX_LOGIT, min(MAX_LOGIT, prior))
        values = []
        for i in chosen:
            value = int(slots[i])
            values.append(value if value & 1023 else self._squash[prior + 2048] << 16 | 1)
        logits = [self._stretch[value >> 20] for value in values] + [prior]
        total = sum(int(weights[i]) * logit for i, logit in enumerate(logits)) >> 16
        p = self._squash[max(-MAX_LOGIT, min(MAX_LOGIT, total)) + 2048]
        bit = self.code_with(bit, p)
        error = (bit << 16) - p
        for i, logit in enumerate(logits):
            moved = int(weights[i]) + ((logit * error + (1 << 14)) >> 15)
            weights[i] = max(-_MAX_WEIGHT, min(_MAX_WEIGHT, moved))
        for i, value in zip(chosen, values, strict=True):
            slots[i] = self._learned(value, bit, limit)
        return bit

    def end(self) -> bytes:
        """Return the encoded payload, with as few bytes as identify its interval; nothing when decoding.

        Raises:
            CorruptPacket: the decoded payload is not the one that an encoder writes.
        """
        for bits in range(32, -1, -8):
            ones = (1 << bits) - 1
            end = (self._low + ones) & ~ones
            if end - self._low < self._range:
                break
        if self.decoding:
            if self._at < len(self._payload) or self._value != end - self._low:
                raise CorruptPacket("the payload is not one that an encoder writes; it is damaged")
            return b""
        self._add(end - self._low)
        self._out += self._low.to_bytes(4, "big")[: 4 - bits // 8]
        self.size = len(self._out)
        return bytes(self._out).rstrip(b"\0")

    def _add(self, amount: int) -> None:
        self._low += amount
        if self._low < _ONE:
            return
        self._low -= _ONE
        i = len(self._out) - 1
        while i >= 0 and self._out[i] == 255:
            self._out[i] = 0
            i -= 1
        if i >= 0:
            self._out[i] += 1

    def _learned(self, value: int, bit: int, limit: int) -> int:
        p, seen = value >> 10, value & 1023
        rate = self._reciprocals[seen]
        p = p + ((0x3FFFFF - p) * rate >> 16) if bit else p - (p * rate >> 16)
        return p << 10 | (seen + 1 if seen < limit else seen)
