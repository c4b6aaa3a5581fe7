"""The C kernel, called on numpy arrays; missing if the package was installed without a compiler."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.rans_tables import Tables
from splitreg.coding.symbols import SymbolModel
from splitreg.errors import CorruptPacket, InvalidLatent

_ABI = 5
_CORRUPT, _INVALID = -1, -2

_space = threading.local()


class _Tables(ctypes.Structure):
    _fields_ = (
        [(name, ctypes.c_int32) for name in ("rows", "stride", "bits")]
        + [(name, ctypes.c_void_p) for name in (
            "symbols", "offsets", "modes", "inverses", "frequencies", "costs", "priors", "shift", "scale",
        )]
    )  # fmt: skip


class _Plane(ctypes.Structure):
    _fields_ = [
        ("channels", ctypes.c_int32), ("height", ctypes.c_int32), ("width", ctypes.c_int32),
        ("symbols", ctypes.c_void_p), ("latent", ctypes.c_void_p), ("indexes", ctypes.c_void_p),
    ]  # fmt: skip


@cache
def library() -> ctypes.CDLL | None:
    """Return the compiled library, or None if it was not built."""
    for path in sorted(Path(__file__).parent.glob("_rans*")):
        try:
            opened = ctypes.CDLL(str(path))
            if opened.sr_init() == _ABI:
                return opened
        except (OSError, AttributeError):  # built for another machine, or not the kernel
            continue
    return None


@cache
def load() -> Kernel | None:
    """Return the kernel, or None if it was not built."""
    opened = library()
    return None if opened is None else Kernel(opened)


class Kernel:
    """Encodes and decodes with the C library; the caller checks tables and shapes."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._workspace = _function(library, "sr_workspace", pointer, pointer, ctypes.c_int32)
        self._bound = _function(library, "sr_bound", pointer)
        self._encode = _function(library, "sr_encode", pointer, pointer, ctypes.c_int32, pointer, number, pointer)
        self._decode = _function(library, "sr_decode", pointer, pointer, pointer, number, pointer, number)
        self._described: tuple[Tables, NDArray[np.float32], _Tables] | None = None

    def encode(self, values: NDArray[Any], model: SymbolModel, tables: Tables, adapt: bool) -> bytes:
        """Encode (C, h, w) int32 symbols, or a float32 latent.

        Raises:
            InvalidLatent: the latent is not finite, or beyond ``2**23``.
        """
        described, plane = self._describe(model, tables), _plane(values, model)
        tables_address, plane_address = ctypes.addressof(described), ctypes.addressof(plane)
        space = _buffer("encoder", self._workspace(tables_address, plane_address, False))
        out = _buffer("payload", self._bound(plane_address))
        length = self._encode(tables_address, plane_address, adapt, _address(space), space.nbytes, _address(out))
        if length == _INVALID:
            raise InvalidLatent(
                "the latent has NaN, infinite values or values beyond 2**23; check the encoder's weights and its input"
            )
        if length < 0:
            raise MemoryError(f"the workspace of {space.nbytes} bytes is too small")
        return out[:length].tobytes()

    def decode(self, payload: bytes, out: NDArray[Any], model: SymbolModel, tables: Tables) -> None:
        """Decode into a (C, h, w) array of int32 symbols or float32 latents.

        Raises:
            CorruptPacket: the payload is not valid for this shape and model.
        """
        described, plane = self._describe(model, tables), _plane(out, model)
        tables_address, plane_address = ctypes.addressof(described), ctypes.addressof(plane)
        space = _buffer("decoder", self._workspace(tables_address, plane_address, True))
        data = np.frombuffer(payload or b"\0", np.uint8)
        result = self._decode(
            tables_address, plane_address, _address(data), len(payload), _address(space), space.nbytes
        )
        if result == _CORRUPT:
            raise CorruptPacket("the payload is not valid for this model and shape; it is damaged or of another model")
        if result < 0:
            raise MemoryError(f"the workspace of {space.nbytes} bytes is too small")

    def _describe(self, model: SymbolModel, tables: Tables) -> _Tables:
        """Return the tables as the kernel reads them; cached for the latest model."""
        cached = self._described  # read once: threads share a kernel
        if cached is None or cached[0] is not tables or cached[1] is not model.shift:
            described = _Tables(
                rows=len(tables.symbols), stride=tables.frequencies.shape[1],
                bits=model.bits if model.mode == "uniform" else 0,
                symbols=_address(tables.symbols), offsets=_address(tables.offsets), modes=_address(tables.modes),
                inverses=_address(tables.inverses), frequencies=_address(tables.frequencies), costs=_address(tables.costs),
                priors=None if tables.priors is None else _address(tables.priors), shift=_address(model.shift),
                scale=_address(model.scale),
            )  # fmt: skip
            described.owners = (model, tables)  # keeps the memory behind the addresses
            cached = self._described = (tables, model.shift, described)
        return cached[2]


def _buffer(name: str, size: int) -> NDArray[np.uint8]:
    """Return at least ``size`` bytes, reused per thread: fresh memory costs more than the coding."""
    buffer: NDArray[np.uint8] | None = getattr(_space, name, None)
    if buffer is None or not size <= buffer.nbytes <= 8 * size + 2**22:
        buffer = np.empty(size, np.uint8)
        setattr(_space, name, buffer)
    return buffer


def _function(library: ctypes.CDLL, name: str, *kinds: Any) -> Callable[..., int]:
    function = getattr(library, name)
    function.restype, function.argtypes = ctypes.c_int64, kinds
    return function  # type: ignore[no-any-return]


def _plane(values: NDArray[Any], model: SymbolModel) -> _Plane:
    channels, height, width = values.shape
    are_symbols = values.dtype == np.int32
    return _Plane(
        channels=channels, height=height, width=width, symbols=_address(values) if are_symbols else None,
        latent=None if are_symbols else _address(values), indexes=None if model.indexes is None else _address(model.indexes),
    )  # fmt: skip


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
