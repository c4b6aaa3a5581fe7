"""compressai's rANS coder with checks: its own decoder checks neither lengths nor escapes.

Facts about it (``rans_interface.cpp``, ``rans64.h``), and what follows from them:

- The stream consists of 32-bit words. Decoding starts with two of them; each step reads at most one.
- A symbol outside its row is coded as the last symbol of the row, then in nibbles: their number, then
  the nibbles. They are the low bits of a 64-bit state, so the number can grow only while the state and
  the next words consist of nibbles of 15.
- Zero words are appended to the payload. After 64 bits of them the state is zero and stays zero: every
  further symbol is the first of its row and reads one word. So after the payload a symbol reads at most
  four words, except for one last escape of at most 16 * (2 * run + 19) nibbles of one word each, where
  run is the longest run of 0xff bytes in the payload.
- The encoder writes beyond its buffer if there are fewer than three symbols, and never returns if an
  escape has 28 bits or more.

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

#: With fewer symbols the encoder overruns its buffer; the first symbol of row 0 is the padding.
MIN_SYMBOLS = 4
#: Escapes have at most seven nibbles; with eight the encoder does not return.
ESCAPE_BITS = 28
#: Payloads with a longer run of 0xff bytes go to the slow decoder, which needs no padding.
MAX_RUN = 1024

_Tables = tuple[list[list[int]], list[int], list[int]]


class CompressaiCodec(Codec):
    """rANS over 16-bit tables, with the bytes of compressai 1.2 for four symbols or more.

    A payload is valid only if its symbols encode to exactly the same payload.

    Raises:
        MissingExtra: compressai is not installed.
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
            ShapeMismatch: the shape is empty or does not fit the tables, or there are no tables.
            InvalidLatent: a symbol is more than ``2**27`` away from its table.
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
        """Decode symbols in time and memory that are bounded by the shape.

        Raises:
            CorruptPacket: the payload is not one that ``encode`` writes for this shape and model.
            ShapeMismatch: the shape does not fit the tables, or there are no tables.
        """
        model.check_shape(shape)
        _check_tables(model)
        filled, indexes = self._filled(shape, model)
        words, count = len(payload) // 4, len(filled)
        # A symbol takes at most 16 bits and an escape 4 + ESCAPE_BITS more; the coder loses less than 1.
        limit = 3 + count * (21 + ESCAPE_BITS) // 32
        if len(payload) % 4 or not 2 <= words <= limit:
            raise CorruptPacket(
                f"{math.prod(shape)} symbols take 8 to {4 * limit} bytes in steps of 4, the payload has {len(payload)}"
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
        """Return an array for the symbols, padded to ``MIN_SYMBOLS``, and the row of each."""
        indexes = model.rows(shape).ravel()
        missing = max(0, MIN_SYMBOLS - len(indexes))
        filled = np.full(len(indexes) + missing, model.offsets[0], np.int32)
        return filled, np.concatenate([indexes, np.zeros(missing, np.int32)]) if missing else indexes

    def _tables(self, model: SymbolModel) -> _Tables:
        """Return the tables as lists, which compressai takes; the last two are cached.

        A packet with a hyperprior uses two tables in turn, and models share them between images.
        """
        cached = self._cached  # read once: threads share a codec
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
    """Return the payload and as many zero words as decoding ``count`` symbols can read after it."""
    return payload + bytes(4 * (4 * count + 16 * (2 * longest_run(payload) + 24)))


def _check_tables(model: SymbolModel) -> None:
    if not model.has_tables:
        raise ShapeMismatch("codec compressai needs frequency tables, and this model has none; use codec zstd or raw")
