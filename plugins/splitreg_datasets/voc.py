"""PASCAL VOC's layout: boxes and classes present from XML, semantic labels from label images."""

from __future__ import annotations

import csv
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import IGNORE, ClassTarget, Sample, Target
from splitreg_datasets import labelimages, layout
from splitreg_datasets.files import as_image, find_root, first_existing, read_picture
from splitreg_datasets.labelimages import UNKNOWN, MaskClasses
from splitreg_datasets.objects import Shape, object_specs, object_targets
from splitreg_datasets.vocxml import VocAnnotation, is_annotation, read_annotation, summary

VOC20 = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
EXPECTED = (
    "JPEGImages/ and ImageSets/Main/<split>.txt with Annotations/*.xml or SegmentationClass/*.png, or images with "
    "XML files beside them or in Annotations/"
)
_MASKS = ("SegmentationClass", "SegmentationClassPNG")
_IMAGES = ("JPEGImages", "images", "imgs")


class Voc(Dataset):
    """A folder of PASCAL VOC's layout, or what labelling tools call VOC.

    ::

        root/JPEGImages/, root/ImageSets/Main/<split>.txt (or ImageSets/Segmentation/)
        root/Annotations/<name>.xml               boxes; "difficult" ones count as crowds
        root/SegmentationClass/<name>.png         class indexes or VOC's colours, 0 background, 255 unknown
        root/classes_<split>.csv                  optional: file_name, class_index, class name: the image's class
        root/labelmap.txt, root/class_names.txt   optional: names (and colours) of the classes: CVAT, labelme
        root/<split>/*.jpg, root/<split>/*.xml    Roboflow
        root/*.jpg, root/*.xml                    LabelImg, or root/images/ and root/Annotations/

    ``root/VOCdevkit/VOC2012`` and the like are found too. Without ImageSets and folders of splits 20 % are held out as
    "val". Class names of boxes: ``classes``, or VOC's 20 where ``ImageSets/Main`` lists them (``cat_train.txt``), or
    those of ``labelmap.txt``, or the names that the XML files hold. Class names of segmentation: ``mask_classes``, or
    the names of ``classes_*.csv``, of ``labelmap.txt`` or ``class_names.txt``, or those of the boxes.

    Args:
        root: the folder; None: ``$SPLITREG_DATA/voc``.
        split: ``"train"``, ``"val"``, ``"trainval"``, ...
        image_set: ``"Main"`` or ``"Segmentation"``; empty: the first that has the split.
        classes: names of the boxes' classes, separated by commas.
        mask_classes: names of the mask's classes from 1 on, separated by commas (0 is the background).
        origin: coordinate of the first pixel in the XML files: ``"1"`` as VOC has it, ``"0"`` as CVAT and Label Studio
            write it, or ``"auto"``: 0 if a box begins at 0 or the files are of those tools.
        hold_out: fraction of ``train`` to hold out as ``val``; 0: 20 % where the dataset has no splits.

    Raises:
        DataError: not this layout, or a file that contradicts itself.
    """

    def __init__(
        self,
        root: str | None = None,
        split: str = "train",
        *,
        image_set: str = "",
        classes: str = "",
        mask_classes: str = "",
        origin: str = "auto",
        hold_out: float = 0.0,
    ) -> None:
        self.targets = self.describe(root, classes=classes, mask_classes=mask_classes)
        self._files = _find_files(find_root(root, "voc"))
        if origin not in ("auto", "0", "1"):
            raise DataError(f"origin must be 'auto', '0' or '1', got {origin!r}")
        self._origin = _origin(self._files) if origin == "auto" else int(origin)
        named = _named(self._files, image_set, layout.split_name(split) or split)
        splits = layout.make_splits(named, stem=os.path.basename, hold_out=hold_out)
        self._names = splits.select(split, "voc", self._files.root)
        csv_file = first_existing(self._files.root / f"classes_{name}.csv" for name in _spellings(split))
        self._whole = _read_classes(csv_file)[0] if csv_file else {}
        self._mask_classes = _mask_classes(self._files, self.targets)
        self._check_masks()

    @classmethod
    def describe(
        cls, root: str | None = None, *, classes: str = "", mask_classes: str = "", **options: Any
    ) -> Mapping[str, TargetSpec]:
        """Return the targets.

        Raises:
            DataError: not this layout.
        """
        files = _find_files(find_root(root, "voc"))
        targets: dict[str, TargetSpec] = {}
        table = labelimages.find_classes(files.root)
        boxes = layout.option_names(classes) or _box_classes(files, table)
        if boxes:
            targets.update(object_specs(boxes))
        listed = _csv_classes(files.root)
        if listed:
            targets[tasks.CLASSIFICATION] = TargetSpec(task=tasks.CLASSIFICATION, labels=listed)
        if files.masks:
            names = layout.option_names(mask_classes, "mask_classes") or listed
            masks = ("background", *names) if names else table.names if table else ("background", *(boxes or VOC20))
            targets[tasks.SEGMENTATION] = TargetSpec(task=tasks.SEGMENTATION, labels=masks)
        if not targets:
            raise layout.not_this("voc", files.root, EXPECTED)
        return targets

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of classes, images and boxes; None if it is another layout."""
        if not Path(root).is_dir() or not _looks_like_voc(Path(root)):
            return None
        files = _find_files(Path(root))
        targets = cls.describe(root)
        splits = layout.make_splits(_named(files, ""), stem=os.path.basename)
        names = list(splits.images["all"])[: layout.MAX_COUNTED]
        parts = [f"voc: {layout.plural(len(targets[task].labels), 'class')}" for task in targets][:1]
        parts.append(splits.counts())
        if tasks.DETECTION in targets:
            xml = [path for name in names if (path := files.annotation(name))]
            parts.append(layout.plural(sum(summary(path).objects for path in xml), "box"))
            parts.append(f"{layout.plural(len(names) - len(xml), 'image')} without XML")
        if files.masks:
            parts.append(layout.plural(sum(name in files.masks for name in names), "label image"))
        return ", ".join(parts)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Sample:
        name = self._names[index]
        xml = self._files.annotation(name)
        annotation = read_annotation(xml) if tasks.DETECTION in self.targets and xml else None
        path = self._files.root / self._files.images[name]
        image = read_picture(path, annotation.size if annotation else None)
        size = (image.shape[0], image.shape[1])
        targets: dict[str, Target | None] = {}
        if annotation is not None and xml is not None:
            labels = self.targets[tasks.DETECTION].labels
            shapes = _shapes(annotation, labels, self._origin, xml)
            targets.update(object_targets(shapes, len(labels), size, xml))
        if tasks.SEGMENTATION in self.targets and name in self._files.masks:
            targets[tasks.SEGMENTATION] = labelimages.mask_target(self._mask(name, size, path))
        if path.name in self._whole:
            targets[tasks.CLASSIFICATION] = ClassTarget(index=self._whole[path.name])
        return Sample(image=as_image(image), targets=targets, name=self._files.sample_name(name))

    def _mask(self, name: str, size: tuple[int, int], image: Path) -> Any:
        path = self._files.root / self._files.masks[name]
        mask = labelimages.read_mask(path, self._mask_classes, size, image)
        if (mask == UNKNOWN).any():
            raise DataError(
                f"{path} holds {labelimages.example(path, self._mask_classes)}, which no label stands for; name the classes: "
                "mask_classes=first,second,..."
            )
        return mask

    def _check_masks(self) -> None:
        """Refuse masks of 0 and 255 alone: they are of tools that mean the foreground by 255, not "unknown"."""
        names = [name for name in self._names if name in self._files.masks]
        some = names[:: len(names) // labelimages.CHECKED + 1]
        values: set[int] = set()
        for name in some:
            path = self._files.root / self._files.masks[name]
            values.update(np.unique(labelimages.class_indexes(path, self._mask_classes)).tolist())
            if values - {0, IGNORE}:
                return
        if IGNORE in values:
            raise DataError(
                f"the label images of {self._files.root} hold no class but the background: of {len(some)} that were "
                "looked at all pixels are 0 or 255, and 255 is VOC's value for unknown. If 255 is the foreground, use "
                "the dataset masks"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Where the files of a dataset are.

    Args:
        root: the folder.
        images: name -> path relative to the root; a name is a path without suffix, relative to the images' folder.
        masks: likewise of label images.
        annotations: folder of the XML files, None where they lie beside the images.
    """

    root: Path
    images: Mapping[str, str]
    masks: Mapping[str, str]
    annotations: Path | None

    def annotation(self, name: str) -> Path | None:
        """Return the XML file of an image, None without one."""
        image = self.root / self.images[name]
        base = self.annotations / name if self.annotations is not None else image.parent / layout.stem_of(image.name)
        return first_existing(base.with_name(f"{base.name}{suffix}") for suffix in (".xml", ".XML"))

    def sample_name(self, name: str) -> str:
        """Return the name of a sample: its file's name below the folder of images."""
        return f"{name}{os.path.splitext(self.images[name])[1]}"


def _find_files(folder: Path) -> _Files:
    """Find the files of a dataset.

    Raises:
        DataError: there are no images.
    """
    root = _voc_root(folder)
    where = layout.child_folder(root, *_IMAGES)
    prefix = f"{where.name}/" if where else ""
    images = {stem: prefix + name for stem, name in layout.by_stem(where or root).items()}
    annotations = layout.child_folder(root, "Annotations")
    masks = layout.child_folder(root, *_MASKS)
    labels = {stem: f"{masks.name}/{name}" for stem, name in layout.by_stem(masks).items()} if masks else {}
    if where is None:
        kept = {"annotations", *(name.lower() for name in _MASKS)}
        images = {stem: name for stem, name in images.items() if name.split("/")[0].lower() not in kept}
    files = _Files(root=root, images=images, masks=labels, annotations=annotations)
    if not images:
        raise layout.not_this("voc", root, EXPECTED)
    return files


def _voc_root(folder: Path) -> Path:
    if not folder.is_dir():
        raise layout.not_this("voc", folder, EXPECTED)
    inner = [*sorted(folder.glob("VOCdevkit/VOC*"), reverse=True), *sorted(folder.glob("VOC20*"), reverse=True)]
    return next((candidate for candidate in inner if (candidate / "JPEGImages").is_dir()), layout.only_folder(folder))


def _looks_like_voc(folder: Path) -> bool:
    """Whether a folder has VOC's files; looks at names and a few XML files."""
    root = _voc_root(folder)
    there = layout.listing(root, limit=4096)
    names = {name.lower() for name in there.folders}
    if "jpegimages" in names and names & {"annotations", "imagesets", *(name.lower() for name in _MASKS)}:
        return True
    places = [
        root,
        *(root / name for name in there.folders if layout.split_name(name) or name.lower() == "annotations"),
    ]
    for place in places:
        xml = [name for name in layout.listing(place, limit=4096).files if name.lower().endswith(".xml")][:8]
        if xml and all(is_annotation(place / name) for name in xml):
            return True
    return False


def _named(files: _Files, image_set: str, split: str = "") -> dict[str, list[str]]:
    """Return split -> names of images, from ImageSets or from folders of splits; of no split: an empty name."""
    sets = layout.child_folder(files.root, "ImageSets")
    folders = (
        [layout.child_folder(sets, name) for name in ([image_set] if image_set else ("Main", "Segmentation"))]
        if sets
        else []
    )
    listings: dict[str, Path] = {}
    for folder in folders:
        for name in layout.listing(folder).files if folder else ():
            stem = layout.stem_of(name)
            if name.lower().endswith(".txt") and "_" not in stem and folder:
                listings.setdefault("" if stem == "default" else layout.split_name(stem) or stem, folder / name)
    if listings:
        chosen = {
            key: path for key, path in listings.items() if not split or split == "all" or key in (split, "train", "")
        }
        named = {key: _listed(path, files) for key, path in chosen.items()}
        return {**{key: [] for key in listings}, **named}
    named = {}
    for name, path in files.images.items():
        if files.annotation(name) or name in files.masks:
            parts = path.split("/")[:-1]
            key = next((found for part in parts if (found := layout.split_name(part))), "")
            named.setdefault(key, []).append(name)
    if not named:
        raise layout.not_this("voc", files.root, EXPECTED)
    return named


def _listed(path: Path, files: _Files) -> list[str]:
    """Read a list of images: a name per line, which may have spaces, and perhaps whether it shows a class."""
    names = []
    for number, line in enumerate(layout.read_lines(path), 1):
        written = layout.stored_name(line)
        if not layout.inside(written):
            raise DataError(f"{path}, line {number}: {line!r} leads out of the folder of images")
        head, _, flag = line.rpartition(" ")
        candidates = [written, layout.stem_of(written), *([head.strip()] if flag in ("-1", "0", "1") else [])]
        name = next((name for name in candidates if name in files.images), None)
        if name is None:
            raise DataError(
                f"{path}, line {number}: there is no image {written}.jpg (or with another suffix) in {files.root}"
            )
        names.append(name)
    if not names:
        raise DataError(f"{path} lists no image")
    return names


def _spellings(split: str) -> Sequence[str]:
    return [split, *layout.SPLITS.get(layout.split_name(split) or "", ())]


def _is_official(files: _Files) -> bool:
    return (files.root / "ImageSets" / "Main" / f"{VOC20[0]}_train.txt").exists()


def _box_classes(files: _Files, table: MaskClasses | None) -> tuple[str, ...]:
    if _is_official(files):
        return VOC20
    scanned = _scan_files(files)
    if table is not None and scanned.names <= set(table.names) and scanned.objects:
        return tuple(name for name in table.names if name != "background" or name in scanned.names)
    return tuple(name for name in VOC20 if name in scanned.names) + tuple(sorted(scanned.names.difference(VOC20)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scan:
    names: frozenset[str]
    objects: int
    origin: int


def _scan_files(files: _Files) -> _Scan:
    folder = files.annotations or files.root
    return _scan(folder, files.annotations is None, folder.stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _scan(folder: Path, beside: bool, modified: int) -> _Scan:
    """Read the names of classes in all XML files, and whether coordinates count from 0."""
    found = [summary(folder / name) for name in layout.walk(folder) if name.lower().endswith(".xml")]
    return _Scan(
        names=frozenset(name for item in found for name in item.names),
        objects=sum(item.objects for item in found),
        origin=0 if any(item.from_zero for item in found) else 1,
    )


def _origin(files: _Files) -> int:
    """Return the coordinate of the first pixel: 0 where a box begins there, or in exports of CVAT and Label Studio."""
    if _is_official(files):
        return 1
    return 0 if layout.child(files.root, "labelmap.txt") else _scan_files(files).origin


def _mask_classes(files: _Files, targets: Mapping[str, TargetSpec]) -> MaskClasses:
    names = targets[tasks.SEGMENTATION].labels if tasks.SEGMENTATION in targets else ()
    table = labelimages.find_classes(files.root)
    return table if table is not None and table.names == names else labelimages.indexed_classes(names)


def _shapes(annotation: VocAnnotation, labels: tuple[str, ...], origin: int, path: Path) -> list[Shape]:
    shapes = []
    for thing in annotation.objects:
        if thing.name not in labels:
            raise DataError(f"{path} holds an object {thing.name!r}, which is not among the {len(labels)} classes")
        x0, y0, x1, y1 = (
            thing.box
        )  # the last pixel belongs to the box: counted from 1, its end is the coordinate itself
        box = (x0 - origin, y0 - origin, x1, y1)
        shapes.append(Shape(label=labels.index(thing.name), box=box, crowd=thing.difficult))
    return shapes


def _csv_classes(folder: Path) -> tuple[str, ...]:
    """Return the class names of all ``classes_*.csv``, which must not contradict each other."""
    names: dict[int, str] = {}
    for path in sorted(folder.glob("classes_*.csv")):
        for index, name in _read_classes(path)[1].items():
            if names.setdefault(index, name) != name:
                raise DataError(f"{path}: class {index} is {name!r} here and {names[index]!r} in another split")
    if sorted(names) != list(range(len(names))):
        raise DataError(f"{folder}/classes_*.csv hold the class indexes {sorted(names)}; expected 0, 1, 2, ...")
    return tuple(names[index] for index in range(len(names)))


def _read_classes(path: Path) -> tuple[dict[str, int], dict[int, str]]:
    """Return file name -> class index, and class index -> name (the column after ``class_index``)."""
    whole: dict[str, int] = {}
    names: dict[int, str] = {}
    try:
        rows = list(csv.reader(layout.read_text(path).splitlines()))
    except csv.Error as cause:
        raise DataError(f"{path} is not CSV: {cause}") from cause
    if not rows or rows[0][:2] != ["file_name", "class_index"] or len(rows[0]) < 3:
        raise DataError(f"{path}: expected the columns file_name, class_index and a class name, got {rows[:1]}")
    for number, row in enumerate(rows[1:], 2):
        if len(row) < 3 or not row[1].isdecimal():
            raise DataError(f"{path}, line {number}: expected a file name, a class index and a class name, got {row}")
        whole[row[0]] = int(row[1])
        names[int(row[1])] = row[2]
    return whole, names
