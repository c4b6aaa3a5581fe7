"""Drawings of predictions: boxes, class colours, depth colours, captions; pillow and numpy.

Images are (H, W, 3) uint8 and are never changed in place.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import ShapeMismatch

if TYPE_CHECKING:
    from PIL import ImageDraw

Colour = tuple[int, int, int]

#: Images with a shorter long side are enlarged by a whole factor, so that lines and text are legible.
MIN_SIDE = 256

#: Shapes of a prediction, and points of a shape, that are drawn.
MAX_SHAPES = 10_000
_SHAPE_COLOURS = 60

# Light (near) to dark (far), so that it can be read in greyscale.
_NEAR_TO_FAR = np.array([[253, 231, 60], [122, 205, 90], [36, 150, 138], [60, 84, 140], [52, 10, 70]], np.float64)


def enlarge(image: NDArray[np.uint8], min_side: int = MIN_SIDE) -> tuple[NDArray[np.uint8], int]:
    """Repeat the pixels of a small image.

    Args:
        image: (H, W, 3) uint8.
        min_side: smallest length of the longer side.

    Returns:
        (H * f, W * f, 3) uint8, and the whole factor f.
    """
    factor = max(1, -(-min_side // max(image.shape[:2])))
    return image.repeat(factor, axis=0).repeat(factor, axis=1), factor


def palette(count: int) -> NDArray[np.uint8]:
    """Return (count, 3) uint8 colours; neighbours differ, and a colour does not depend on ``count``."""
    # Steps of the golden ratio avoid similar hues; two levels of brightness separate the rest.
    colours = [
        colorsys.hsv_to_rgb((i * 0.618034) % 1.0, 0.85 - 0.3 * (i % 3 == 2), 1.0 - 0.3 * (i % 2)) for i in range(count)
    ]
    table: NDArray[np.uint8] = np.rint(np.array(colours, np.float64).reshape(-1, 3) * 255).astype(np.uint8)
    return table


def boxes(
    image: NDArray[np.uint8],
    corners: NDArray[np.floating[Any]],
    captions: Sequence[str],
    colours: Sequence[Colour] | NDArray[np.uint8],
) -> NDArray[np.uint8]:
    """Draw (N, 4) x0, y0, x1, y1 boxes, each with a caption and a colour; the last is on top."""
    from PIL import Image, ImageDraw  # imported here: predictions are read without pillow

    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    size = _text_size(image)
    width = max(1, round(max(image.shape[:2]) / 300))
    for (x0, y0, x1, y1), caption, colour in zip(corners.tolist(), captions, colours, strict=True):
        paint = _colour(colour)
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=paint, width=width)
        _label(pen, (x0, y0), caption, paint, size, image.shape[1])
    return np.array(canvas)


def overlay(
    image: NDArray[np.uint8], mask: NDArray[np.integer[Any]], colours: NDArray[np.uint8], opacity: float = 0.55
) -> NDArray[np.uint8]:
    """Tint an (H, W, 3) image by an (H, W) index map; indexes without a colour are not tinted.

    A smaller map with the same aspect ratio is enlarged, at most eight times: a server may scale large masks down.

    Raises:
        ShapeMismatch: image and mask differ in their aspect ratio, or the mask is larger.
    """
    (height, width), (h, w) = image.shape[:2], mask.shape
    if height / 8 <= h < height and w < width and abs(h * width - w * height) <= max(height, width):
        mask = mask[(np.arange(height) * h // height)[:, None], np.arange(width) * w // width]
    if image.shape[:2] != mask.shape:
        raise ShapeMismatch(
            f"the mask has {mask.shape[0]}x{mask.shape[1]} pixels, the image {image.shape[0]}x{image.shape[1]}; call "
            "prediction.restore first"
        )
    known = (mask >= 0) & (mask < len(colours))
    result = image.copy()
    tint = colours[mask[known]].astype(np.float64)
    result[known] = np.rint(image[known] * (1 - opacity) + tint * opacity).astype(np.uint8)
    return result


def shapes(image: NDArray[np.uint8], items: Sequence[Mapping[str, Any]], factor: float = 1.0) -> NDArray[np.uint8]:
    """Draw dots, lines and polygons with captions, see ``Prediction.shapes``.

    Args:
        image: (H, W, 3) uint8.
        items: the shapes, possibly from the network; one that is not valid is left out.
        factor: pixels of ``image`` per pixel of the shapes.
    """
    from PIL import Image, ImageDraw  # imported here: predictions are read without pillow

    canvas = Image.fromarray(image)
    pen = ImageDraw.Draw(canvas)
    size, width = _text_size(image), max(1, round(max(image.shape[:2]) / 300))
    for item in items[:MAX_SHAPES]:
        shape = _points(item)
        if shape is None:
            continue
        points = [(x * factor, y * factor) for x, y in shape]
        colour = item.get("colour", 0)
        paint = _colour(palette(_SHAPE_COLOURS)[colour % _SHAPE_COLOURS if isinstance(colour, int) else 0])
        if len(points) == 1:
            (x, y), radius = points[0], max(3, max(image.shape[:2]) // 64)
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=paint, outline=(255, 255, 255))
        else:
            pen.line([*points, points[0]] if item.get("closed") else points, fill=paint, width=width)
        _label(pen, points[0], str(item.get("label") or "")[:100], paint, size, image.shape[1])
    return np.array(canvas)


def _points(item: Any) -> list[tuple[float, float]] | None:
    """Return the points of a shape; None if they are not valid."""
    try:
        points = [(float(x), float(y)) for x, y in item["points"][:MAX_SHAPES]]
    except (TypeError, ValueError, KeyError, AttributeError, IndexError):
        return None
    return points if points and np.isfinite(points).all() and np.abs(points).max() < 1e6 else None


def depth_colours(depth: NDArray[np.floating[Any]], near: float, far: float) -> NDArray[np.uint8]:
    """Colour an (H, W) depth map on a logarithmic scale: near is light, far dark, unknown (0) black."""
    known = np.isfinite(depth) & (depth > 0)
    low, high = np.log(max(near, 1e-6)), np.log(max(far, near * 1.001, 2e-6))
    place = (np.log(np.where(known, depth, near if near > 0 else 1.0)) - low) / (high - low) * (len(_NEAR_TO_FAR) - 1)
    stops = np.arange(len(_NEAR_TO_FAR))
    channels = [np.interp(place, stops, _NEAR_TO_FAR[:, c]) for c in range(3)]
    return np.where(known[..., None], np.rint(np.stack(channels, axis=-1)), 0).astype(np.uint8)


def legend(
    image: NDArray[np.uint8], names: Sequence[str], colours: Sequence[Colour] | NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Add names below an image, each with its colour, in as many lines as needed.

    Returns:
        (H + legend, W, 3) uint8; a copy of the image if there are no names.
    """
    if not names:
        return image.copy()
    from PIL import Image, ImageDraw, ImageFont

    size = _text_size(image)
    font = ImageFont.load_default(size)
    pad = max(2, size // 3)
    places: list[tuple[int, int]] = []
    x, y = pad, pad
    for name in names:
        wide = int(font.getlength(name)) + pad * 2 + (size if colours is not None else 0)
        if x > pad and x + wide > image.shape[1]:
            x, y = pad, y + size + pad
        places.append((x, y))
        x += wide
    bar = Image.new("RGB", (image.shape[1], y + size + pad), (24, 24, 24))
    pen = ImageDraw.Draw(bar)
    for i, (name, (x, y)) in enumerate(zip(names, places, strict=True)):
        if colours is not None:
            pen.rectangle((x, y + 1, x + size - 3, y + size - 2), fill=_colour(colours[i]))
            x += size + 1
        pen.text((x, y), name, fill=(255, 255, 255), font=font)
    return np.concatenate([image, np.asarray(bar)])


def beside(images: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Put (H, W, 3) images side by side; lower ones are padded at the bottom."""
    height = max(image.shape[0] for image in images)
    return np.concatenate([np.pad(each, ((0, height - each.shape[0]), (0, 0), (0, 0))) for each in images], axis=1)


def _text_size(image: NDArray[np.uint8]) -> int:
    return int(np.clip(max(image.shape[:2]) / 32, 11, 28))


def _colour(colour: Colour | NDArray[np.uint8]) -> Colour:
    red, green, blue = (int(c) for c in colour)
    return red, green, blue


def _label(
    pen: ImageDraw.ImageDraw, corner: tuple[float, float], text: str, paint: Colour, size: int, width: int
) -> None:
    if not text:
        return
    from PIL import ImageFont

    font = ImageFont.load_default(size)
    length = font.getlength(text) + 4
    x = max(0.0, min(corner[0], width - length))
    y = corner[1] - size - 3 if corner[1] >= size + 3 else corner[1]  # above the box, or inside at the top
    pen.rectangle((x, y, x + length, y + size + 2), fill=paint)
    dark = 0.299 * paint[0] + 0.587 * paint[1] + 0.114 * paint[2] > 140
    pen.text((x + 2, y), text, fill=(0, 0, 0) if dark else (255, 255, 255), font=font)
