"""Temporal coding by the C kernel, called on numpy's arrays."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.mixing import mixing_tables
from splitreg.coding.temporal_state import SCORES, SLOTS, FrameTables, History
from splitreg.errors import CorruptPacket

_CORRUPT = -1


class _Mixing(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("squash", "stretch", "reciprocals")]


class _History(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_int32) for name in ("channels", "height", "width")]
        + [(name, ctypes.c_void_p) for name in (
            "previous", "background", "alternative", "votes", "age", "rates", "slots", "weights",
        )]
    )  # fmt: skip


class _Frame(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("modes", "inverses", "indexes", "scores", "symbols")]


class TemporalKernel:
    """``temporal_numpy``'s functions through the C library.

    Args:
        library: the opened library.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        for name, arguments in {
            "slots": [], "workspace": [pointer], "encode": [pointer] * 5 + [number], "decode": [pointer] * 5 + [number],
        }.items():  # fmt: skip
            function = getattr(library, f"sr_temporal_{name}")
            function.argtypes, function.restype = arguments, number
        self._library = library
        if library.sr_temporal_slots() != SLOTS:
            raise OSError("the compiled kernel is of another version of splitreg; install splitreg again")
        tables = mixing_tables()
        self._mixing = _Mixing(_at(tables.squash), _at(tables.stretch), _at(tables.reciprocals))
        self._scores = np.array(SCORES, np.int32)

    def encode(self, symbols: NDArray[np.int32], history: History, tables: FrameTables, limit: int) -> bytes | None:
        """Encode (C, h, w) symbols into at most ``limit`` bytes; None: they do not fit, and the history is of no use."""
        out = np.empty(max(limit, 1), np.uint8)
        length = self._call("encode", symbols, history, tables, out, limit)
        return None if length < 0 else out[:length].tobytes()

    def decode(self, payload: bytes, history: History, tables: FrameTables) -> NDArray[np.int32]:
        """Decode (C, h, w) symbols.

        Raises:
            CorruptPacket: not a payload of this history; the history is of no use after it.
        """
        symbols = np.empty_like(history.previous)
        data = np.frombuffer(payload or b"\0", np.uint8)
        if self._call("decode", symbols, history, tables, data, len(payload)) == _CORRUPT:
            raise CorruptPacket("the payload is not one of this stream's state; it is damaged")
        return symbols

    def _call(
        self,
        name: str,
        symbols: NDArray[np.int32],
        history: History,
        tables: FrameTables,
        data: NDArray[np.uint8],
        size: int,
    ) -> int:
        kept = _History(
            *symbols.shape, _at(history.previous), _at(history.background), _at(history.alternative), _at(history.votes),
            _at(history.age), _at(history.rates), _at(history.slots), _at(history.weights),
        )  # fmt: skip
        indexes = None if tables.indexes is None else _at(tables.indexes)
        frame = _Frame(_at(tables.modes), _at(tables.inverses), indexes, _at(self._scores), _at(symbols))
        space = np.empty(self._library.sr_temporal_workspace(ctypes.addressof(kept)), np.uint8)
        function = getattr(self._library, f"sr_temporal_{name}")
        return int(
            function(
                ctypes.addressof(self._mixing),
                ctypes.addressof(kept),
                ctypes.addressof(frame),
                _at(space),
                _at(data),
                size,
            )
        )


def _at(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
