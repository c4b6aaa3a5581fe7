"""Depth images: PNG and TIFF of 16 bits, NPY, EXR."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from splitreg import imaging
from splitreg.errors import DataError, ImageError, MissingExtra
from splitreg.tasks import DepthTarget
from splitreg_datasets.labelimages import fit

#: Suffixes of depth files.
SUFFIXES = (".png", ".npy", ".exr", ".tif", ".tiff", ".pgm")
#: Channels of an EXR that hold depth, in the order in which they are tried.
_CHANNELS = ("Z", "depth.Z", "Depth.Z", "V", "Y", "R", "depth.V", "Depth.V", "Image.V")


def is_depth(name: str) -> bool:
    """Whether a file may hold depth, by its suffix."""
    return name.lower().endswith(SUFFIXES)


def read_depth(
    path: Path, size: tuple[int, int], image: Path, *, unit: float = 0.001, max_depth: float = 1000.0
) -> DepthTarget:
    """Read the depth of an image.

    Args:
        path: of the depth.
        size: (H, W) of the image.
        image: path of the image, whose EXIF may turn the depth too.
        unit: metres of one step of an integer.
        max_depth: metres beyond which a depth is unknown.

    Raises:
        DataError: damaged, of 8 bits, or of another size than the image.
        MissingExtra: an EXR, and OpenEXR is not installed.
    """
    return _metres(fit(read_values(path), size, path, image), unit, max_depth)


def depth_of_bytes(data: bytes, size: tuple[int, int], name: str, unit: float) -> DepthTarget:
    """Read the depth of an image from the bytes of a PNG or TIFF.

    Raises:
        DataError: damaged, of 8 bits, or of another size than the image.
    """
    values = _read_image(data, f"the depth of {name}")
    if values.shape != size:
        raise DataError(f"the depth of {name} has another size than its image")
    return _metres(values, unit, 1000.0)


def _metres(values: NDArray[Any], unit: float, max_depth: float) -> DepthTarget:
    metres = values.astype(np.float32) * (np.float32(unit) if values.dtype.kind in "iu" else 1)
    known = np.isfinite(metres) & (metres > 0) & (metres <= max_depth)
    return depth_target(np.where(known, metres, 0))


def depth_target(metres: NDArray[Any]) -> DepthTarget:
    """Return the target of an (H, W) array of metres, 0 where unknown."""
    return DepthTarget(depth=tv_tensors.Mask(torch.from_numpy(np.ascontiguousarray(metres, np.float32))))


def read_values(path: Path) -> NDArray[Any]:
    """Read an (H, W) array of integers or floats as stored.

    Raises:
        DataError: damaged, or not of one channel.
        MissingExtra: an EXR, and OpenEXR is not installed.
    """
    suffix = path.suffix.lower()
    values = _read_npy(path) if suffix == ".npy" else _read_exr(path) if suffix == ".exr" else _read_image(path)
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[:, :, 0]
    if values.ndim != 2 or values.dtype.kind not in "iuf":
        raise DataError(f"{path} holds {values.dtype} of shape {values.shape}; depth is (H, W) integers or floats")
    return values


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        loaded: NDArray[Any] = np.load(path, allow_pickle=False, mmap_mode="r")  # a header may claim any size
        if loaded.size > imaging.MAX_PIXELS:
            raise DataError(f"{path} holds {loaded.size} values, more than {imaging.MAX_PIXELS}")
        return np.array(loaded)
    except DataError:
        raise
    except (
        Exception
    ) as cause:  # the library raises OSError, ValueError, EOFError, SyntaxError, zipfile's errors and more
        raise DataError(f"cannot read the depth {path}: {cause}") from cause


def _read_image(path: Path | bytes, name: str = "") -> NDArray[Any]:
    name = name or str(path)
    try:
        with imaging.open_image(path) as image:
            if not image.mode.startswith("I") and image.mode != "F":
                raise DataError(
                    f"{name} is an image of mode {image.mode}; depth has 16 bits or more. Images of 8 bits are made for "
                    "looking at, not for measuring"
                )
            return np.array(image)
    except ImageError as cause:
        raise DataError(f"cannot read the depth {name}: {cause}") from cause


def _read_exr(path: Path) -> NDArray[Any]:
    try:
        import OpenEXR
    except ImportError as cause:
        raise MissingExtra(f"{path} needs the package OpenEXR: pip install 'splitreg[exr]'") from cause
    if not path.is_file() or path.read_bytes()[:4] != b"\x76\x2f\x31\x01":
        raise DataError(f"{path} is not an OpenEXR file")
    try:
        with OpenEXR.File(str(path), separate_channels=True) as file:
            channels = {name: channel.pixels for name, channel in file.channels().items()}
    except Exception as cause:  # the library raises RuntimeError and more
        raise DataError(f"cannot read the depth {path}: {cause}") from cause
    name = next((name for name in _CHANNELS if name in channels), None)
    name = name or (next(iter(channels)) if len(channels) == 1 else None)
    if name is None:
        raise DataError(f"{path} has the channels {', '.join(channels)}; expected one of {', '.join(_CHANNELS)}")
    return np.array(channels[name])
