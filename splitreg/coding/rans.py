"""Codec ``rans``: interleaved range asymmetric numeral systems over tables that learn from the image they code.

Every symbol is coded with a table of its channel and context, which is told by the magnitudes of the symbols above it and
of the channels before; the tables begin as powers of the model's frequencies and are rebuilt from counts as they go. Both
sides count the same integers, so nothing of this is sent. Where a latent follows its tables so well that learning costs
more than it gives, the encoder leaves them as they are and says so in the payload's first byte.

The format is described in ``docs/wire-format.md``. Source: Duda 2013, arXiv:1311.2540; Giesen 2014, arXiv:1402.3392.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from splitreg.coding import rans_kernel, rans_numpy, temporal_numpy
from splitreg.coding.codec import Codec
from splitreg.coding.rans_tables import Tables, derive
from splitreg.coding.symbols import SymbolModel
from splitreg.coding.temporal import RansTemporalCoder
from splitreg.coding.temporal_kernel import TemporalKernel
from splitreg.errors import InvalidTables, RecipeError, ShapeMismatch

#: Models whose derived tables are kept.
_KEPT = 8
#: Symbols that name their rows can choose among so many: contexts are bytes.
MOST_NAMED = 256
#: A latent has at most this many values.
MOST_SYMBOLS = 2**28
#: A row of it has at most so many.
MOST_WIDTH = 2**16 - 1


class RansCodec(Codec):
    """Range ANS with 16-bit tables, one to eight interleaved states, and tables that adapt to the image.

    Args:
        adapt: let the tables learn; without it they are used as they are.
        kernel: ``"auto"`` takes the C kernel where it was built, ``"c"`` insists on it, ``"numpy"`` is the slow twin.

    Raises:
        RecipeError: no such kernel, or ``kernel="c"`` where it was not built.
    """

    needs_tables: ClassVar[bool] = True
    max_bits: ClassVar[int] = 0
    lossless: ClassVar[bool] = True

    def __init__(self, *, adapt: bool = True, kernel: str = "auto") -> None:
        if kernel not in ("auto", "c", "numpy"):
            raise RecipeError(f"codec rans: kernel must be 'auto', 'c' or 'numpy', got {kernel!r}")
        self.adapt = adapt
        found = None if kernel == "numpy" else rans_kernel.load()
        if kernel == "c" and found is None:
            raise RecipeError(
                "codec rans: the C kernel was not built here; install splitreg where a C compiler is, or use kernel='auto'"
            )
        self._coder: Any = found or rans_numpy
        self._kept: OrderedDict[tuple[int, bool], tuple[Any, Tables]] = OrderedDict()

    def encode(self, symbols: NDArray[np.int32], model: SymbolModel) -> bytes:
        """Code (C, h, w) symbols.

        Raises:
            ShapeMismatch: C is not the tables' number of channels, there is nothing to code, or there are no tables.
            InvalidLatent: a symbol has more bits than the model.
        """
        symbols = model.check_symbols(symbols)
        _check_limits(symbols.shape)
        return bytes(self._coder.encode(symbols, model, self._tables(model), self.adapt))

    def encode_latent(self, latent: NDArray[np.float32], model: SymbolModel) -> bytes:
        """Quantise and code a (C, h, w) float32 latent in one pass.

        Raises:
            ShapeMismatch: the latent has other channels than the tables, or no element.
            InvalidLatent: NaN, infinite or huge values.
        """
        if not _in_one_pass(model):
            return self.encode(model.quantise(latent), model)
        latent = np.ascontiguousarray(latent, np.float32)
        model.check_shape(latent.shape)
        _check_limits(latent.shape)
        return bytes(self._coder.encode(latent, model, self._tables(model), self.adapt))

    def decode(self, payload: bytes, shape: tuple[int, int, int], model: SymbolModel) -> NDArray[np.int32]:
        """Decode ``shape`` symbols, in time and memory bounded by the shape.

        Raises:
            CorruptPacket: the payload is not one that ``encode`` writes for this shape and model.
            ShapeMismatch: the shape does not fit the tables, or there are no tables.
        """
        out = np.empty(self._checked(shape, model), np.int32)
        self._coder.decode(bytes(payload), out, model, self._tables(model))
        return model.check_decoded(out)

    def decode_latent(self, payload: bytes, shape: tuple[int, int, int], model: SymbolModel) -> NDArray[np.float32]:
        """Decode and dequantise in one pass: (C, h, w) float32.

        Raises:
            CorruptPacket: as ``decode``.
            ShapeMismatch: as ``decode``.
        """
        if model.bits or not _in_one_pass(model):  # symbols must be checked before they are scaled
            return model.dequantise(self.decode(payload, shape, model))
        out = np.empty(self._checked(shape, model), np.float32)
        self._coder.decode(bytes(payload), out, model, self._tables(model))
        return out

    def temporal(self) -> RansTemporalCoder:
        """Return a coder for the frames of a stream."""
        compiled = None if self._coder is rans_numpy else rans_kernel.library()
        return RansTemporalCoder(temporal_numpy if compiled is None else TemporalKernel(compiled), self._tables)

    def encode_many(
        self, latents: Sequence[NDArray[np.float32]], model: SymbolModel, *, threads: int | None = None
    ) -> list[bytes]:
        """Code the latents of a batch on several threads (default: one a CPU); the same bytes as one by one."""
        from concurrent.futures import ThreadPoolExecutor  # a device that codes one image at a time never needs it

        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            return list(pool.map(lambda latent: self.encode_latent(latent, model), latents))

    def decode_many(
        self, payloads: Sequence[bytes], shape: tuple[int, int, int], model: SymbolModel, *, threads: int | None = None
    ) -> list[NDArray[np.float32]]:
        """Decode the latents of a batch on several threads."""
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            return list(pool.map(lambda payload: self.decode_latent(payload, shape, model), payloads))

    def _checked(self, shape: tuple[int, int, int], model: SymbolModel) -> tuple[int, int, int]:
        model.check_shape(shape)
        _check_limits(shape)
        return shape

    def _tables(self, model: SymbolModel) -> Tables:
        """Return the derived tables; kept for the last models, which are told apart by their read-only arrays."""
        if not model.has_tables:
            raise ShapeMismatch("codec rans needs frequency tables, and this model has none; use codec zstd or raw")
        if model.indexes is not None and len(model.cdf) > MOST_NAMED:
            raise InvalidTables(f"codec rans takes at most {MOST_NAMED} rows that symbols name, got {len(model.cdf)}")
        key = id(model.cdf), model.indexes is None
        kept = self._kept.get(key)
        if kept is None or kept[0] is not model.cdf:
            kept = model.cdf, derive(model)
            self._kept[key] = kept
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return kept[1]


def _check_limits(shape: tuple[int, ...]) -> None:
    """Refuse what the kernel's counters do not hold.

    Raises:
        ShapeMismatch: says which limit.
    """
    if math.prod(shape) > MOST_SYMBOLS or shape[2] > MOST_WIDTH:
        raise ShapeMismatch(f"codec rans ends at {MOST_SYMBOLS} symbols and a width of {MOST_WIDTH}, got {shape}")


def _in_one_pass(model: SymbolModel) -> bool:
    """Whether the kernel can quantise: it rounds without a bound, or to a uniform quantiser's bits."""
    return model.mode == "uniform" or (model.mode == "round" and not model.bits)
