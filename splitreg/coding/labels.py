"""``LabelCoder``: lossless coding of label maps, each given the one before.

The format is described in ``docs/wire-format.md``. A map needs about 0.05 bits per pixel of network-sized masks.
"""

from __future__ import annotations

import ctypes

import numpy as np
from numpy.typing import NDArray

from splitreg.coding import labels_numpy, rans_kernel
from splitreg.coding.label_state import SLOTS, LabelState
from splitreg.coding.temporal_kernel import Mixing, address
from splitreg.errors import CorruptAnswer, ShapeMismatch

#: Labels of one map at most: 16 million pixels.
MAX_LABELS = 1 << 24


class LabelCoder:
    """Encodes or decodes a sequence of label maps; both sides of a link hold one.

    Args:
        kernel: ``"auto"``, ``"c"`` or ``"numpy"``; both give the same bytes.
    """

    def __init__(self, kernel: str = "auto") -> None:
        library = None if kernel == "numpy" else rans_kernel.library()
        self._kernel = labels_numpy if library is None else _Kernel(library)
        self.reset()

    def reset(self) -> None:
        """Forget the maps before."""
        self._state = LabelState.begin()

    def encode(self, labels: NDArray[np.uint8]) -> bytes:
        """Encode the next (H, W) map; no bytes where it equals the one before.

        Raises:
            ShapeMismatch: not a map of 1 to ``MAX_LABELS`` labels.
        """
        labels = np.ascontiguousarray(labels, np.uint8)
        if labels.ndim != 2 or not 1 <= labels.size <= MAX_LABELS:
            raise ShapeMismatch(f"a label map is (H, W) with 1 to {MAX_LABELS} labels, got shape {labels.shape}")
        self._follow(labels.shape)
        previous = self._state.previous
        if previous is not None and np.array_equal(labels, previous):
            return b""
        payload = self._kernel.encode(labels, self._state) or b"\0"  # because an empty payload is a repetition
        self._state.previous = labels.copy()
        return payload

    def decode(self, payload: bytes, shape: tuple[int, int]) -> NDArray[np.uint8]:
        """Decode the next (H, W) map.

        Raises:
            CorruptAnswer: not a payload of this state. The state begins again.
        """
        if not 1 <= shape[0] * shape[1] <= MAX_LABELS or min(shape) < 1:
            raise CorruptAnswer(f"a label map has 1 to {MAX_LABELS} labels, got shape {shape}")
        self._follow(shape)
        previous = self._state.previous
        if not payload:
            if previous is None:
                raise CorruptAnswer("the label map repeats one that did not arrive")
            return previous.copy()
        try:
            labels = self._kernel.decode(payload, shape, self._state)
        except CorruptAnswer:
            self.reset()
            raise
        self._state.previous = labels.copy()
        return labels

    def _follow(self, shape: tuple[int, ...]) -> None:
        """Forget the map before if its size differs."""
        previous = self._state.previous
        if previous is not None and previous.shape != shape:
            self._state.previous = None


class _Labels(ctypes.Structure):
    _fields_ = [
        ("height", ctypes.c_int32), ("width", ctypes.c_int32), ("labels", ctypes.c_void_p), ("previous", ctypes.c_void_p),
        ("slots", ctypes.c_void_p), ("weights", ctypes.c_void_p),
    ]  # fmt: skip


class _Kernel:
    """``labels_numpy``'s functions through the C library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        for name, arguments in {
            "slots": [],
            "encode": [pointer] * 3 + [number],
            "decode": [pointer] * 3 + [number],
        }.items():
            function = getattr(library, f"sr_labels_{name}")
            function.argtypes, function.restype = arguments, number
        self._library, self._mixing = library, Mixing.of_tables()
        if library.sr_labels_slots() != SLOTS:
            raise OSError("the compiled kernel is of another version of splitreg; install splitreg again")

    def encode(self, labels: NDArray[np.uint8], state: LabelState) -> bytes:
        """Encode an (H, W) map; the state learns."""
        out = np.empty(2 * labels.size + 64, np.uint8)
        described = _described(labels, state)
        length = self._library.sr_labels_encode(
            ctypes.addressof(self._mixing), ctypes.addressof(described), address(out), len(out)
        )
        if length < 0:  # cannot happen: a label takes at most 11 coded bits of at most 12 bits each
            raise ShapeMismatch("the label map does not fit its buffer")
        return out[:length].tobytes()

    def decode(self, payload: bytes, shape: tuple[int, int], state: LabelState) -> NDArray[np.uint8]:
        """Decode an (H, W) map; the state learns.

        Raises:
            CorruptAnswer: not a payload of this state, which must be discarded.
        """
        labels, data = np.zeros(shape, np.uint8), np.frombuffer(payload, np.uint8)
        described = _described(labels, state)
        if self._library.sr_labels_decode(
            ctypes.addressof(self._mixing), ctypes.addressof(described), address(data), len(data)
        ):
            raise CorruptAnswer("the label map's payload has bytes after its end; it is damaged")
        return labels


def _described(labels: NDArray[np.uint8], state: LabelState) -> _Labels:
    previous = None if state.previous is None else address(state.previous)
    return _Labels(*labels.shape, address(labels), previous, address(state.slots), address(state.weights))
