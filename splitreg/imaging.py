"""Images to network inputs and back: decode, letterbox or resize, normalise; equal on both sides.

Sizes are (height, width) in pixels; images are (H, W, 3) uint8 in sRGB.
"""

from __future__ import annotations

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from splitreg import image_decoding
from splitreg.errors import ImageError, MissingExtra, SplitregError

if TYPE_CHECKING:
    from PIL import Image

#: Largest number of pixels of an image, checked before it is decoded.
MAX_PIXELS = 100_000_000
#: Largest side of an image: packets have 16 bits for it.
MAX_SIDE = 65535

#: Sizes of masks and other maps in answers -> divisor of the original's sides. All but "full" are at
#: most the size of the original in the network's input.
RESOLUTIONS = {"full": 1, "network": 1, "1/2": 2, "1/4": 4, "1/8": 8}

#: Grey value of a letterbox's borders.
FILL = 114

_LIMIT = threading.Lock()

ImageLike = Any  # (H, W, 3) uint8 array, PIL image, path, or bytes of an image file


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocess:
    """Preprocessing of an image to the input of a network.

    Args:
        size: (height, width) of the input.
        mode: ``"letterbox"`` keeps the aspect ratio and pads with grey; ``"resize"`` does not.
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
            raise ValueError(f"mean and std must have three values, std above 0; got {self.mean} and {self.std}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Position of the original image in the coded one, derived from both sizes and the mode.

    Args:
        original: (height, width) of the original image.
        coded: (height, width) of the network's input.
        mode: ``"letterbox"`` or ``"resize"``.
        max_mask_pixels: maps of larger originals are scaled down to this many pixels; None maps every pixel.
        resolution: size of masks and other maps, one of ``RESOLUTIONS``.

    >>> Geometry(original=(100, 200), coded=(64, 64), mode="letterbox").content
    (16, 0, 32, 64)
    """

    original: tuple[int, int]
    coded: tuple[int, int]
    mode: str
    max_mask_pixels: int | None = None
    resolution: str = "full"

    @property
    def content(self) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the original inside the coded image, in coded pixels."""
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

        Never larger than the original, and except for ``"full"`` never larger than ``content``.

        >>> Geometry(original=(400, 800), coded=(64, 64), mode="resize", max_mask_pixels=20_000).mask_size
        (100, 200)
        """
        height, width = self.original
        if self.resolution != "full":
            _, _, ch, cw = self.content
            divisor = RESOLUTIONS[self.resolution]
            height, width = min(-(-height // divisor), ch), min(-(-width // divisor), cw)
        limit = self.max_mask_pixels
        if limit is None or height * width <= limit:
            return height, width
        scale = (limit / (height * width)) ** 0.5
        return max(1, int(height * scale)), max(1, int(width * scale))

    def boxes(self, boxes: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Map (N, 4) x0, y0, x1, y1 from coded to original pixels, clipped to the image."""
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
        """Map an (ch, cw) index map to ``mask_size``: by nearest neighbour, or by majority where it is reduced."""
        top, left, height, width = self.content
        part = mask[top : top + height, left : left + width]
        if self.resolution in ("full", "network"):
            return nearest(part, self.mask_size)
        return resize_labels(part, self.mask_size)

    def values(self, field: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Map a (ch, cw) real-valued map to ``mask_size`` by bilinear interpolation."""
        top, left, height, width = self.content
        return resize_values(field[top : top + height, left : left + width], self.mask_size)

    def pixels(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Map a (ch, cw, 3) uint8 image to ``mask_size``."""
        top, left, height, width = self.content
        return resize_pixels(image[top : top + height, left : left + width], self.mask_size)


def nearest(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize an (h, w) map to ``size`` by nearest neighbour."""
    (height, width), (h, w) = mask.shape[:2], size
    rows = np.minimum(((np.arange(h) * 2 + 1) * height) // (2 * h), height - 1)
    columns = np.minimum(((np.arange(w) * 2 + 1) * width) // (2 * w), width - 1)
    return np.asarray(mask[rows][:, columns])


def resize_values(field: NDArray[np.floating[Any]], size: tuple[int, int]) -> NDArray[np.float32]:
    """Resize an (h, w) real-valued map to ``size`` by bilinear interpolation."""
    pil = _pil()
    image = pil.fromarray(np.ascontiguousarray(field, np.float32), "F")
    return np.asarray(image.resize((size[1], size[0]), pil.Resampling.BILINEAR))


def resize_pixels(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an (h, w, 3) uint8 image to ``size`` by bilinear interpolation."""
    pil = _pil()
    resized = pil.fromarray(np.ascontiguousarray(image)).resize((size[1], size[0]), pil.Resampling.BILINEAR)
    return np.asarray(resized)


def resize_labels(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an (h, w) index map: each pixel gets the index with most of its area, with smooth edges when enlarged."""
    if size[0] >= mask.shape[0] and size[1] >= mask.shape[1]:
        return _enlarge_labels(mask, size)
    pil = _pil()
    (h, w), shrink = size, size[0] * size[1] < mask.size
    method = pil.Resampling.BOX if shrink else pil.Resampling.BILINEAR
    result, best = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    for index in np.unique(mask):
        share = np.asarray(pil.fromarray((mask == index).astype(np.uint8) * 255).resize((w, h), method))
        np.copyto(result, index, where=share > best)
        np.maximum(best, share, out=best)
    return result


def _enlarge_labels(mask: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the index with the largest weight of bilinear interpolation; weights are computed only between indexes."""
    (top, bottom, down), (left, right, along) = (_between(*pair) for pair in zip(mask.shape, size, strict=True))
    rows = mask[top], mask[bottom]
    result = np.ascontiguousarray(rows[0][:, left])
    mixed = np.zeros(size, bool)
    for row, columns in ((rows[0], right), (rows[1], left), (rows[1], right)):
        mixed |= row[:, columns] != result
    y, x = np.nonzero(mixed)
    labels = np.stack([mask[i[y], j[x]] for i in (top, bottom) for j in (left, right)])
    weights = np.stack([i[y] * j[x] for i in (1 - down, down) for j in (1 - along, along)])
    totals = np.stack([(weights * (labels == label)).sum(0) for label in labels])
    result[y, x] = labels[totals.argmax(0), np.arange(len(y))]
    return result


def _between(old: int, new: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return for each of ``new`` positions its two neighbours among ``old`` ones, and the weight of the second."""
    place = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(place).astype(np.int64)
    return np.clip(first, 0, old - 1), np.clip(first + 1, 0, old - 1), (place - first).astype(np.float32)


def read(source: ImageLike, *, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read an image: grey, 16-bit, float, CMYK, palette, alpha (over white) and EXIF-rotated ones too.

    Samples that are not 8-bit integers are scaled by the range that the file declares, and colours with an embedded
    ICC profile are converted to sRGB; ``splitreg.image_decoding`` states the rules. HEIC is read where ``pillow-heif``
    is installed. No mode needs more memory than RGB.

    Args:
        source: path, bytes of an image file, PIL image, or (H, W), (H, W, 1), (H, W, 3), (H, W, 4)
            uint8 array.
        max_pixels: largest number of pixels, checked before decoding.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageError: not an image, cut short, too large, or of samples without a range that can be shown.
    """
    if isinstance(source, np.ndarray):
        return _checked(_from_array(source), "the array", max_pixels)
    pil = _pil()
    if isinstance(source, pil.Image):
        with _image_errors("the image"):
            _check_size(source.height, source.width, "the image", max_pixels)
            return _checked(image_decoding.to_rgb(source, "the image"), "the image", max_pixels)
    with open_image(source, max_pixels=max_pixels) as image:
        name = _name(source)
        return _checked(image_decoding.to_rgb(image, name), name, max_pixels)


@contextlib.contextmanager
def open_image(source: ImageLike, *, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Open an image file and check its size; what goes wrong while it is open is an ``ImageError`` too.

    Args:
        source: path, or bytes of an encoded image.
        max_pixels: refuse larger ones before decoding.

    Yields:
        The PIL image, not yet decoded.

    Raises:
        ImageError: not an image, cut short, or too large.
    """
    pil = _pil()
    name = _name(source)
    if isinstance(source, bytes | bytearray | memoryview):
        file: Any = io.BytesIO(source)
    elif not isinstance(source, str | os.PathLike):
        raise ImageError(f"an image must be a path, bytes, an array or a PIL image; got {type(source).__name__}")
    else:
        if not Path(name).is_file():
            raise ImageError(f"no image at {name}; pass the path of a PNG, JPEG, WebP or similar file")
        file = name
    with _image_errors(name, source), _open(pil, file, source) as opened:
        _check_size(opened.height, opened.width, name, max_pixels)
        yield opened


def _name(source: ImageLike) -> str:
    if isinstance(source, bytes | bytearray | memoryview):
        return f"the {len(source)} bytes"
    return str(os.fspath(source)) if isinstance(source, str | os.PathLike) else "the image"


def _head(source: ImageLike) -> bytes:
    """Return the first bytes of an image file, by which its format is known."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(memoryview(source)[:64])
    with contextlib.suppress(OSError, TypeError, ValueError), open(source, "rb") as file:
        return file.read(64)
    return b""


@contextlib.contextmanager
def _image_errors(name: str, source: ImageLike = b"") -> Iterator[None]:
    try:
        yield
    except SplitregError:
        raise
    except Exception as cause:  # pillow raises OSError, SyntaxError, ValueError, struct.error and more on bad files
        reason = image_decoding.unreadable(_head(source)) or str(cause) or type(cause).__name__
        raise ImageError(f"{name} is not an image, or damaged: {reason}") from cause


def letterbox(image: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """Resize an (H, W, 3) image and pad it to (ch, cw, 3) uint8."""
    pil = _pil()
    top, left, height, width = geometry.content
    if (height, width) != image.shape[:2]:
        image = np.asarray(pil.fromarray(image).resize((width, height), pil.Resampling.BILINEAR))
    if (height, width) == geometry.coded:
        return image
    frame = np.full((*geometry.coded, 3), FILL, np.uint8)
    frame[top : top + height, left : left + width] = image
    return frame


def normalise(
    image: NDArray[np.uint8], preprocess: Preprocess, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """(H, W, 3) uint8 -> (3, H, W) float32, with mean and std; written to ``out`` if given."""
    scale = np.float32(1) / (np.float32(255) * np.asarray(preprocess.std, np.float32))
    shift = np.asarray(preprocess.mean, np.float32) / np.asarray(preprocess.std, np.float32)
    planes = np.empty((3, *image.shape[:2]), np.float32) if out is None else out
    planes[...] = image.transpose(2, 0, 1)
    planes *= scale[:, None, None]
    planes -= shift[:, None, None]
    return planes


def prepare(image: NDArray[np.uint8], preprocess: Preprocess) -> tuple[NDArray[np.float32], Geometry]:
    """Preprocess an (H, W, 3) uint8 image.

    Returns:
        (3, ch, cw) float32, and the geometry that maps predictions to original pixels.
    """
    geometry = Geometry(original=(image.shape[0], image.shape[1]), coded=preprocess.size, mode=preprocess.mode)
    return normalise(letterbox(image, geometry), preprocess), geometry


def _pil() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError as cause:
        raise MissingExtra("images need pillow, which is not installed; pip install 'splitreg[edge]'") from cause
    return Image


def _open(pil: Any, file: Any, source: ImageLike) -> Any:
    """Read a header without pillow's limit, which is global; ours is checked before decoding."""
    with _LIMIT:  # threads would restore each other's value
        previous, pil.MAX_IMAGE_PIXELS = pil.MAX_IMAGE_PIXELS, None
        try:
            return pil.open(file)
        except pil.UnidentifiedImageError:
            if not image_decoding.register_heif(_head(source)):
                raise
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
            f"{name} has {width}x{height} pixels; the limit is {max_pixels} in all and {MAX_SIDE} per side: scale it down"
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
    return image_decoding.over_white(array) if array.shape[2] == 4 else array
