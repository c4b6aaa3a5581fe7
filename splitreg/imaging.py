"""Pictures in and out: decode, letterbox or resize, normalise, and the way back: the same pixels on both sides.

Sizes are (height, width) in pixels; images are (H, W, 3) uint8 in sRGB.
"""

from __future__ import annotations

import io
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import ImageError, MissingExtra

if TYPE_CHECKING:
    from PIL import Image

#: Pictures with more pixels than this are refused before they are decoded (override with ``max_pixels``).
MAX_PIXELS = 100_000_000
#: Sides are 16-bit in a packet.
MAX_SIDE = 65535

#: EXIF's tag for how a picture is turned.
_ORIENTATION = 0x0112

#: Grey that fills a letterbox's borders.
FILL = 114

_LIMIT = threading.Lock()

ImageLike = Any  # (H, W, 3) uint8 array, PIL image, path or bytes of an encoded picture


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """How a picture becomes a network's input.

    Args:
        size: (height, width) of the input.
        mode: ``"letterbox"`` keeps the aspect ratio and fills with grey; ``"resize"`` does not.
        mean: subtracted per channel, on a scale of 0 to 1.
        std: divides per channel.
    """

    size: tuple[int, int]
    mode: str = "letterbox"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.size))
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))
        if len(self.size) != 2 or not all(isinstance(s, int) and 1 <= s <= MAX_SIDE for s in self.size):
            raise ValueError(f"size must be (height, width), each 1 to {MAX_SIDE}; got {self.size}")
        if self.mode not in ("letterbox", "resize"):
            raise ValueError(f"mode must be 'letterbox' or 'resize', got {self.mode!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(s > 0 for s in self.std):
            raise ValueError("mean and std have three values, std above zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Where the original picture lies in the coded one: both sides derive it from the two sizes and the mode.

    Args:
        original: (height, width) of the original image.
        coded: (height, width) of the network's input.
        mode: see ``Preprocess``.
        max_mask_pixels: maps of larger originals are scaled down to this many pixels; None maps every pixel.

    >>> Geometry(original=(100, 200), coded=(64, 64), mode="letterbox").content
    (16, 0, 32, 64)
    """

    original: tuple[int, int]
    coded: tuple[int, int]
    mode: str
    max_mask_pixels: int | None = None

    @property
    def content(self) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the picture inside the coded frame, in coded pixels."""
        (h, w), (ch, cw) = self.original, self.coded
        if self.mode == "resize":
            return 0, 0, ch, cw
        if h * cw >= w * ch:  # integer arithmetic: the same on every machine
            height, width = ch, max(1, (w * ch * 2 + h) // (2 * h))
        else:
            height, width = max(1, (h * cw * 2 + w) // (2 * w)), cw
        return (ch - height) // 2, (cw - width) // 2, height, width

    @property
    def mask_size(self) -> tuple[int, int]:
        """(height, width) of masks and other maps: the original's, or smaller with its aspect ratio.

        >>> Geometry(original=(400, 800), coded=(64, 64), mode="resize", max_mask_pixels=20_000).mask_size
        (100, 200)
        """
        height, width = self.original
        limit = self.max_mask_pixels
        if limit is None or height * width <= limit:
            return height, width
        scale = (limit / (height * width)) ** 0.5
        return max(1, int(height * scale)), max(1, int(width * scale))

    def boxes(self, boxes: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Map (N, 4) x0, y0, x1, y1 from coded to original pixels, clipped to the picture."""
        top, left, height, width = self.content
        h, w = self.original
        moved = (np.asarray(boxes, np.float64).reshape(-1, 4) - [left, top, left, top]) * [
            w / width, h / height, w / width, h / height,
        ]  # fmt: skip
        return np.clip(moved, 0, [w, h, w, h]).astype(np.float32)

    def points(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Map (..., 2) x, y from coded to original pixels."""
        top, left, height, width = self.content
        h, w = self.original
        return ((np.asarray(points, np.float64) - [left, top]) * [w / width, h / height]).astype(np.float32)

    def labels(self, mask: NDArray[Any]) -> NDArray[Any]:
        """Map an (ch, cw) index map to ``mask_size`` by nearest neighbour."""
        top, left, height, width = self.content
        h, w = self.mask_size
        rows = top + np.minimum(((np.arange(h) * 2 + 1) * height) // (2 * h), height - 1)
        columns = left + np.minimum(((np.arange(w) * 2 + 1) * width) // (2 * w), width - 1)
        return np.asarray(mask[rows[:, None], columns[None, :]])

    def values(self, field: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Map a (ch, cw) real-valued map to ``mask_size`` by bilinear interpolation."""
        image = _pil()
        top, left, height, width = self.content
        part = np.ascontiguousarray(field[top : top + height, left : left + width], np.float32)
        h, w = self.mask_size
        return np.asarray(
            image.fromarray(part, "F" if part.ndim == 2 else None).resize((w, h), image.Resampling.BILINEAR)
        )

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Map a (ch, cw, 3) uint8 picture to ``mask_size``."""
        pil = _pil()
        top, left, height, width = self.content
        part = np.ascontiguousarray(image[top : top + height, left : left + width])
        h, w = self.mask_size
        return np.asarray(pil.fromarray(part).resize((w, h), pil.Resampling.BILINEAR))


def read(source: ImageLike, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read a picture of any usual kind: grey, 16-bit, CMYK, palette, alpha (over white), EXIF-rotated.

    Args:
        source: path, bytes of an encoded picture, PIL image, or (H, W), (H, W, 1), (H, W, 3), (H, W, 4) uint8 array.
        max_pixels: refuse larger ones before decoding.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageError: not a picture, cut short, or too large.
    """
    if isinstance(source, np.ndarray):
        return _checked(_from_array(source), "the array", max_pixels)
    pil = _pil()
    if isinstance(source, pil.Image):
        return _checked(_from_pil(source, "the picture", max_pixels), "the picture", max_pixels)
    if isinstance(source, bytes | bytearray | memoryview):
        name, file = f"the {len(source)} bytes", io.BytesIO(source)
    elif not isinstance(source, str | os.PathLike):
        raise ImageError(f"a picture is a path, bytes, an array or a PIL image; got {type(source).__name__}")
    else:
        name = os.fspath(source)
        if not Path(name).is_file():
            raise ImageError(f"no picture at {name}; give the path of a PNG, JPEG, WebP or similar file")
        file = None
    try:
        with _open(pil, file if file is not None else name) as opened:
            return _checked(_from_pil(opened, name, max_pixels), name, max_pixels)
    except ImageError:
        raise
    except Exception as cause:  # pillow raises OSError, SyntaxError, ValueError, struct.error and more on bad files
        raise ImageError(f"{name} is not a whole picture: {cause}") from cause


def letterbox(image: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """Place an (H, W, 3) picture into the coded frame: (ch, cw, 3) uint8."""
    pil = _pil()
    top, left, height, width = geometry.content
    if (height, width) != image.shape[:2]:
        image = np.asarray(pil.fromarray(image).resize((width, height), pil.Resampling.BILINEAR))
    if (height, width) == geometry.coded:
        return image
    frame = np.full((*geometry.coded, 3), FILL, np.uint8)
    frame[top : top + height, left : left + width] = image
    return frame


def normalise(image: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """(H, W, 3) uint8 to (3, H, W) float32, mean and std applied."""
    scale = np.float32(1) / (np.float32(255) * np.asarray(preprocess.std, np.float32))
    shift = np.asarray(preprocess.mean, np.float32) / np.asarray(preprocess.std, np.float32)
    planes = np.empty((3, *image.shape[:2]), np.float32)
    planes[...] = image.transpose(2, 0, 1)
    planes *= scale[:, None, None]
    planes -= shift[:, None, None]
    return planes


def prepare(image: NDArray[np.uint8], preprocess: Preprocess) -> tuple[NDArray[np.float32], Geometry]:
    """Turn an (H, W, 3) uint8 picture into a network's input.

    Returns:
        (3, ch, cw) float32, and the geometry that maps predictions back.
    """
    geometry = Geometry(original=(image.shape[0], image.shape[1]), coded=preprocess.size, mode=preprocess.mode)
    return normalise(letterbox(image, geometry), preprocess), geometry


def _pil() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as cause:
        raise MissingExtra("pictures need pillow, which is not installed; pip install 'splitreg[edge]'") from cause
    return Image


def _open(pil: Any, file: Any) -> Any:
    """Read a header without pillow's own limit, which belongs to the whole process: ours is checked before decoding."""
    with _LIMIT:  # two threads would restore each other's value
        previous, pil.MAX_IMAGE_PIXELS = pil.MAX_IMAGE_PIXELS, None
        try:
            return pil.open(file)
        finally:
            pil.MAX_IMAGE_PIXELS = previous


def _checked(image: NDArray[np.uint8], name: str, max_pixels: int) -> NDArray[np.uint8]:
    _check_size(image.shape[0], image.shape[1], name, max_pixels)
    return np.ascontiguousarray(image)


def _check_size(height: int, width: int, name: str, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise ImageError(f"{name} is empty: {width}x{height} pixels")
    if max(height, width) > MAX_SIDE or height * width > max_pixels:
        raise ImageError(
            f"{name} has {width}x{height} pixels; the limit is {max_pixels} in all and {MAX_SIDE} a side: scale it down"
        )


def _from_array(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.dtype != np.uint8:
        raise ImageError(f"an array must be uint8 (0 to 255), got {array.dtype}")
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
        raise ImageError(f"an array must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4), got {array.shape}")
    if array.shape[2] == 1:
        return np.repeat(array, 3, axis=2)
    if array.shape[2] == 4:
        alpha = array[:, :, 3:].astype(np.uint16)
        return ((array[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return array


def _from_pil(image: Image.Image, name: str, max_pixels: int) -> NDArray[np.uint8]:
    _check_size(image.height, image.width, name, max_pixels)
    image.load()  # a PNG may say how it is turned after its pixels
    if image.getexif().get(_ORIENTATION, 1) != 1:
        from PIL import ImageOps

        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits a pixel, sometimes kept in 32
        wide = np.asarray(image, np.float64)
        top = 255.0 if wide.size and wide.max() <= 255 and image.mode in ("I", "F") else 65535.0
        return _from_array(np.rint(np.clip(wide / top, 0, 1) * 255).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _from_array(np.asarray(image.convert("RGBA")))
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
