"""YOLO's layout: a text file of boxes or outlines for each image, as many tools write it."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import BoxTarget, Sample
from splitreg_datasets import layout, yolotext
from splitreg_datasets.files import as_image, find_root, read_picture
from splitreg_datasets.layout import Splits
from splitreg_datasets.objects import INSTANCES, object_specs, object_targets, semantic_mask

EXPECTED = "data.yaml or classes.txt, images in images/ (also per split), and text labels in labels/ or beside them"
#: Label files that are checked before training starts; the others when they are read.
CHECKED = 500

#: An image and its label file, which is empty where there is none.
Pair = tuple[str, str]


class Yolo(Dataset):
    """Text labels of YOLO, as Ultralytics, Roboflow, CVAT, Label Studio, LabelImg and Darknet write them.

    ::

        root/data.yaml                              names, and train/val/test: folders, list files, or lists of them
        root/images/<split>/, root/labels/<split>/  or root/<split>/images/, root/<split>/labels/
        root/*.jpg, root/*.txt, root/classes.txt    without splits: 20 % are held out as "val"
        root/obj.data, root/obj.names, root/obj_train_data/     Darknet's

    A line is ``class cx cy w h``, or ``class x0 y0 x1 y1 ...`` for an outline, in fractions of the image. An image
    without label file, or with an empty one, shows no object. Keypoints (``kpt_shape``) are ignored.

    Args:
        root: the folder, or its YAML file; None: ``$SPLITREG_DATA/yolo``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.
        names: class names separated by commas, where no file names them.
        masks: give masks with the boxes, where objects have outlines.
        semantic: ``"instances"``: also give a class per pixel, from the outlines; what lies outside of them is the
            class ``background``.
        four_corners: what objects are of which each has 4 corners: ``"refuse"`` (they may be rotated boxes) or
            ``"polygon"``.
        hold_out: fraction of ``train`` to hold out as ``val``; 0: 20 % where the dataset has no splits.

    Raises:
        DataError: not this layout, or a file that is malformed.
    """

    def __init__(
        self,
        root: str | None = None,
        split: str = "train",
        *,
        names: str = "",
        masks: bool = True,
        semantic: str = "none",
        four_corners: str = "refuse",
        hold_out: float = 0.0,
    ) -> None:
        content = _open(find_root(root, "yolo"), names, hold_out)
        self._semantic = _is_semantic(semantic)
        self.targets = object_specs(content.names, semantic=self._semantic)
        lost = content.missing.get(layout.split_name(split) or split, ())
        if lost:
            sentence = (
                f"{content.config} names {', '.join(map(repr, lost))} for the split {split!r}, which is not there; the "
                f"folder has {layout.contents(content.root)}. Correct the file, or the folder's name"
            )
            if not content.splits.images.get(layout.split_name(split) or split):
                raise DataError(sentence)
            warnings.warn(sentence, stacklevel=2)
        self._pairs = content.splits.select(split, "yolo", content.root)
        self._keypoints = content.keypoints
        self._root = content.root
        if four_corners not in ("refuse", "polygon"):
            raise DataError(f"four_corners must be 'refuse' or 'polygon', got {four_corners!r}")
        labelled = [label for _, label in self._pairs if label]
        outlined = self._check(labelled[:: len(labelled) // CHECKED + 1], four_corners)
        if self._semantic and labelled and not outlined:
            raise DataError(f"the labels of {self._root} are boxes; semantic={semantic} needs outlines")
        self._masks = masks and outlined

    @classmethod
    def describe(
        cls, root: str | None = None, *, names: str = "", semantic: str = "none", **options: Any
    ) -> Mapping[str, TargetSpec]:
        """Return the targets; reads the file that names the classes.

        Raises:
            DataError: not this layout.
        """
        return object_specs(_config(find_root(root, "yolo"), names).names, semantic=_is_semantic(semantic))

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of classes, images and boxes; None if it is another layout."""
        folder = layout.only_folder(Path(root))
        if not _looks_like_yolo(folder):
            return None
        content = _open(folder, "", 0.0)
        return f"yolo: {layout.plural(len(content.names), 'class')}, {content.splits.counts()}, {content.counts()}"

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        image, label = self._pairs[index]
        pixels = read_picture(Path(image))
        size = (pixels.shape[0], pixels.shape[1])
        shapes = [line.shape(size) for line in self._lines(label)]
        targets = object_targets(shapes, self._classes, size, Path(label), masks=self._masks or self._semantic)
        boxes = targets[tasks.DETECTION]
        if self._semantic and isinstance(boxes, BoxTarget):
            targets[tasks.SEGMENTATION] = semantic_mask(boxes, size)
            targets[tasks.DETECTION] = boxes if self._masks else dataclasses.replace(boxes, masks=None)
        return Sample(
            image=as_image(pixels), targets=targets, name=os.path.relpath(image, self._root).replace("\\", "/")
        )

    @property
    def _classes(self) -> int:
        return len(self.targets[tasks.DETECTION].labels)

    def _lines(self, label: str) -> list[yolotext.Line]:
        if not label:
            return []
        path = Path(label)
        return yolotext.read_objects(layout.read_text(path), path, self._classes, self._keypoints)

    def _check(self, labels: Sequence[str], four_corners: str) -> bool:
        """Check some label files; return whether there are outlines."""
        lines = [line for label in labels for line in self._lines(label)]
        if four_corners == "refuse" and yolotext.are_rotated(lines):
            raise DataError(
                f"the labels of {self._root} are rotated boxes (OBB): each object has 4 corners, and they do not lie "
                "along the image's axes. splitreg's boxes have no rotation. To read the corners as outlines, with the "
                "boxes around them, set four_corners=polygon"
            )
        return any(line.is_polygon for line in lines)


def _is_semantic(semantic: str) -> bool:
    if semantic not in ("none", INSTANCES):
        raise DataError(f"semantic must be 'none' or {INSTANCES!r}, got {semantic!r}")
    return semantic == INSTANCES


@dataclass(frozen=True, slots=True, kw_only=True)
class _Content:
    """What is in a folder; ``missing``: split -> places that its file names, without those that are there."""

    root: Path
    config: Path
    missing: Mapping[str, Sequence[str]]
    names: tuple[str, ...]
    keypoints: int
    splits: Splits[Pair]

    def counts(self) -> str:
        """Count boxes and images without any; in the first label files where there are very many."""
        pairs = self.splits.images["all"]
        boxes, empty = 0, 0
        for _, label in pairs[: layout.MAX_COUNTED]:
            lines = (
                yolotext.read_objects(layout.read_text(Path(label)), Path(label), len(self.names), self.keypoints)
                if label
                else []
            )
            boxes += len(lines)
            empty += not lines
        part = "" if len(pairs) <= layout.MAX_COUNTED else f" in the first {layout.MAX_COUNTED:,}"
        return f"{layout.plural(boxes, 'box')}, {layout.plural(empty, 'image')} without labels{part}"


def _config(root: Path, names: str) -> yolotext.Config:
    config = yolotext.find_config(
        layout.only_folder(root) if root.is_dir() else root, layout.option_names(names, "names")
    )
    if config is None:
        if _looks_like_yolo(layout.only_folder(root)):
            raise DataError(
                f"{root} has YOLO labels, but no file names their classes; add classes.txt or set names=a,b,c"
            )
        raise layout.not_this("yolo", root, EXPECTED)
    return config


def _open(root: Path, names: str, hold_out: float) -> _Content:
    config = _config(root, names)
    folder = config.path.parent if root.is_file() else layout.only_folder(root)
    label_of = _LabelFinder()
    if config.splits:
        named = {
            split: [(image, label_of(image)) for image in yolotext.images_of(config, split)] for split in config.splits
        }
    else:
        named = _by_folder(folder, label_of)
    if not any(named.values()):
        raise layout.not_this("yolo", folder, EXPECTED)
    splits = layout.make_splits(named, stem=lambda pair: layout.stem_of(os.path.basename(pair[0])), hold_out=hold_out)
    lost = {
        split: [place for place in places if yolotext.resolve(place, config.folders) is None]
        for split, places in config.splits.items()
        if split != "val" or not splits.fraction  # otherwise a part of train is held out
    }
    return _Content(
        root=folder, config=config.path, missing=lost, names=config.names,
        keypoints=config.keypoints, splits=splits,
    )  # fmt: skip


def _by_folder(root: Path, label_of: _LabelFinder) -> dict[str, list[Pair]]:
    """Sort the images of a folder into the splits that its folders are named for."""
    named: dict[str, list[Pair]] = {}
    for name in layout.images_in(root):
        split = next((split for part in name.split("/")[:-1] if (split := layout.split_name(part))), "")
        named.setdefault(split, []).append((f"{root}/{name}", label_of(f"{root}/{name}")))
    if len(named) > 1:  # beside folders of splits, an image without labels is no part of the dataset
        named[""] = [pair for pair in named.get("", []) if pair[1]]
    return {split: pairs for split, pairs in named.items() if pairs}


class _LabelFinder:
    """Finds label files: in labels/ where an image lies in images/, else beside it, else in a folder labels/ near it."""

    def __init__(self) -> None:
        self._texts: dict[str, tuple[str, dict[str, str]]] = {}
        self._folders: dict[str, list[str]] = {}

    def __call__(self, image: str) -> str:
        folder, name = os.path.split(image)
        stem = layout.stem_of(name)
        if folder not in self._folders:
            self._folders[folder] = _label_folders(Path(folder))
        for place in self._folders[folder]:
            if place not in self._texts:
                files = layout.listing(Path(place)).files
                texts = {layout.stem_of(name): name for name in reversed(files) if name.lower().endswith(".txt")}
                self._texts[place] = place, texts
            where, texts = self._texts[place]
            text = texts.get(stem, "")
            if text and text not in yolotext.NAME_FILES:
                return f"{where}/{text}"
        return ""


def _label_folders(folder: Path) -> list[str]:
    """Return the folders in which the labels of a folder's images may lie, the most likely first."""
    parts = folder.parts
    candidates: list[Path | None] = []
    for depth in range(len(parts) - 1, 0, -1):
        if parts[depth].lower() == "images":
            home = layout.child_folder(Path(*parts[:depth]), "labels")
            candidates.append(home.joinpath(*parts[depth + 1 :]) if home else None)
            break
    candidates += [folder, layout.child_folder(folder, "labels")]
    beside = layout.child_folder(folder.parent, "labels")
    candidates += [beside / folder.name, beside] if beside else []
    return [os.fspath(path) for path in candidates if path is not None and path.is_dir()]


def _looks_like_yolo(root: Path) -> bool:
    """Whether a folder has YOLO's files; looks at a few names and texts."""
    if root.is_file():
        return root.suffix.lower() in (".yaml", ".yml") and bool(yolotext._has_names(root))
    if yolotext.yaml_files(root) or any(name.lower().endswith(".data") for name in layout.listing(root, 4096).files):
        return True
    there = layout.listing(root, limit=4096)
    folders = [name for name in there.folders if name.lower() in ("images", "labels") or layout.split_name(name)]
    places = [root, *(root / name for name in folders)]
    places += [place / name for place in places[1:] for name in layout.listing(place, limit=64).folders[:8]]
    return any(_has_label_texts(place) for place in places)


def _has_label_texts(folder: Path) -> bool:
    """Whether a folder has label files: of the first few texts all read as such, and one has an object."""
    texts = [name for name in layout.listing(folder, limit=4096).files if name.lower().endswith(".txt")]
    labels = [name for name in texts if name.lower() not in yolotext.NAME_FILES][:8]
    contents = []
    for name in labels:
        try:
            contents.append(layout.read_text(folder / name)[:2000])
        except DataError:
            return False
    return any(text.strip() for text in contents) and all(map(yolotext.looks_like_objects, contents))
