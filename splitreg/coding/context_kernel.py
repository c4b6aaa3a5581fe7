"""Coding with a context model by the C kernel, called on numpy's arrays."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.context_state import ContextTables, first_weights
from splitreg.coding.temporal_kernel import Mixing, address
from splitreg.errors import CorruptPacket

_CORRUPT = -1


class _Rule(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int32) for name in ("shift", "low", "high")]


class _Context(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_int32) for name in ("channels", "width", "units", "level", "stride")]
        + [(name, ctypes.c_void_p) for name in (
            "cdf", "lengths", "offsets", "table_logits", "around", "hidden", "here", "output", "around_bias", "hidden_bias",
            "here_bias", "output_bias", "first_weights",
        )]
        + [("rules", _Rule * 4)]
    )  # fmt: skip


class ContextKernel:
    """``context_numpy``'s functions through the C library.

    Args:
        library: the opened library.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, number, size = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
        plane = [pointer, pointer, pointer, pointer, size, size, pointer, number]
        for name, arguments in {"encode": plane, "decode": plane}.items():
            function = getattr(library, f"sr_context_{name}")
            function.argtypes, function.restype = arguments, number
        self._library = library
        self._mixing = Mixing.of_tables()
        self._described = lru_cache(8)(_describe)

    def encode(self, symbols: NDArray[np.int32], tables: ContextTables) -> bytes:
        """Encode (C, h, w) symbols."""
        room = symbols.size // 4 + 1024
        while True:  # twice the room where it is too small
            out = np.empty(room, np.uint8)
            length = self._call("encode", symbols, tables, out, room)
            if length >= 0:
                return out[:length].tobytes()
            room *= 2

    def decode(self, payload: bytes, out: NDArray[np.int32], tables: ContextTables) -> None:
        """Decode into (C, h, w) symbols.

        Raises:
            CorruptPacket: not a payload of this shape and these tables.
        """
        data = np.frombuffer(payload or b"\0", np.uint8)
        if self._call("decode", out, tables, data, len(payload)) == _CORRUPT:
            raise CorruptPacket("the payload is not valid for this model and shape; it is damaged or of another model")

    def _call(
        self, name: str, symbols: NDArray[np.int32], tables: ContextTables, data: NDArray[np.uint8], size: int
    ) -> int:
        described, _, height, width = self._described(tables), *symbols.shape
        place = ctypes.addressof(described)
        space = np.empty(tables.workspace(width), np.uint8)
        function = getattr(self._library, f"sr_context_{name}")
        mixing = ctypes.addressof(self._mixing)
        return int(function(mixing, place, address(space), address(symbols), height, width, address(data), size))


def _describe(tables: ContextTables) -> _Context:
    context = tables.context
    layers: list[Any] = [context.around, context.hidden, context.here, context.logits]
    weights = first_weights()
    described = _Context(
        context.channels, context.width, context.units, context.level, tables.cdf.shape[1], address(tables.cdf),
        address(tables.lengths), address(tables.offsets), address(tables.logits), address(tables.around),
        address(tables.hidden), address(tables.here), address(tables.output), *(address(layer.bias) for layer in layers),
        address(weights), (_Rule * 4)(*(_Rule(layer.shift, layer.low, layer.high) for layer in layers)),
    )  # fmt: skip
    described.owners = (tables, weights)  # keeps the memory behind the addresses
    return described
