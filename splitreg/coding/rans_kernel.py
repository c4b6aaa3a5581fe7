"""The C kernel, called on numpy's arrays; absent where the package was installed without a compiler."""

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

_ABI = 3
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
    """Return the compiled library, or None where it was not built."""
    for path in sorted(Path(__file__).parent.glob("_rans*")):
        try:
            opened = ctypes.CDLL(str(path))
            if opened.sr_init() == _ABI:
                return opened
        except (OSError, AttributeError):  # built for another machine, or something else of that name
            continue
    return None


@cache
def load() -> Kernel | None:
    """Return the kernel, or None where it was not built."""
    opened = library()
    return None if opened is None else Kernel(opened)


class Kernel:
    """Encode and decode through the C library; the tables and shapes are checked by the caller."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._workspace = _function(library, "sr_workspace", pointer, pointer, ctypes.c_int32)
        self._bound = _function(library, "sr_bound", pointer)
        self._encode = _function(library, "sr_encode", pointer, pointer, ctypes.c_int32, pointer, number, pointer)
        self._decode = _function(library, "sr_decode", pointer, pointer, pointer, number, pointer, number)
        self._described: tuple[Tables, NDArray[np.float32], _Tables] | None = None

    def encode(self, values: NDArray[Any], model: SymbolModel, tables: Tables, adapt: bool) -> bytes:
        """Code (C, h, w) int32 symbols, or a float32 latent.

        Raises:
            InvalidLatent: the latent is not finite, or beyond ``2**23``.
        """
        described, plane = self._describe(model, tables), _plane(values, model)
        tables_at, plane_at = ctypes.addressof(described), ctypes.addressof(plane)
        space = _room("encoder", self._workspace(tables_at, plane_at, False))
        out = _room("payload", self._bound(plane_at))
        length = self._encode(tables_at, plane_at, adapt, _at(space), space.nbytes, _at(out))
        if length == _INVALID:
            raise InvalidLatent(
                "the latent has NaN, infinite or huge values (beyond 2**23); the encoder's weights or its input are damaged"
            )
        if length < 0:
            raise MemoryError(f"the coder's workspace of {space.nbytes} bytes is too small")
        return out[:length].tobytes()

    def decode(self, payload: bytes, out: NDArray[Any], model: SymbolModel, tables: Tables) -> None:
        """Decode into a (C, h, w) array of int32 symbols, or of float32 latents.

        Raises:
            CorruptPacket: the payload is not one that ``encode`` writes.
        """
        described, plane = self._describe(model, tables), _plane(out, model)
        tables_at, plane_at = ctypes.addressof(described), ctypes.addressof(plane)
        space = _room("decoder", self._workspace(tables_at, plane_at, True))
        data = np.frombuffer(payload or b"\0", np.uint8)
        result = self._decode(tables_at, plane_at, _at(data), len(payload), _at(space), space.nbytes)
        if result == _CORRUPT:
            raise CorruptPacket("the payload is not one of this model and shape; it is damaged or of another model")
        if result < 0:
            raise MemoryError(f"the coder's workspace of {space.nbytes} bytes is too small")

    def _describe(self, model: SymbolModel, tables: Tables) -> _Tables:
        """Return the tables as the kernel wants them; kept for the last model."""
        kept = self._described  # read once: threads share a kernel
        if kept is None or kept[0] is not tables or kept[1] is not model.shift:
            described = _Tables(
                rows=len(tables.symbols), stride=tables.frequencies.shape[1],
                bits=model.bits if model.mode == "uniform" else 0,
                symbols=_at(tables.symbols), offsets=_at(tables.offsets), modes=_at(tables.modes),
                inverses=_at(tables.inverses), frequencies=_at(tables.frequencies), costs=_at(tables.costs),
                priors=None if tables.priors is None else _at(tables.priors), shift=_at(model.shift), scale=_at(model.scale),
            )  # fmt: skip
            described.kept = (model, tables)  # so that the memory behind the addresses stays
            kept = self._described = (tables, model.shift, described)
        return kept[2]


def _room(name: str, size: int) -> NDArray[np.uint8]:
    """Return memory of at least this size, kept for each thread: fresh memory would cost more than the coding."""
    kept: NDArray[np.uint8] | None = getattr(_space, name, None)
    if kept is None or not size <= kept.nbytes <= 8 * size + 2**22:
        kept = np.empty(size, np.uint8)
        setattr(_space, name, kept)
    return kept


def _function(library: ctypes.CDLL, name: str, *kinds: Any) -> Callable[..., int]:
    found = getattr(library, name)
    found.restype, found.argtypes = ctypes.c_int64, kinds
    return found  # type: ignore[no-any-return]


def _plane(values: NDArray[Any], model: SymbolModel) -> _Plane:
    channels, height, width = values.shape
    whole = values.dtype == np.int32
    return _Plane(
        channels=channels, height=height, width=width, symbols=_at(values) if whole else None,
        latent=None if whole else _at(values), indexes=None if model.indexes is None else _at(model.indexes),
    )  # fmt: skip


def _at(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
