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


class Mixing(ctypes.Structure):
    """The kernel's view of ``mixing_tables()``."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("squash", "stretch", "reciprocals")]

    @classmethod
    def of_tables(cls) -> Mixing:
        """Return the tables of this process; they are never freed."""
        tables = mixing_tables()
        return cls(address(tables.squash), address(tables.stretch), address(tables.reciprocals))


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
        self._mixing = Mixing.of_tables()
        self._scores = np.array(SCORES, np.int32)

    def encode(self, symbols: NDArray[np.int32], history: History, tables: FrameTables, limit: int) -> bytes | None:
        """Encode (C, h, w) symbols into at most ``limit`` bytes; None: they do not fit, and the history must be discarded."""
        out = np.empty(max(limit, 1), np.uint8)
        length = self._call("encode", symbols, history, tables, out, limit)
        return None if length < 0 else out[:length].tobytes()

    def decode(self, payload: bytes, history: History, tables: FrameTables) -> NDArray[np.int32]:
        """Decode (C, h, w) symbols.

        Raises:
            CorruptPacket: not a payload of this history, which must be discarded.
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
        arrays = (
            history.previous, history.background, history.alternative, history.votes, history.age, history.rates,
            history.slots, history.weights,
        )  # fmt: skip
        kept = _History(*symbols.shape, *map(address, arrays))
        indexes = None if tables.indexes is None else address(tables.indexes)
        frame = _Frame(
            address(tables.modes), address(tables.inverses), indexes, address(self._scores), address(symbols)
        )
        space = np.empty(self._library.sr_temporal_workspace(ctypes.addressof(kept)), np.uint8)
        function = getattr(self._library, f"sr_temporal_{name}")
        return int(
            function(
                ctypes.addressof(self._mixing),
                ctypes.addressof(kept),
                ctypes.addressof(frame),
                address(space),
                address(data),
                size,
            )
        )


def address(array: Any) -> int:
    """Return the address of an array's data."""
    return int(array.__array_interface__["data"][0])
