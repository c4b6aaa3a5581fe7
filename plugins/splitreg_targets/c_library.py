"""A compiled edge half, called through ctypes."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import BundleError, ImageError, InvalidLatent, RecipeError

#: Names of the formats of pixels, in the order of the C enumeration.
FORMATS = ("rgb", "rgba", "grey", "rgb565", "i420", "nv12")


class _Image(ctypes.Structure):
    _fields_: ClassVar = [
        ("width", ctypes.c_int32), ("height", ctypes.c_int32), ("format", ctypes.c_int32), ("full_range", ctypes.c_int32),
        ("plane", ctypes.c_void_p * 3), ("stride", ctypes.c_int32 * 3),
    ]  # fmt: skip


class CLibrary:
    """A shared library of target ``c``.

    Args:
        path: of the library.
        prefix: of its public names.
        capacity: bytes of the largest packet.
    """

    def __init__(self, path: Path, prefix: str, capacity: int = 2**23) -> None:
        try:
            library = ctypes.CDLL(str(path))
        except OSError as cause:
            raise BundleError(f"cannot load the compiled edge half {path}: {cause}") from cause
        self._encode = getattr(library, f"{prefix}_encode")
        self._latent = getattr(library, f"{prefix}_latent")
        self._latent.restype = ctypes.POINTER(ctypes.c_float)
        self._out = np.empty(capacity, np.uint8)

    def encode(
        self, planes: NDArray[np.uint8] | list[NDArray[np.uint8]], *, format: str = "rgb", rate: int = -1,
        full_range: bool = False,
    ) -> bytes:  # fmt: skip
        """Encode an image.

        Args:
            planes: (H, W, 3) RGB, or the planes of another format.
            format: one of ``FORMATS``.
            rate: 0 to 255; -1: the default.
            full_range: of YUV.

        Raises:
            ImageError: the image has a size that the library does not accept.
            InvalidLatent: the network returned NaN, infinite or huge values.
            RecipeError: the model has no such rate.
        """
        arrays = [np.ascontiguousarray(plane) for plane in (planes if isinstance(planes, list) else [planes])]
        height, width = arrays[0].shape[:2]
        image = _Image(width=width, height=height, format=FORMATS.index(format), full_range=full_range)
        for index, array in enumerate(arrays):
            image.plane[index], image.stride[index] = array.ctypes.data, array.strides[0]
        length = self._encode(ctypes.byref(image), rate, self._out.ctypes.data_as(ctypes.c_void_p), self._out.size)
        if length < 0:
            raise {
                -1: ImageError(f"the compiled edge half does not accept {width}x{height} pixels, format {format}"),
                -2: InvalidLatent("the network returned NaN, infinite or huge values"),
                -3: BundleError(f"the packet does not fit into {self._out.size} bytes"),
            }.get(length, RecipeError(f"rate must be 0 to 255 for a model with several rates, got {rate}"))
        return self._out[:length].tobytes()

    def latent(self, shape: tuple[int, int, int]) -> NDArray[np.float32]:
        """Return the (C, h, w) latent of the image encoded last."""
        return np.ctypeslib.as_array(self._latent(), shape).copy()
