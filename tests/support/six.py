"""Six small labelled images, from which every format's fixture is made. Needs only numpy and Pillow.

Coordinates are multiples of a quarter of the image, so that every format stores them exactly.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

CLASSES = ("cat", "dog", "traffic light")

#: Colours of the background and the classes in masks.
COLOURS = ((0, 0, 0), (200, 30, 40), (10, 220, 30), (20, 40, 240))

#: File -> (width, height).
SIZES = {
    "one.png": (64, 48),
    "two.png": (64, 64),
    "img (3).png": (48, 64),
    "four.x.png": (32, 32),
    "five.png": (64, 48),
    "six.png": (96, 64),
}
#: File -> [(class, polygon)], in pixels; the second image shows nothing.
OBJECTS = {
    "one.png": [("cat", [16, 12, 48, 12, 48, 36, 16, 36])],
    "two.png": [],
    "img (3).png": [("dog", [12, 16, 36, 16, 24, 48]), ("cat", [0, 0, 12, 0, 12, 16, 0, 16])],
    "four.x.png": [("traffic light", [8, 8, 24, 8, 24, 24, 16, 28, 8, 24])],
    "five.png": [("dog", [0, 24, 32, 24, 32, 48, 0, 48]), ("dog", [32, 0, 64, 0, 64, 24, 32, 24])],
    "six.png": [("traffic light", [24, 16, 72, 16, 48, 56])],
}


def box(polygon):
    """Return the box around a polygon: x0, y0, x1, y1."""
    return min(polygon[::2]), min(polygon[1::2]), max(polygon[::2]), max(polygon[1::2])


def pixels(name):
    """Return the (H, W, 3) pixels of an image: noise of its own."""
    width, height = SIZES[name]
    return np.random.default_rng(sorted(SIZES).index(name)).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_images(folder, names=None):
    """Write the images into a folder; returns it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or SIZES:
        Image.fromarray(pixels(name)).save(folder / name)
    return folder


def index_mask(name):
    """Return the (H, W) class indexes of an image, 0 where nothing is."""
    mask = Image.new("L", SIZES[name])
    for label, polygon in OBJECTS[name]:
        ImageDraw.Draw(mask).polygon(list(map(float, polygon)), fill=CLASSES.index(label) + 1)
    return np.array(mask)


def labelme_json(name):
    """Return what labelme 5 saves for an image."""
    width, height = SIZES[name]
    shapes = [
        {
            "label": label,
            "points": [list(point) for point in zip(polygon[::2], polygon[1::2], strict=True)],
            "group_id": None,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
            "mask": None,
        }
        for label, polygon in OBJECTS[name]
    ]
    head = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None}
    return {**head, "imageHeight": height, "imageWidth": width}
