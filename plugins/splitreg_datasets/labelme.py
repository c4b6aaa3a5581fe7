"""labelme: a JSON file of shapes beside each image."""

from __future__ import annotations

import base64
import binascii
import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from splitreg import imaging, tasks
from splitreg.errors import DataError, ImageError
from splitreg.files import is_finite
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import Sample
from splitreg_datasets import layout
from splitreg_datasets.files import as_image, find_root, read_picture
from splitreg_datasets.layout import Splits
from splitreg_datasets.objects import Shape, mask_box, object_specs, object_targets, outline_box

EXPECTED = "images with a JSON file of labelme beside each (also per split, or JSON files with imageData)"
#: Corners of the polygon that stands for a circle.
_CIRCLE = 64
#: Shapes without an area.
_WITHOUT_AREA = ("point", "points", "line", "linestrip")


class LabelMe(Dataset):
    """labelme's JSON files: polygons, rectangles, circles and masks become boxes with masks.

    ::

        root/a.jpg, root/a.json                 also in folders of splits; else 20 % are held out as "val"
        root/a.json                             with the image in it (imageData)

    Shapes with one ``group_id`` and label are one object. Points and lines have no area and are left out. Images without
    JSON file are not labelled, and left out; a JSON file without shapes is an image that shows no object.

    Args:
        root: the folder; None: ``$SPLITREG_DATA/labelme``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.
        classes: names of the classes, separated by commas; empty: those in the files, in the order of the alphabet.
        masks: give masks with the boxes.
        hold_out: fraction of ``train`` to hold out as ``val``; 0: 20 % where the dataset has no splits.

    Raises:
        DataError: not this layout, or a file that is malformed.
    """

    def __init__(
        self,
        root: str | None = None,
        split: str = "train",
        *,
        classes: str = "",
        masks: bool = True,
        hold_out: float = 0.0,
    ) -> None:
        self.targets = self.describe(root, classes=classes)
        self._root = layout.only_folder(find_root(root, "labelme"))
        self._files = _splits(self._root, hold_out).select(split, "labelme", self._root)
        self._masks = masks

    @classmethod
    def describe(cls, root: str | None = None, *, classes: str = "", **options: Any) -> Mapping[str, TargetSpec]:
        """Return the targets; reads the labels of all files, unless ``classes`` names them.

        Raises:
            DataError: not this layout.
        """
        folder = layout.only_folder(find_root(root, "labelme"))
        if not _is_labelme(folder):
            raise layout.not_this("labelme", folder, EXPECTED)
        names = layout.option_names(classes) or _scan(folder, folder.stat().st_mtime_ns)[0]
        if not names:
            raise DataError(f"the JSON files of {folder} hold no object of any class")
        return object_specs(names)

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of classes, images and objects; None if it is another layout."""
        folder = layout.only_folder(Path(root))
        if not _is_labelme(folder):
            return None
        names, objects = _scan(folder, folder.stat().st_mtime_ns)
        counts = _splits(folder, 0.0).counts()
        return f"labelme: {layout.plural(len(names), 'class')}, {counts}, {layout.plural(objects, 'object')}"

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> Sample:
        path = self._root / self._files[index]
        annotation = read_annotation(path)
        image = _read_image(path, annotation)
        size = (image.shape[0], image.shape[1])
        labels = self.targets[tasks.DETECTION].labels
        shapes = _objects(annotation, labels, size, path)
        targets = object_targets(shapes, len(labels), size, path, masks=self._masks)
        name = str(Path(self._files[index]).with_name(Path(annotation.image).name or path.name))
        return Sample(image=as_image(image), targets=targets, name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A shape as written: points (N, 2) in pixels; ``mask`` is a PNG in base 64, placed at the first point."""

    label: str
    kind: str
    points: tuple[tuple[float, float], ...]
    group: int | None
    mask: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMeAnnotation:
    """A JSON file: name of its image, (height, width) if it is written, the image itself if it is in the file."""

    image: str
    size: tuple[int, int] | None
    data: str
    marks: tuple[Mark, ...]


def read_annotation(path: Path) -> LabelMeAnnotation:
    """Read a JSON file of labelme.

    Raises:
        DataError: not one, or a shape that is malformed.
    """
    try:
        loaded = json.loads(layout.read_text(path))
    except (ValueError, RecursionError) as cause:
        raise DataError(f"{path} is not JSON: {cause}") from cause
    if not isinstance(loaded, dict) or not isinstance(loaded.get("shapes"), list):
        raise DataError(f"{path} is not a labelme file: it has no list of shapes")
    height, width = loaded.get("imageHeight"), loaded.get("imageWidth")
    name, data = loaded.get("imagePath"), loaded.get("imageData")
    marks = tuple(_mark(shape, f"{path}: shape {number}") for number, shape in enumerate(loaded["shapes"]))
    return LabelMeAnnotation(
        image=layout.stored_name(name) if isinstance(name, str) else "",
        size=(height, width) if _is_side(height) and _is_side(width) else None,
        data=data if isinstance(data, str) else "",
        marks=marks,
    )


def _is_side(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 < value <= imaging.MAX_SIDE


def _mark(shape: Any, where: str) -> Mark:
    label = shape.get("label") if isinstance(shape, dict) else None
    points = shape.get("points") if isinstance(shape, dict) else None
    if not isinstance(label, str) or not label.strip() or not isinstance(points, list):
        raise DataError(f"{where} has no label or no list of points")
    for point in points:
        if not isinstance(point, list) or len(point) != 2 or not all(map(is_finite, point)):
            raise DataError(f"{where} ({label}) has the point {str(point)[:80]}; expected x and y")
    group, mask = shape.get("group_id"), shape.get("mask")
    return Mark(
        label=label.strip(), kind=str(shape.get("shape_type") or "polygon"), points=tuple((p[0], p[1]) for p in points),
        group=group if type(group) is int else None, mask=mask if isinstance(mask, str) else "",
    )  # fmt: skip


def _outline(mark: Mark, where: Path) -> list[float] | None:
    """Return the polygon of a shape, None if it has no area.

    Raises:
        DataError: a kind of shape that labelme does not have, or with another number of points.
    """
    points = mark.points
    if mark.kind in _WITHOUT_AREA:
        return None
    if mark.kind == "polygon":
        return [value for point in points for value in point] if len(points) >= 3 else None
    if mark.kind in ("rectangle", "circle") and len(points) == 2:
        (x0, y0), (x1, y1) = points
        if mark.kind == "rectangle":
            return [x0, y0, x1, y0, x1, y1, x0, y1]
        radius = math.hypot(x1 - x0, y1 - y0)
        angles = [2 * math.pi * step / _CIRCLE for step in range(_CIRCLE)]
        return [value for a in angles for value in (x0 + radius * math.cos(a), y0 + radius * math.sin(a))]
    if mark.kind in ("rectangle", "oriented_rectangle", "rotation") and len(points) >= 4:  # X-AnyLabeling's too
        return [value for point in points for value in point]
    raise DataError(f"{where}: {mark.label} is a {mark.kind!r} of {len(points)} points, which is no shape of labelme's")


def _objects(annotation: LabelMeAnnotation, labels: Sequence[str], size: tuple[int, int], path: Path) -> list[Shape]:
    """Return the objects of an image; shapes of one group and label are one."""
    groups: dict[Any, list[Mark]] = {}
    for number, mark in enumerate(annotation.marks):
        if mark.label not in labels:
            raise DataError(f"{path} holds an object {mark.label!r}, which is not among the {len(labels)} classes")
        groups.setdefault(("", number) if mark.group is None else (mark.label, mark.group), []).append(mark)
    shapes = []
    for marks in groups.values():
        label = labels.index(marks[0].label)
        if any(mark.kind == "mask" for mark in marks):
            mask = np.zeros(size, bool)
            for mark in marks:
                mask |= _pixels(mark, label, size, path)
            box = mask_box(mask)
            shapes += [Shape(label=label, box=box, mask=mask)] if box is not None else []
            continue
        polygons = [polygon for mark in marks if (polygon := _outline(mark, path))]
        if polygons:
            height, width = size
            inside = [_clipped(polygon, width, height) for polygon in polygons]
            shapes.append(Shape(label=label, box=outline_box(polygons), polygons=inside))
    return shapes


def _clipped(polygon: Sequence[float], width: int, height: int) -> list[float]:
    """Move corners far outside to the image's border: a mask does not need them, and drawing would take long."""
    sides = (width, height) * (len(polygon) // 2)
    return [min(max(value, -side), 2 * side) for value, side in zip(polygon, map(float, sides), strict=True)]


def _pixels(mark: Mark, label: int, size: tuple[int, int], path: Path) -> NDArray[np.bool_]:
    mask = np.zeros(size, bool)
    if mark.kind != "mask":
        polygon = _outline(mark, path)
        if polygon:
            clipped = _clipped(polygon, size[1], size[0])
            mask |= Shape(label=label, box=outline_box([polygon]), polygons=[clipped]).pixels(size, path)
        return mask
    if not mark.points:
        raise DataError(f"{path}: the mask of {mark.label} has no place")
    try:
        part = imaging.read(base64.b64decode(mark.mask, validate=True))[:, :, 0] > 0
    except (ImageError, binascii.Error, ValueError) as cause:
        raise DataError(f"{path}: the mask of {mark.label} is no image: {cause}") from cause
    left, top = (
        min(max(round(value), 0), side) for value, side in zip(mark.points[0], (size[1], size[0]), strict=True)
    )
    target = mask[top : top + part.shape[0], left : left + part.shape[1]]
    target |= part[: target.shape[0], : target.shape[1]]
    return mask


def _read_image(path: Path, annotation: LabelMeAnnotation) -> NDArray[np.uint8]:
    """Read the image of a JSON file: the one that it names, the one beside it, or the one in it."""
    name = annotation.image.rsplit("/", 1)[-1]
    beside = path.with_name(name) if name else path
    if name and layout.inside(annotation.image) and (path.parent / annotation.image).is_file():
        return read_picture(path.parent / annotation.image, annotation.size)
    if name and beside.is_file() and beside != path:
        return read_picture(beside, annotation.size)
    twin = layout.by_stem(path.parent, 0).get(layout.stem_of(path.name))
    if twin:
        return read_picture(path.parent / twin, annotation.size)
    if not annotation.data:
        raise DataError(f"{path} belongs to the image {annotation.image!r}, which is not there")
    try:
        image = imaging.read(base64.b64decode(annotation.data))
    except (ImageError, binascii.Error, ValueError) as cause:
        raise DataError(f"{path}: its imageData is no image: {cause}") from cause
    if annotation.size is not None and image.shape[:2] != annotation.size:
        height, width = annotation.size
        raise DataError(
            f"{path}: its imageData has {image.shape[1]}x{image.shape[0]} pixels, the file says {width}x{height}"
        )
    return image


def _json_files(root: Path) -> list[str]:
    return [name for name in layout.walk(root) if name.lower().endswith(".json") and _has_shapes(root / name)]


def _has_shapes(path: Path) -> bool:
    """Whether a file is labelme's, by its beginning and end: keys come before and after the image in it."""
    try:
        with path.open("rb") as file:
            head = file.read(4096)
            size = file.seek(0, 2)
            file.seek(max(size - 4096, 0))
            tail = file.read(4096)
    except OSError:
        return False
    return b'"shapes"' in head + tail and any(key in head + tail for key in (b'"imagePath"', b'"imageData"'))


def _is_labelme(root: Path) -> bool:
    """Whether the first JSON files of a folder, or of its folders, are labelme's."""
    if not root.is_dir():
        return False
    there = layout.listing(root, limit=4096)
    places = [root, *(root / name for name in there.folders[:16])]
    places += [place / name for place in places[1:] for name in layout.listing(place, limit=64).folders[:4]]
    for place in places:
        files = [name for name in layout.listing(place, limit=4096).files if name.lower().endswith(".json")][:4]
        if files:
            return any(_has_shapes(place / name) for name in files)
    return False


def _splits(root: Path, hold_out: float) -> Splits[str]:
    named: dict[str, list[str]] = {}
    for name in _json_files(root):
        split = next((split for part in name.split("/")[:-1] if (split := layout.split_name(part))), "")
        named.setdefault(split, []).append(name)
    if len(named) > 1:
        named.pop("", None)
    return layout.make_splits(named, stem=layout.stem_of, hold_out=hold_out)


@functools.lru_cache(maxsize=4)
def _scan(root: Path, modified: int) -> tuple[tuple[str, ...], int]:
    """Return the classes in all files, and the number of shapes."""
    names: set[str] = set()
    count = 0
    for name in _json_files(root):
        marks = read_annotation(root / name).marks
        names.update(mark.label for mark in marks)
        count += len(marks)
    return tuple(sorted(names)), count
