"""``RansTemporalCoder``: the symbols of a stream's frames, each coded given the frames before it.

The format is described in ``docs/wire-format.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.codec import TemporalCoder
from splitreg.coding.rans_tables import Tables
from splitreg.coding.symbols import SymbolModel
from splitreg.coding.temporal_kernel import TemporalKernel
from splitreg.coding.temporal_state import FrameTables, History
from splitreg.errors import CorruptPacket, ShapeMismatch


class RansTemporalCoder(TemporalCoder):
    """Adaptive context mixing with contexts from the frames before.

    Args:
        kernel: the C kernel's, or its twin ``temporal_numpy``.
        tables: derives the coder's tables of a model.
    """

    def __init__(self, kernel: TemporalKernel | ModuleType, tables: Callable[[SymbolModel], Tables]) -> None:
        self._kernel, self._tables = kernel, tables
        self._history: History | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return 0 if self._history is None else self._history.nbytes

    @property
    def previous(self) -> NDArray[np.int32]:
        """(C, h, w) symbols of the frame before."""
        return self._state().previous

    def begin(self, symbols: NDArray[np.int32]) -> None:
        """Begin again after a key frame of (C, h, w) symbols."""
        self._history = History.begin(np.ascontiguousarray(symbols, np.int32))

    def translate(self, requantise: Callable[[NDArray[np.int32]], NDArray[np.int32]]) -> None:
        """Replace all symbols by what they are under other tables."""
        self._state().translate(requantise)

    def encode(self, symbols: NDArray[np.int32], model: SymbolModel, *, limit: int) -> bytes | None:
        """Encode (C, h, w) symbols in at most ``limit`` bytes, in none where nothing changed.

        Returns:
            The payload, or None where it does not fit; begin again with a key frame then.

        Raises:
            ShapeMismatch: the symbols are not of the key frame's shape.
            InvalidLatent: a symbol has more bits than the model.
        """
        history = self._state()
        symbols = model.check_symbols(symbols)
        if symbols.shape != history.previous.shape:
            raise ShapeMismatch(f"the stream's symbols are {history.previous.shape}, got {symbols.shape}")
        payload: bytes | None = self._kernel.encode(symbols, history, self._of(model), limit)
        return payload

    def decode(self, payload: bytes, model: SymbolModel) -> NDArray[np.int32]:
        """Decode (C, h, w) symbols.

        Raises:
            CorruptPacket: not a payload of this state.
        """
        history = self._state()
        symbols: NDArray[np.int32] = self._kernel.decode(payload, history, self._of(model))
        return model.check_decoded(symbols)

    def _state(self) -> History:
        if self._history is None:
            raise CorruptPacket("the stream has no key frame yet")
        return self._history

    def _of(self, model: SymbolModel) -> FrameTables:
        return FrameTables.of(self._tables(model), model.indexes)
