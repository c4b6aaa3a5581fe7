"""Images beside folders of dense labels: masks (one class per pixel) and depth, paired by the names of files."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.files import is_image
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import Sample, Target
from splitreg_datasets import depthmaps, labelimages, layout
from splitreg_datasets.files import as_image, find_root, read_picture
from splitreg_datasets.labelimages import UNKNOWN, MaskClasses
from splitreg_datasets.layout import Splits

EXPECTED_MASKS = "images/ and masks/ (or labels/, annotations/; also per split) with files of the same names"
EXPECTED_DEPTH = "images/ and depth/ (also per split) with files of the same names: PNG of 16 bits, NPY or EXR"
_IMAGE_FOLDERS = frozenset(
    {"images", "image", "imgs", "img", "jpegimages", "photos", "rgb", "color", "colour", "leftimg8bit"}
)
_MASK_FOLDERS = frozenset({
    "masks", "mask", "labels", "label", "annotations", "annotation", "segmentationclass", "segmentationclasspng",
    "segmentation", "segmentations", "segmentation_masks", "gt", "ground_truth", "groundtruth", "targets", "gtfine",
})  # fmt: skip
_DEPTH_FOLDERS = frozenset({"depth", "depths", "depth_maps", "depthmaps", "depth_map"})
_FOLDER_ENDS = ("annot", "_annot", "_labels", "_label", "_masks", "_mask", "_gt")
_STEM_ENDS = (
    "_mask",
    "-mask",
    "_masks",
    "_seg",
    "_segmentation",
    "_label",
    "_labels",
    "_gt",
    "_annotation",
    "_l",
    "_depth",
)

#: Folders below the root and stem, without what tells images from labels.
Key = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseEntry:
    """An image with its labels: paths relative to the root, empty where there are none."""

    image: str
    mask: str = ""
    depth: str = ""


class Masks(Dataset):
    """Images and masks in folders beside each other, or with names that tell them apart.

    ::

        root/images/a.jpg, root/masks/a.png                   also root/images/<split>/ or root/<split>/images/
        root/<split>/a.jpg, root/<split>_labels/a.png         also <split>annot, <split>_masks
        root/<split>/a.jpg, root/<split>/a_mask.png, root/<split>/_classes.csv         Roboflow
        root/depth/a.png                                      optional: depth too, see the dataset "depth"

    A mask holds an index or a colour per pixel. Classes come from the option ``classes``, or from a file:
    ``labelmap.txt`` (CVAT), ``class_dict.csv`` (name, r, g, b), ``_classes.csv`` (Roboflow), ``label_colors.txt``
    (CamVid), ``class_names.txt`` or ``classes.txt``. Without names, masks of two values (0 and 255, or 0 and 1) are
    background and foreground. A pixel that no class stands for is ignored; there is one warning about them. Images
    without mask are left out.

    Args:
        root: the folder; None: ``$SPLITREG_DATA/masks``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.
        classes: names of the classes from 0 on, separated by commas.
        values: the stored value of each class, separated by commas; empty: 0, 1, 2, ...
        class_file: file of names and colours, relative to the root, if it has another name.
        unit: metres of one step of an integer depth.
        hold_out: fraction of ``train`` to hold out as ``val``; 0: 20 % where the dataset has no splits.

    Raises:
        DataError: not this layout, or classes without names.
    """

    def __init__(
        self,
        root: str | None = None,
        split: str = "train",
        *,
        classes: str = "",
        values: str = "",
        class_file: str = "",
        unit: float = 0.001,
        hold_out: float = 0.0,
    ) -> None:
        self.targets = self.describe(root, classes=classes, values=values, class_file=class_file)
        self._root, entries = _open(root, "masks")
        self._classes = _find_classes(self._root, entries, classes, values, class_file)
        self._unit = unit
        self._entries = _splits(entries, hold_out).select(split, "masks", self._root)
        _check_masks(self._root, self._entries, self._classes)

    @classmethod
    def describe(
        cls, root: str | None = None, *, classes: str = "", values: str = "", class_file: str = "", **options: Any
    ) -> Mapping[str, TargetSpec]:
        """Return the targets; looks into a few masks where nothing names the classes.

        Raises:
            DataError: not this layout, or classes without names.
        """
        folder, entries = _open(root, "masks")
        names = _find_classes(folder, entries, classes, values, class_file).names
        targets = {tasks.SEGMENTATION: TargetSpec(task=tasks.SEGMENTATION, labels=names)}
        if any(entry.depth for entry in entries):
            targets[tasks.DEPTH] = TargetSpec(task=tasks.DEPTH)
        return targets

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of classes and images; None if it is another layout."""
        folder = layout.only_folder(Path(root))
        if not _looks_dense(folder, mask=True) or layout.child(
            folder, "JPEGImages", "leftImg8bit", "objectInfo150.txt"
        ):
            return None  # VOC, Cityscapes and ADE20K have readers of their own
        entries = [entry for entry in pair(folder) if entry.mask]
        if not entries:
            return None
        table = labelimages.find_classes(_class_folder(folder, entries))
        known = layout.plural(len(table.names), "class") if table else "classes not named"
        deep = " with depth" if any(entry.depth for entry in entries) else ""
        return f"masks: {known}, {_splits(entries, 0.0).counts()} with masks{deep}"

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self._entries[index]
        path = self._root / entry.image
        image = read_picture(path)
        size = (image.shape[0], image.shape[1])
        mask = labelimages.read_mask(self._root / entry.mask, self._classes, size, path)
        targets: dict[str, Target | None] = {tasks.SEGMENTATION: labelimages.mask_target(mask)}
        if entry.depth:
            targets[tasks.DEPTH] = depthmaps.read_depth(self._root / entry.depth, size, path, unit=self._unit)
        return Sample(image=as_image(image), targets=targets, name=entry.image)


class DepthMaps(Dataset):
    """Images and depth in folders beside each other.

    ::

        root/images/a.jpg, root/depth/a.png       also root/images/<split>/ or root/<split>/images/
        root/images/a.jpg, root/depth/a.npy       likewise
        root/images/a.jpg, root/depth/a.exr       likewise; needs the package OpenEXR

    Integers (PNG or TIFF of 16 bits, NPY) count steps of ``unit``; floats (NPY, EXR, TIFF) are metres. 0, negative, NaN
    and infinite values, and those beyond ``max_depth``, are unknown.

    Args:
        root: the folder; None: ``$SPLITREG_DATA/depth``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.
        unit: metres of one step of an integer: 0.001 for millimetres.
        max_depth: metres beyond which a depth is unknown.
        hold_out: fraction of ``train`` to hold out as ``val``; 0: 20 % where the dataset has no splits.

    Raises:
        DataError: not this layout.
    """

    def __init__(
        self,
        root: str | None = None,
        split: str = "train",
        *,
        unit: float = 0.001,
        max_depth: float = 1000.0,
        hold_out: float = 0.0,
    ) -> None:
        self.targets = self.describe(root)
        if unit <= 0 or max_depth <= 0:
            raise DataError(f"unit and max_depth must be above 0, got {unit} and {max_depth}")
        self._root, entries = _open(root, "depth")
        self._unit, self._max_depth = unit, max_depth
        self._entries = _splits(entries, hold_out).select(split, "depth", self._root)

    @classmethod
    def describe(cls, root: str | None = None, **options: Any) -> Mapping[str, TargetSpec]:
        """Return the target; reads names only.

        Raises:
            DataError: not this layout.
        """
        _open(root, "depth")
        return {tasks.DEPTH: TargetSpec(task=tasks.DEPTH)}

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of images; None if it is another layout."""
        folder = layout.only_folder(Path(root))
        if not _looks_dense(folder, mask=False):
            return None
        entries = [entry for entry in pair(folder) if entry.depth]
        return f"depth: {_splits(entries, 0.0).counts()} with depth" if entries else None

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self._entries[index]
        path = self._root / entry.image
        image = read_picture(path)
        depth = depthmaps.read_depth(
            self._root / entry.depth, (image.shape[0], image.shape[1]), path, unit=self._unit, max_depth=self._max_depth
        )
        return Sample(image=as_image(image), targets={tasks.DEPTH: depth}, name=entry.image)


# --- pairs


def pair(root: Path) -> list[DenseEntry]:
    """Pair the images of a folder with their labels.

    Folder names (``images``, ``masks``) and the ends of names (``_mask``, ``annot``) tell labels from images; what
    remains of a path must be equal, suffix apart.
    """
    images: dict[Key, str] = {}
    labels: dict[str, dict[Key, str]] = {"mask": {}, "depth": {}}
    pending: list[tuple[Key, str]] = []
    for name in layout.walk(root):
        kind, key = _classify(name)
        if kind == "image" and is_image(name):
            shorter = _without_end(key)
            if shorter is not None:
                pending.append((shorter, name))  # a_mask.png is the mask of a.jpg only if that is there
            images.setdefault(key, name)
        elif (kind == "mask" and is_image(name)) or (kind == "depth" and depthmaps.is_depth(name)):
            labels[kind].setdefault(key, name)
            shorter = _without_end(key)
            if shorter is not None:
                labels[kind].setdefault(shorter, name)
    for key, name in pending:
        if key in images:
            kind = "depth" if layout.stem_of(name).lower().endswith("_depth") else "mask"
            if labels[kind].setdefault(key, name) == name:
                images.pop((*key[:-1], layout.stem_of(os.path.basename(name))), None)
    return [
        DenseEntry(image=name, mask=labels["mask"].get(key, ""), depth=labels["depth"].get(key, ""))
        for key, name in images.items()
    ]


def _classify(name: str) -> tuple[str, Key]:
    """Return what a file is by its folders (image, mask or depth), and the key that it shares with its partner."""
    *folders, last = name.split("/")
    kind, key = "image", []
    for folder in (folder.lower() for folder in folders):
        if folder in _MASK_FOLDERS:
            kind = "mask"
        elif folder in _DEPTH_FOLDERS:
            kind = "depth"
        elif folder not in _IMAGE_FOLDERS:
            end = next((end for end in _FOLDER_ENDS if folder.endswith(end) and folder != end), "")
            kind = "mask" if end else kind
            key.append(folder.removesuffix(end) if end else folder)
    return kind, (*key, layout.stem_of(last))


def _without_end(key: Key) -> Key | None:
    stem = key[-1]
    end = next((end for end in _STEM_ENDS if stem.lower().endswith(end) and len(stem) > len(end)), None)
    return None if end is None else (*key[:-1], stem[: len(stem) - len(end)])


def _open(root: str | None, dataset: str) -> tuple[Path, list[DenseEntry]]:
    folder = find_root(root, dataset)
    folder = layout.only_folder(folder)
    entries = pair(folder) if folder.is_dir() else []
    entries = [entry for entry in entries if (entry.mask if dataset == "masks" else entry.depth)]
    if not entries:
        raise layout.not_this(dataset, folder, EXPECTED_MASKS if dataset == "masks" else EXPECTED_DEPTH)
    return folder, entries


def _splits(entries: Sequence[DenseEntry], hold_out: float) -> Splits[DenseEntry]:
    named: dict[str, list[DenseEntry]] = {}
    for entry in entries:
        key = _classify(entry.image)[1][:-1]
        named.setdefault(next((split for part in key if (split := layout.split_name(part))), ""), []).append(entry)
    if len(named) > 1:
        named.pop("", None)
    return layout.make_splits(named, stem=lambda entry: layout.stem_of(entry.image), hold_out=hold_out)


def _looks_dense(root: Path, *, mask: bool) -> bool:
    """Whether a folder has folders or files of images and of labels; looks at a few names."""
    if not root.is_dir():
        return False
    there = layout.listing(root, limit=4096)
    inner = {
        f"{name}/{part}" for name in there.folders if layout.split_name(name)
        for part in layout.listing(root / name, limit=64).folders
    }  # fmt: skip
    kinds = {kind for name in {*there.folders, *inner} if (kind := _classify(f"{name}/x.png")[0])}
    if ("mask" if mask else "depth") in kinds:
        wanted = _MASK_FOLDERS if mask else _DEPTH_FOLDERS
        places = [
            root / name
            for name in {*there.folders, *inner}
            if name.split("/")[-1].lower() in wanted or not mask or "/" not in name
        ]
        return any(_has_labels(place, mask) for place in places if _classify(f"{place.name}/x")[0] != "image")
    places = [root, *(root / name for name in there.folders if layout.split_name(name))]
    return mask and any(_has_pairs(layout.listing(place, limit=4096).images()) for place in places)


def _has_labels(folder: Path, mask: bool) -> bool:
    names = [folder.name + "/" + name for _, name in zip(range(64), layout.walk(folder, depth=3), strict=False)]
    return any(is_image(name) if mask else depthmaps.is_depth(name) for name in names)


def _has_pairs(names: Iterable[str]) -> bool:
    stems = {layout.stem_of(name) for name in names}
    return any((shorter := _without_end((stem,))) is not None and shorter[0] in stems for stem in stems)


# --- classes


def _class_folder(root: Path, entries: Sequence[DenseEntry]) -> Path:
    """Return the folder whose file names the classes: the root, or one of a split or of the masks."""
    folders = dict.fromkeys([root, *((root / entry.mask).parent for entry in entries[:256])])
    parents = dict.fromkeys([*folders, *(folder.parent for folder in folders if folder != root)])
    return next((folder for folder in parents if layout.child(folder, *labelimages.CLASS_FILES)), root)


def _find_classes(root: Path, entries: Sequence[DenseEntry], classes: str, values: str, class_file: str) -> MaskClasses:
    """Return what the masks' pixels stand for.

    Raises:
        DataError: classes without names.
    """
    names = layout.option_names(classes)
    if names:
        stored = _values(values, len(names))
        usual = labelimages.indexed_classes(names)
        return usual if stored is None else MaskClasses(names=names, values=stored)
    if class_file:
        return labelimages.read_classes(root / class_file)
    table = labelimages.find_classes(_class_folder(root, entries))
    return table or _binary(root, entries)


def _values(text: str, classes: int) -> tuple[int, ...] | None:
    if not text.strip():
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) != classes or len(parts) != classes:
        raise DataError(f"values must be {classes} different whole numbers, one per class; got {text!r}")
    return tuple(map(int, parts))


def _binary(root: Path, entries: Sequence[DenseEntry]) -> MaskClasses:
    """Return background and foreground for masks of two values.

    Raises:
        DataError: there are more values, which need names.
    """
    stored: set[Any] = set()
    some = _some(entries)
    deeper = [entry for entry in some if not labelimages.has_few_bits(root / entry.mask)]
    for entry in deeper or some:
        labels = labelimages.read_labels(root / entry.mask)
        flat = labels.reshape(-1, 3) if labels.ndim == 3 else labels.reshape(-1)
        stored.update(tuple(v) if labels.ndim == 3 else int(v) for v in np.unique(flat, axis=0).tolist())
        if len(stored) > 64:
            break
    names = ("background", "foreground")
    grey = {value if isinstance(value, int) else value[0] for value in stored}
    if all(isinstance(value, int) or len(set(value)) == 1 for value in stored):
        if grey <= {0, 255}:
            return MaskClasses(names=names, values=(0, 255), colours=((0, 0, 0), (255, 255, 255)), ignored=())
        if grey <= {0, 1, 255}:
            return labelimages.indexed_classes(names)
    shown = ", ".join(str(value) for value in sorted(stored, key=str)[:8])
    raise DataError(
        f"the masks of {root} hold {len(stored)} values ({shown}{', ...' if len(stored) > 8 else ''}), and nothing names "
        "their classes; add class_names.txt (one name per line from value 0 on) or a file of colours, or set "
        "classes=background,first,..."
    )


def _some(entries: Sequence[DenseEntry]) -> Sequence[DenseEntry]:
    return entries[:: len(entries) // labelimages.CHECKED + 1]


def _check_masks(root: Path, entries: Sequence[DenseEntry], classes: MaskClasses) -> None:
    """Look at some masks before training: all unknown is an error, a part gets a warning."""
    unknown, pixels, which = 0, 0, ""
    some = _some(entries)
    for entry in some:
        path = root / entry.mask
        mask = labelimages.class_indexes(path, classes)
        missing = mask == UNKNOWN
        unknown, pixels = unknown + int(missing.sum()), pixels + mask.size
        if not which and missing.any():
            which = f"{labelimages.example(path, classes)} in {path}"
    indexes = (labelimages.class_indexes(root / entry.mask, classes) for entry in some)
    labelimages.check_foreground(indexes, classes, root, "set values=0,255")
    if not unknown:
        return
    if unknown == pixels:
        raise DataError(f"no pixel of the masks of {root} is of one of the {len(classes.names)} classes: {which}")
    warnings.warn(
        f"{unknown / pixels:.1%} of the pixels in {len(some)} masks of {root} are of no class and are ignored, for "
        f"instance {which}",
        stacklevel=3,
    )
