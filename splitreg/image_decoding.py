"""From an opened image of any mode to (H, W, 3) uint8 in sRGB, in strips, so that no mode needs more memory than RGB.

Rules for samples that are not 8-bit integers:

- The range that the file declares becomes 0 to 255: ``SMinSampleValue`` and ``SMaxSampleValue`` of a TIFF, else
  all values of its bits per sample (4095 for 12 bits, 65535 for 16).
- 32-bit integers without a declared range: the smallest of 8, 16, 24 and 32 bits that holds the largest sample.
- Floats without a declared range: the smallest of 0 to 1, 0 to 255 and 0 to 65535 that no sample exceeds by more
  than half; anything else, NaN and infinity are errors.
- An image that comes out nearly black although it has other samples than 0 gives a warning.

Colours: an embedded ICC profile that is not sRGB is converted to sRGB. A profile that is damaged, or of another colour
space than the image, is ignored, and so are all where Pillow was built without LittleCMS.
"""

from __future__ import annotations

import functools
import io
import math
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

#: Pixels that are converted at a time.
STRIP_PIXELS = 1 << 20
#: EXIF's tag for how an image is turned.
ORIENTATION = 0x0112
#: An image without an 8-bit sample of at least this is nearly black: 12-bit samples in 16 bits are.
NEARLY_BLACK = 16

_BITS, _FORMAT = 258, 339
_LOW_TAGS, _TOP_TAGS = (340, 280), (341, 281)
#: A profile that changes no colour of a grid by more than this is sRGB.
_SAME_COLOUR = 3


def to_rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """Decode an opened image and turn it as its EXIF says.

    Args:
        image: from ``PIL.Image.open``, or any PIL image.
        name: of the image, for messages.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ImageError: samples without a range that can be shown.
    """
    transparent = _transparency(image)
    image.load()  # a PNG may say how it is turned after its pixels
    turned = image.getexif().get(ORIENTATION, 1)
    if image.mode.startswith("I") or image.mode == "F":
        convert = _scaler(image, name, transparent)
    else:
        convert = _colours(image, transparent)
    height, width = image.height, image.width
    if height * width <= STRIP_PIXELS and turned == 1:
        return convert(image)
    shape = (width, height, 3) if turned in (5, 6, 7, 8) else (height, width, 3)
    pixels = np.empty(shape, np.uint8)
    stored = as_stored(pixels, turned)
    for first, strip in _strips(image):
        stored[first : first + strip.height] = convert(strip)
    return pixels


def as_stored(turned: NDArray[Any], orientation: int) -> NDArray[Any]:
    """View an image, turned by an EXIF orientation, in the rows and columns in which its file stores it.

    Args:
        turned: (H, W, ...), as it is looked at.
        orientation: EXIF's number, 1 to 8; others change nothing.
    """
    views: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
        8: lambda a: np.rot90(a, -1),
    }
    return views[orientation](turned) if orientation in views else turned


def as_turned(stored: NDArray[Any], orientation: int) -> NDArray[Any]:
    """View an image in the rows and columns in which it is looked at: the inverse of ``as_stored``."""
    return as_stored(stored, {6: 8, 8: 6}.get(orientation, orientation))


def over_white(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay (H, W, 4) pixels over white: (H, W, 3)."""
    out = np.empty((*pixels.shape[:2], 3), np.uint8)
    rows = max(1, STRIP_PIXELS // max(1, pixels.shape[1]))
    for first in range(0, len(pixels), rows):
        strip = pixels[first : first + rows]
        alpha = strip[:, :, 3:].astype(np.uint16)
        out[first : first + rows] = (strip[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return out


def unreadable(head: bytes) -> str:
    """Name a format that Pillow alone does not read, by its first bytes, and say what to do; empty: unknown."""
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in (b"avif", b"avis"):
            return "it is AVIF, which this Pillow cannot read; upgrade Pillow to 11.3 or later"
        if brand in (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"):
            return "it is HEIC, which needs another package: pip install pillow-heif; or convert it to JPEG"
        return "it is a video, not an image"
    if head.startswith(b"\x76\x2f\x31\x01"):
        return "it is OpenEXR, which has no display range; tone-map it to a PNG or JPEG first"
    if head.startswith((b"#?RADIANCE", b"#?RGBE")):
        return "it is Radiance HDR, which has no display range; tone-map it to a PNG or JPEG first"
    if head.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL ")):
        return "it is JPEG XL, which Pillow cannot read; convert it to PNG or JPEG"
    if head.lstrip()[:5].lower() in (b"<svg ", b"<?xml") or head.startswith(b"%PDF"):
        return "it is a drawing without pixels; export it as a PNG"
    return ""


def register_heif(head: bytes) -> bool:
    """Let Pillow read HEIC, if these are the first bytes of one and ``pillow-heif`` is installed."""
    if head[4:8] != b"ftyp":
        return False
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    rows = max(1, STRIP_PIXELS // max(1, image.width))
    for first in range(0, image.height, rows):
        yield first, image.crop((0, first, image.width, min(first + rows, image.height)))


def _transparency(image: Image.Image) -> Any:
    """Return the transparent colour of an image, in the depth in which its samples are decoded; None without one."""
    value = image.info.get("transparency")
    tiles = getattr(image, "tile", None) or []
    if isinstance(value, tuple) and any("16B" in str(tile[3]) for tile in tiles if len(tile) > 3):
        return tuple(sample >> 8 for sample in value)  # Pillow reads the high byte of each sample
    return value


# --- colours of 8 bits


def _colours(image: Image.Image, transparent: Any) -> Callable[[Image.Image], NDArray[np.uint8]]:
    """Return the conversion of (a strip of) an image whose samples have 8 bits."""
    profile = image.info.get("icc_profile")
    has_alpha = image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or transparent is not None

    def convert(strip: Image.Image) -> NDArray[np.uint8]:
        if not has_alpha:
            return np.asarray(_in_srgb(strip, profile))
        if transparent != strip.info.get("transparency"):
            strip = strip.copy()
            strip.info["transparency"] = transparent
        rgba = strip.convert("RGBA")
        pixels = np.asarray(rgba)
        if profile:
            pixels = np.dstack([np.asarray(_in_srgb(rgba.convert("RGB"), profile)), pixels[:, :, 3]])
        return over_white(pixels)

    return convert


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    if profile and image.mode == "P":
        image = image.convert("RGB")
    transform = _transform(profile, image.mode) if profile else None
    if transform is not None:
        return transform(image)
    return image if image.mode == "RGB" else image.convert("RGB")


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> Callable[[Image.Image], Image.Image] | None:
    """Return the conversion from a profile to sRGB; None where the profile is sRGB or cannot be used."""
    try:
        from PIL import ImageCms

        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(own, ImageCms.createProfile("sRGB"), mode, "RGB")
        grid = _grid(mode)
        if grid is None:
            return None

        def apply(image: Image.Image) -> Image.Image:
            return ImageCms.applyTransform(image, transform) or image  # None only where it works in place

        before, after = np.asarray(grid.convert("RGB")), np.asarray(apply(grid))
    except Exception:  # without LittleCMS ImportError; a damaged profile raises PyCMSError, OSError, TypeError and more
        return None
    same = mode != "CMYK" and np.abs(before.astype(int) - after).max() <= _SAME_COLOUR
    return None if same else apply


def _grid(mode: str) -> Image.Image | None:
    """Return an image with colours of all kinds, in a mode that a profile can be for."""
    from PIL import Image

    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    if mode not in ("RGB", "CMYK"):
        return None
    channels = len(mode)
    steps = np.linspace(0, 255, 6).astype(np.uint8)
    grid = np.stack(np.meshgrid(*[steps] * channels), -1).reshape(1, -1, channels)
    return Image.fromarray(np.ascontiguousarray(grid), mode) if mode == "CMYK" else Image.fromarray(grid)


# --- deeper samples


def _scaler(image: Image.Image, name: str, transparent: Any) -> Callable[[Image.Image], NDArray[np.uint8]]:
    """Return the conversion of (a strip of) an image whose samples have more than 8 bits."""
    unsigned = _tag(image, (_FORMAT,)) in (None, 1)

    def samples(strip: Image.Image) -> NDArray[np.float64]:
        values = np.asarray(strip)
        if values.dtype == np.int32 and unsigned and _tag(image, (_BITS,)) == 32:
            values = values.view(np.uint32)
        return values.astype(np.float64)

    low, top, largest = _range(image, name, samples)
    if 0 < largest and (largest - low) / (top - low) * 255 < NEARLY_BLACK:
        warnings.warn(
            f"an image of mode {image.mode} has no sample above {largest:g}, and its range is {low:g} to {top:g}: it is "
            "read as nearly black. If its samples have fewer bits than its file, scale them",
            stacklevel=2,
        )

    def convert(strip: Image.Image) -> NDArray[np.uint8]:
        values = samples(strip)
        grey = np.rint(np.clip((values - low) / (top - low), 0, 1) * 255).astype(np.uint8)
        if isinstance(transparent, int):
            grey[values == transparent] = 255
        return np.repeat(grey[:, :, None], 3, axis=2)

    return convert


def _range(
    image: Image.Image, name: str, samples: Callable[[Image.Image], NDArray[np.float64]]
) -> tuple[float, float, float]:
    """Return the lowest and highest value of an image's range, and its largest sample.

    Raises:
        ImageError: floats that fit no range.
    """
    bounds = [(float(part.min()), float(part.max())) for _, strip in _strips(image) if (part := samples(strip)).size]
    smallest, largest = min(low for low, _ in bounds), max(top for _, top in bounds)
    if not math.isfinite(smallest) or not math.isfinite(largest):
        raise ImageError(f"{name} holds samples that are NaN or infinite")
    low, top, bits = _tag(image, _LOW_TAGS), _tag(image, _TOP_TAGS), _tag(image, (_BITS,))
    if top is not None and math.isfinite(top) and top > (low or 0.0):
        return low or 0.0, top, largest
    if image.mode == "F":
        top = next((top for top in (1.0, 255.0, 65535.0) if largest <= 1.5 * top), None)
        if top is None or smallest < -0.5 * top:
            raise ImageError(
                f"{name} holds floating-point samples from {smallest:g} to {largest:g} and declares no range; scale "
                "them to 0 to 1, or write the TIFF tags SMinSampleValue and SMaxSampleValue"
            )
        return 0.0, top, largest
    if image.mode != "I":
        return 0.0, 2.0 ** min(16, int(bits or 16)) - 1, largest
    if bits == 16 and _tag(image, (_FORMAT,)) == 2:
        return 0.0, 32767.0, largest
    depth = next((depth for depth in (8, 16, 24) if largest < 2.0**depth), 32)
    return 0.0, 2.0**depth - 1, largest


def _tag(image: Image.Image, tags: tuple[int, ...]) -> float | None:
    """Return the first value of the first of some TIFF tags that is there."""
    table = getattr(image, "tag_v2", None)
    for tag in tags:
        value = table.get(tag) if table is not None else None
        value = value[0] if isinstance(value, tuple) and value else value
        if isinstance(value, int | float):
            return float(value)
    return None
