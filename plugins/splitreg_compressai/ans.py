"""compressai's rANS coder, made safe: its decoder checks nothing, neither lengths nor reads nor escapes.

What is known of it (``rans_interface.cpp``, ``rans64.h``) and what follows:

- The stream is 32-bit words; decoding begins with two of them. Every step takes at most one more.
- A symbol outside its row is coded as the row's last symbol and then in nibbles: how many, and those. Nibbles come off
  the low end of a 64-bit state, so a count can grow only while the state and the following words hold nibbles of 15.
- Words of zero are put after the payload. Once 64 bits of them have been taken off in nibbles the state is zero, and
  then stays so: every further symbol is the first of its row and takes one word. So past the payload a symbol takes at
  most four words, except for one last escape of at most 16 * (2 * run + 19) nibbles, one word each, where run is the
  longest run of 0xff bytes in the payload.
- The encoder writes beyond its buffer below three symbols, and loops for ever on escapes of 28 bits or more.

Source: Bégaint et al. 2020, arXiv:2011.03029; Duda 2013, arXiv:1311.2540.
"""

from __future__ import annotations

import math
import re
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from splitreg.coding import Codec, SymbolModel
from splitreg.errors import CorruptPacket, InvalidLatent, MissingExtra, ShapeMismatch
from splitreg_compressai.slow_decoder import decode_slowly

#: Fewer symbols than this overrun the encoder's buffer; the first symbol of row 0 fills up.
MIN_SYMBOLS = 4
#: Escaped values are coded in at most seven nibbles; the encoder's shift by eight would never end.
ESCAPE_BITS = 28
#: Payloads with a longer run of 0xff are decoded by the slow decoder, which needs no space after them.
MAX_RUN = 1024

_Tables = tuple[list[list[int]], list[int], list[int]]


class CompressaiCodec(Codec):
    """Range ANS over 16-bit tables, byte for byte what compressai 1.2 writes (for four symbols or more).

    A payload is accepted only if its symbols encode to exactly the same payload.
    """

    needs_tables: ClassVar[bool] = True
    max_bits: ClassVar[int] = 0
    lossless: ClassVar[bool] = True

    def __init__(self) -> None:
        try:
            from compressai import ans  # takes seconds: only where the coder is used
        except ModuleNotFoundError as cause:
            raise MissingExtra(
                f"codec compressai needs {cause.name}, which is not installed; pip install 'splitreg[full]', or use codec rans"
            ) from cause
        self._encoder, self._decoder = ans.RansEncoder, ans.RansDecoder
        self._cached: tuple[tuple[NDArray[np.int32], _Tables], ...] = ()

    def encode(self, symbols: NDArray[np.int32], model: SymbolModel) -> bytes:
        """Code (C, h, w) symbols.

        Raises:
            ShapeMismatch: C is not the tables' number of channels, there is nothing to code, or there are no tables.
            InvalidLatent: a symbol is further than ``2**27`` from its table, which this coder cannot escape.
        """
        symbols = model.check_symbols(symbols)
        _check_tables(model)
        rows = model.rows(symbols.shape)
        values = symbols.astype(np.int64) - model.offsets[rows]
        last = model.lengths[rows].astype(np.int64) - 2
        raw = np.where(values < 0, -2 * values - 1, 2 * (values - last))
        if raw.max() >= 1 << ESCAPE_BITS:
            raise InvalidLatent("a symbol is too far outside the tables for compressai's coder; use codec rans or zstd")
        filled, indexes = self._filled(symbols.shape, model)
        filled[: symbols.size] = symbols.ravel()
        return bytes(self._encoder().encode_with_indexes(filled.tolist(), indexes.tolist(), *self._tables(model)))

    def decode(self, payload: bytes, shape: tuple[int, int, int], model: SymbolModel) -> NDArray[np.int32]:
        """Decode ``shape`` symbols, in time and memory bounded by the shape.

        Raises:
            CorruptPacket: the payload is not one that ``encode`` writes for this shape and model.
            ShapeMismatch: the shape does not fit the tables, or there are no tables.
        """
        model.check_shape(shape)
        _check_tables(model)
        filled, indexes = self._filled(shape, model)
        words, count = len(payload) // 4, len(filled)
        # A symbol takes at most 16 bits, an escape 4 + ESCAPE_BITS more, and the coder's loss is far below 1.
        most = 3 + count * (21 + ESCAPE_BITS) // 32
        if len(payload) % 4 or not 2 <= words <= most:
            raise CorruptPacket(
                f"{math.prod(shape)} symbols take 8 to {4 * most} bytes in steps of 4, the payload has {len(payload)}"
            )
        tables = self._tables(model)
        if longest_run(payload) > MAX_RUN:
            decoded = decode_slowly(payload, indexes.tolist(), *tables)
        else:
            decoded = self._decoder().decode_with_indexes(padded(payload, count), indexes.tolist(), *tables)
        symbols = np.array(decoded[: math.prod(shape)], np.int32).reshape(shape)
        try:
            again = self.encode(symbols, model)
        except InvalidLatent as cause:
            raise CorruptPacket("the payload decodes to impossible symbols; it is damaged") from cause
        if again != payload:
            raise CorruptPacket("the payload is not what its symbols encode to; it is damaged or of another shape")
        return symbols

    def _filled(self, shape: tuple[int, ...], model: SymbolModel) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return room for the symbols, filled up to ``MIN_SYMBOLS``, and the row of each."""
        indexes = model.rows(shape).ravel()
        missing = max(0, MIN_SYMBOLS - len(indexes))
        filled = np.full(len(indexes) + missing, model.offsets[0], np.int32)
        return filled, np.concatenate([indexes, np.zeros(missing, np.int32)]) if missing else indexes

    def _tables(self, model: SymbolModel) -> _Tables:
        """Return the tables as the lists that compressai wants; kept for the last two, whose arrays are read-only.

        A hyperprior's packet takes two tables in turn, and its models share theirs from image to image.
        """
        cached = self._cached  # read once: threads of a server share a codec
        for cdf, lists in cached:
            if cdf is model.cdf:
                return lists
        lists = model.cdf.tolist(), model.lengths.tolist(), model.offsets.tolist()
        self._cached = ((model.cdf, lists), *cached[:1])
        return lists


def longest_run(payload: bytes) -> int:
    """Return the length of the longest run of 0xff bytes."""
    return max(map(len, re.findall(rb"\xff+", payload)), default=0)


def padded(payload: bytes, count: int) -> bytes:
    """Return the payload and as many words of zero as decoding ``count`` symbols can read past it."""
    return payload + bytes(4 * (4 * count + 16 * (2 * longest_run(payload) + 24)))


def _check_tables(model: SymbolModel) -> None:
    if not model.has_tables:
        raise ShapeMismatch("codec compressai needs frequency tables, and this model has none; use codec zstd or raw")
