"""Codec ``rans``: interleaved range asymmetric numeral systems with tables that adapt to the image.

Every symbol is coded with a table of its channel and context. The context depends on the magnitudes
of the symbols above it and in the channels before. The tables start as powers of the model's
frequencies and are rebuilt from counts on the way. Both sides count the same integers, so nothing of
this is sent. If adaptation costs more than it saves, the encoder uses the tables unchanged and says
so in the payload's first byte.

A model with a ``ContextModel`` is coded with that instead, by a binary range coder.

The format is described in ``docs/wire-format.md``. Source: Duda 2013, arXiv:1311.2540; Giesen 2014,
arXiv:1402.3392.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections import OrderedDict
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from splitreg.coding import context_numpy, rans_kernel, rans_numpy, temporal_numpy
from splitreg.coding.codec import Codec
from splitreg.coding.context import ContextModel
from splitreg.coding.context_kernel import ContextKernel
from splitreg.coding.context_state import ContextTables
from splitreg.coding.rans_tables import Tables, derive_tables
from splitreg.coding.symbols import SymbolModel
from splitreg.coding.temporal import RansTemporalCoder
from splitreg.coding.temporal_kernel import TemporalKernel
from splitreg.errors import InvalidTables, RecipeError, ShapeMismatch

#: Number of models whose derived tables are cached.
_CACHED_MODELS = 8
#: Largest number of rows if every symbol has its own row: contexts are bytes.
MAX_INDEXED_ROWS = 256
#: Largest number of values of a latent.
MAX_SYMBOLS = 2**28
#: Largest width of a latent.
MAX_WIDTH = 2**16 - 1


class RansCodec(Codec):
    """Range ANS with 16-bit tables, one to eight interleaved states, and tables that adapt to the image.

    Args:
        adapt: adapt the tables to the image; otherwise they are used unchanged. A context model always adapts.
        kernel: ``"c"``, the C kernel; ``"numpy"``, the same format but slow; ``"auto"``, the C kernel
            if it was built.

    Raises:
        RecipeError: no such kernel, or ``kernel="c"`` and it was not built.
    """

    needs_tables: ClassVar[bool] = True
    max_bits: ClassVar[int] = 0
    lossless: ClassVar[bool] = True

    def __init__(self, *, adapt: bool = True, kernel: str = "auto") -> None:
        if kernel not in ("auto", "c", "numpy"):
            raise RecipeError(f"codec rans: kernel must be 'auto', 'c' or 'numpy', got {kernel!r}")
        self.adapt = adapt
        c_kernel = None if kernel == "numpy" else rans_kernel.load()
        if kernel == "c" and c_kernel is None:
            raise RecipeError(
                "codec rans: the C kernel was not built; install splitreg with a C compiler, or use kernel='auto'"
            )
        if kernel == "auto" and c_kernel is None:
            _warn_without_kernel()
        self._coder: Any = c_kernel or rans_numpy
        compiled = None if c_kernel is None else rans_kernel.library()
        self._context_coder: Any = context_numpy if compiled is None else ContextKernel(compiled)
        self._cache: OrderedDict[tuple[int, bool], tuple[Any, Tables]] = OrderedDict()
        self._contexts: OrderedDict[int, tuple[Any, ContextTables]] = OrderedDict()

    def encode(self, symbols: NDArray[np.int32], model: SymbolModel) -> bytes:
        """Encode (C, h, w) symbols.

        Raises:
            ShapeMismatch: C is not the model's number of channels, or there are no symbols or tables.
            InvalidLatent: a symbol has more bits than the model.
        """
        symbols = model.check_symbols(symbols)
        _check_limits(symbols.shape)
        if model.context is not None:
            return bytes(self._context_coder.encode(symbols, self._context_tables(model, model.context)))
        return bytes(self._coder.encode(symbols, model, self._tables(model), self.adapt))

    def encode_latent(self, latent: NDArray[np.float32], model: SymbolModel) -> bytes:
        """Quantise and encode a (C, h, w) float32 latent in one pass.

        Raises:
            ShapeMismatch: the latent has other channels than the model, or no element.
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
            CorruptPacket: the payload is not valid for this shape and model.
            ShapeMismatch: the shape does not fit the model, or there are no tables.
        """
        out = np.empty(self._checked(shape, model), np.int32)
        if model.context is not None:
            self._context_coder.decode(bytes(payload), out, self._context_tables(model, model.context))
            return out
        self._coder.decode(bytes(payload), out, model, self._tables(model))
        return model.check_decoded(out)

    def decode_latent(self, payload: bytes, shape: tuple[int, int, int], model: SymbolModel) -> NDArray[np.float32]:
        """Decode and dequantise in one pass: (C, h, w) float32.

        Raises:
            CorruptPacket: as ``decode``.
            ShapeMismatch: as ``decode``.
        """
        if model.bits or not _in_one_pass(model):  # symbols are checked before they are scaled
            return model.dequantise(self.decode(payload, shape, model))
        out = np.empty(self._checked(shape, model), np.float32)
        self._coder.decode(bytes(payload), out, model, self._tables(model))
        return out

    def temporal(self) -> RansTemporalCoder:
        """Return a coder for the frames of a stream."""
        compiled = None if self._coder is rans_numpy else rans_kernel.library()
        return RansTemporalCoder(temporal_numpy if compiled is None else TemporalKernel(compiled), self._tables)

    def _context_tables(self, model: SymbolModel, context: ContextModel) -> ContextTables:
        """Return what the context coder reads; cached as ``_tables``."""
        entry = self._contexts.get(id(model.cdf))
        if entry is None or entry[0] is not model.cdf or entry[1].context is not context:
            entry = model.cdf, ContextTables.of(model, context)
            self._contexts[id(model.cdf)] = entry
            while len(self._contexts) > _CACHED_MODELS:
                self._contexts.popitem(last=False)
        return entry[1]

    def _checked(self, shape: tuple[int, int, int], model: SymbolModel) -> tuple[int, int, int]:
        model.check_shape(shape)
        _check_limits(shape)
        return shape

    def _tables(self, model: SymbolModel) -> Tables:
        """Return the derived tables; cached for the latest models, identified by their array."""
        if not model.has_tables:
            raise ShapeMismatch("codec rans needs frequency tables, and the model has none; use codec zstd or raw")
        if model.indexes is not None and len(model.cdf) > MAX_INDEXED_ROWS:
            raise InvalidTables(
                f"codec rans supports at most {MAX_INDEXED_ROWS} rows of a hyperprior's tables, got {len(model.cdf)}"
            )
        key = id(model.cdf), model.indexes is None
        entry = self._cache.get(key)
        if entry is None or entry[0] is not model.cdf:
            entry = model.cdf, derive_tables(model)
            self._cache[key] = entry
            while len(self._cache) > _CACHED_MODELS:
                self._cache.popitem(last=False)
        return entry[1]


@functools.cache
def _warn_without_kernel() -> None:
    """State once what the missing kernel costs."""
    warnings.warn(
        "the C kernel of splitreg is not installed: rANS runs in numpy, some 300 times slower, with the same bytes; "
        "install a wheel for this platform, or install from source with a C compiler (splitreg edge info shows the kernel)",
        RuntimeWarning,
        stacklevel=4,
    )


def _check_limits(shape: tuple[int, ...]) -> None:
    """Check the limits of the kernel's counters.

    Raises:
        ShapeMismatch: the shape exceeds one.
    """
    if math.prod(shape) > MAX_SYMBOLS or shape[2] > MAX_WIDTH:
        raise ShapeMismatch(f"codec rans is limited to {MAX_SYMBOLS} symbols and a width of {MAX_WIDTH}, got {shape}")


def _in_one_pass(model: SymbolModel) -> bool:
    """Whether the kernel can quantise: modes round without a bound, and uniform."""
    return model.context is None and (model.mode == "uniform" or (model.mode == "round" and not model.bits))
