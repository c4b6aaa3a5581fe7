"""Checked, read-only arrays of integer tables, and their hash."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import InvalidTables


def frozen_copy(array: NDArray[Any], dtype: Any = None) -> NDArray[Any]:
    """Return a read-only copy in C order, so that tables do not change with the caller's array."""
    copy = np.array(array, dtype=dtype, order="C")
    copy.setflags(write=False)
    return copy


def as_int32(array: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Return integers as int32.

    Raises:
        InvalidTables: another type, or a value that does not fit 32 bits.
    """
    array = np.asarray(array)
    if array.dtype.kind not in "iu":
        raise InvalidTables(f"tables must be integers, got {array.dtype}")
    if array.size and (array.max() > 2**31 - 1 or array.min() < -(2**31)):
        raise InvalidTables(f"tables must fit 32 bits, got values from {array.min()} to {array.max()}")
    return array.astype(np.int32)


def int_tuple(array: NDArray[np.generic], count: int, name: str) -> tuple[int, ...]:
    """Return the values of a (count,) int32 array.

    Raises:
        InvalidTables: another shape or type.
    """
    array = np.asarray(array)
    if array.shape != (count,) or array.dtype != np.int32:
        raise InvalidTables(f"{name} must be ({count},) int32, got {array.shape} {array.dtype}")
    return tuple(int(value) for value in array)


def digest_of(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Return the SHA-256 of names, shapes and little-endian values: the same on every machine."""
    total = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        total.update(f"{name}:{array.shape}".encode())
        total.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return total.digest()
