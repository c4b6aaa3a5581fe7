"""A decoder of compressai's streams in plain Python: slow, and safe for any input.

Written from the description of rANS (Duda 2013, arXiv:1311.2540) and of compressai's escapes.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import chain, repeat

from splitreg.errors import CorruptPacket

_LOWEST = 1 << 31
_MAX_NIBBLES = 7


def decode_slowly(
    payload: bytes, indexes: Sequence[int], cdfs: Sequence[list[int]], lengths: Sequence[int], offsets: Sequence[int]
) -> list[int]:
    """Decode one symbol per row index; words after the payload are zero.

    Args:
        payload: 32-bit little-endian words, at least two.
        indexes: row of each symbol.
        cdfs: cumulative frequencies of each row, from 0 to ``2**16``.
        lengths: number of entries in use of each row.
        offsets: value of the first symbol of each row.

    Raises:
        CorruptPacket: an escape of more than seven nibbles.
    """
    words: Iterator[int] = chain(struct.unpack(f"<{len(payload) // 4}I", payload), repeat(0))
    state = next(words) | next(words) << 32

    def nibble() -> int:
        nonlocal state
        value = state & 15
        state >>= 4
        if state < _LOWEST:
            state = state << 32 | next(words)
        return value

    symbols = []
    for row in indexes:
        cdf, escape = cdfs[row], lengths[row] - 2
        slot = state & 0xFFFF
        symbol = bisect_right(cdf, slot, 0, lengths[row]) - 1
        state = (cdf[symbol + 1] - cdf[symbol]) * (state >> 16) + slot - cdf[symbol]
        if state < _LOWEST:
            state = state << 32 | next(words)
        if symbol == escape:
            count = nibble()
            if count > _MAX_NIBBLES:
                raise CorruptPacket(f"the payload has an escape of more than {_MAX_NIBBLES} nibbles; it is damaged")
            folded = sum(nibble() << 4 * place for place in range(count))
            symbol = -(folded >> 1) - 1 if folded & 1 else escape + (folded >> 1)
        symbols.append(symbol + offsets[row])
    return symbols
