"""COCO's layout: boxes, masks, keypoints, classes present; semantic labels from panoptic files or label images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import Sample, Target
from splitreg_datasets import cocofiles, layout
from splitreg_datasets import semantic as labels
from splitreg_datasets.cocofiles import AnnotationFile
from splitreg_datasets.files import as_image, find_root, read_picture
from splitreg_datasets.instances import (
    Instances,
    object_categories,
    read_categories,
    read_instances,
    unused_parents,
)
from splitreg_datasets.keypoints import Keypoints, read_keypoints
from splitreg_datasets.layout import Splits
from splitreg_datasets.objects import INSTANCES, object_specs, object_targets, semantic_mask

EXPECTED = (
    "annotations/instances_<split>.json (or <split>2017) beside <split>/ (or <split>2017/, images/<split>/), "
    "<split>/_annotations.coco.json, or one COCO JSON"
)


class Coco(Dataset):
    """A folder of COCO's layout, or what labelling tools call COCO.

    ::

        root/annotations/instances_<split>[2017].json
        root/annotations/panoptic_<split>[2017].json, panoptic_<split>[2017]/     optional: semantic labels
        root/annotations/semantic_<split>[2017]/                                  optional: 8-bit PNG, category ids
        root/annotations/person_keypoints_<split>[2017].json                      if there are no instances, or named
        root/<split>[2017]/ or root/images/<split>[2017]/
        root/<split>/_annotations.coco.json, root/<split>/*.jpg                   Roboflow
        root/annotations/instances_default.json, root/images/                     CVAT; 20 % are held out as "val"
        root/result.json, root/images/                                            Label Studio; also any other one JSON

    Category ids may have gaps; class indexes follow rising ids. Semantic id 0 and panoptic pixels without a segment are
    unknown (``IGNORE``). A class seen only in a crowd region is unknown to the multi-label target. With panoptic files
    alone, objects are the segments of things. Roboflow's category 0, which only groups the others, is left out unless
    an object has it. Categories that list ``keypoints`` give the target ``pose`` too, with a point per name. Of COCO, set
    ``annotations`` to ``"annotations/person_keypoints_{split}2017.json"``: persons with boxes, masks and keypoints.

    Args:
        root: the folder; None: ``$SPLITREG_DATA/coco``.
        split: ``"train"``, ``"val"``, ...
        annotations: another instances JSON, relative to the root, as in ``"instances_{split}.json"``. A file whose name
            holds no split is of none.
        images: another folder of images, relative to the root; ``{split}`` stands for the split here too.
        semantic: where semantic labels come from: ``"png"``, ``"panoptic"``, ``"auto"`` (whichever is there, label
            images first), ``"instances"`` (the objects' masks, with the class ``background``) or ``"none"``.
        masks: give masks with the boxes.
        min_objects: leave out images with fewer objects (crowds do not count).
        hold_out: fraction of ``train`` to hold out as ``val``; 0: 20 % where the dataset has no splits.

    Raises:
        DataError: not this layout, or a file that contradicts itself.
    """

    def __init__(
        self,
        root: str | None = None,
        split: str = "train",
        *,
        annotations: str = "",
        images: str = "",
        semantic: str = "auto",
        masks: bool = True,
        min_objects: int = 0,
        hold_out: float = 0.0,
    ) -> None:
        self.targets = self.describe(root, annotations=annotations, semantic=semantic)
        folder, sources = _sources(root, annotations)
        chosen = _chosen(folder, sources, split, hold_out)
        found = "none" if semantic == INSTANCES else semantic
        self._parts = [_open(folder, source, images, found, self.targets) for source in chosen]
        self._masks, self._instances = masks, semantic == INSTANCES
        self._images = _splits(self._parts, min_objects, hold_out).select(split, "coco", folder)

    @classmethod
    def describe(
        cls, root: str | None = None, *, annotations: str = "", semantic: str = "auto", **options: Any
    ) -> Mapping[str, TargetSpec]:
        """Return the targets; reads the smallest of the JSON files, which all list the same categories.

        Raises:
            DataError: not this layout.
        """
        folder, sources = _sources(root, annotations)
        smallest = min((source.path for source in sources), key=lambda path: (path.stat().st_size, path.name))
        names = _categories(smallest, sources)
        instances = semantic == INSTANCES
        if instances and any(source.panoptic for source in sources):
            raise DataError(f"{smallest} has panoptic segments, which give a class per pixel: set semantic=panoptic")
        targets = object_specs(tuple(names.values()), semantic=instances) if names else {}
        keypoints = read_keypoints(smallest, names)
        if keypoints is not None:
            targets[tasks.POSE] = keypoints.spec()
        notes = _notes(folder)
        if not instances and labels.resolve(notes, semantic) != "none":
            classes = tuple(labels.categories(notes, smallest).values())
            targets[tasks.SEGMENTATION] = TargetSpec(task=tasks.SEGMENTATION, labels=classes)
        return targets

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of classes, images and objects; None if it is another layout."""
        folder = layout.only_folder(Path(root))
        sources = cocofiles.find_sources(folder) if folder.is_dir() else []
        if not sources:
            return None
        targets = cls.describe(root)
        classes = layout.plural(len(next(iter(targets.values())).labels), "class")
        if sum(source.path.stat().st_size for source in sources) > cocofiles.MAX_COUNTED_BYTES:
            splits = ", ".join(sorted({source.split or "default" for source in sources}))
            return f"coco: {classes}, splits {splits}; too large to be counted"
        parts = [_open(folder, source, "", "none", targets) for source in sources]
        records = [record for part in parts for record in part.instances.records.values()]
        counts = _splits(parts, 0, 0.0).counts()
        if tasks.DETECTION not in targets:
            return f"coco: {classes}, {counts} with semantic labels"
        boxes = layout.plural(sum(len(record.objects) for record in records), "box")
        empty = layout.plural(sum(not record.objects for record in records), "image")
        points = f" with {len(parts[0].keypoints.names)} keypoints" if parts[0].keypoints else ""
        return f"coco: {classes}, {counts}, {boxes}{points}, {empty} without labels"

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Sample:
        number, identity = self._images[index]
        part = self._parts[number]
        record = part.instances.records[identity]
        path = cocofiles.locate(record.file_name, part.folders, strict=part.source.strict)
        image = read_picture(path or part.folders[0] / record.file_name, record.size)
        targets: dict[str, Target | None] = {}
        if part.source.panoptic and isinstance(part.semantic, labels.Panoptic):
            targets.update(self._segments(part, identity))
        elif tasks.DETECTION in self.targets:
            boxes = part.instances.boxes(record, masks=self._masks or self._instances)
            targets[tasks.DETECTION] = boxes if self._masks else dataclasses.replace(boxes, masks=None)
            targets[tasks.MULTILABEL] = part.instances.present(record)
            if part.keypoints is not None:
                targets[tasks.POSE] = part.instances.poses(record, part.keypoints)
            if self._instances:
                targets[tasks.SEGMENTATION] = semantic_mask(boxes, record.size)
        if part.semantic is not None and tasks.SEGMENTATION in self.targets:
            targets[tasks.SEGMENTATION] = part.semantic.mask(identity, record)
        return Sample(image=as_image(image), targets=targets, name=record.file_name)

    def _segments(self, part: _Part, identity: Any) -> dict[str, Target | None]:
        """Return the objects of an image that has only panoptic labels."""
        if tasks.DETECTION not in self.targets or not isinstance(part.semantic, labels.Panoptic):
            return {}
        record, classes = part.instances.records[identity], part.instances.classes
        shapes = part.semantic.shapes(identity, record, classes, masks=self._masks)
        return object_targets(shapes, len(classes), record.size, part.source.path, masks=self._masks)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A JSON file with its images."""

    source: AnnotationFile
    instances: Instances
    folders: list[Path]
    semantic: labels.Semantic | None
    keypoints: Keypoints | None


def _sources(root: str | None, annotations: str) -> tuple[Path, list[AnnotationFile]]:
    given = find_root(root, "coco")
    folder = layout.only_folder(given) if given.is_dir() and not annotations else given
    sources = cocofiles.find_sources(folder, annotations) if folder.is_dir() else []
    if not sources:
        raise layout.not_this("coco", folder, annotations or EXPECTED)
    return folder, sources


def _notes(folder: Path) -> Path:
    return layout.child_folder(folder, "annotations") or folder / "annotations"


def _chosen(folder: Path, sources: Sequence[AnnotationFile], split: str, hold_out: float) -> list[AnnotationFile]:
    """Return the files that a split needs: the others may be large."""
    wanted = layout.split_name(split) or split
    if wanted == "all" or not any(source.split for source in sources):
        return list(sources)
    there = {source.split or "default" for source in sources}
    if hold_out and "val" not in there and wanted in ("train", "val"):
        wanted = "train"
    chosen = [source for source in sources if (source.split or "default") == wanted]
    if not chosen:
        Splits({name: [name] for name in there}).select(split, "coco", folder)
    return chosen


def _categories(path: Path, sources: Sequence[AnnotationFile]) -> dict[int, str]:
    """Return category id -> name of the objects."""
    if sources[0].panoptic:
        return object_categories(path)
    names = read_categories(path)
    parents = unused_parents(path, [source.path for source in sources])
    return {identity: name for identity, name in names.items() if identity not in parents}


def _open(folder: Path, source: AnnotationFile, images: str, semantic: str, targets: Mapping[str, TargetSpec]) -> _Part:
    names = targets[tasks.DETECTION].labels if tasks.DETECTION in targets else ()
    instances = read_instances(source.path, names, strict=source.strict, panoptic=source.panoptic)
    if instances.labels != names:
        raise DataError(f"{source.path} lists other categories than another split's file; a dataset has one list")
    keypoints = _keypoints(source, instances, targets)
    folders = cocofiles.image_folders(folder, source, images)
    if not folders or not folders[0].is_dir():
        raise layout.not_this("coco", folder, f"its images in {images or 'a folder of the split, or images/'}")
    notes = _notes(folder)
    kind = "panoptic" if source.panoptic and semantic != "none" else labels.resolve(notes, semantic)
    found = None if kind == "none" else labels.find(notes, source.word or source.split, kind, source.path)
    records = list(instances.records.values())
    return _Part(
        source=source, instances=instances, semantic=found, keypoints=keypoints,
        folders=cocofiles.choose_folder(folders, records, strict=source.strict),
    )  # fmt: skip


def _keypoints(source: AnnotationFile, instances: Instances, targets: Mapping[str, TargetSpec]) -> Keypoints | None:
    if tasks.POSE not in targets or source.panoptic:
        return None
    keypoints = read_keypoints(source.path, {i: instances.labels[index] for i, index in instances.classes.items()})
    if keypoints is None or keypoints.labels != targets[tasks.POSE].labels:
        raise DataError(f"{source.path} lists other categories with keypoints than another split's file")
    return keypoints


def _splits(parts: Sequence[_Part], min_objects: int, hold_out: float) -> Splits[tuple[int, Any]]:
    named: dict[str, list[tuple[int, Any]]] = {}
    several = any(part.source.split for part in parts)
    for number, part in enumerate(parts):
        for identity, record in part.instances.records.items():
            if sum(not item.get("iscrowd") for item in record.objects) >= min_objects:
                split = part.source.split or ("default" if several else "")
                named.setdefault(split, []).append((number, identity))
    return layout.make_splits(
        named or {"": []},
        stem=lambda image: layout.stem_of(parts[image[0]].instances.records[image[1]].file_name),
        hold_out=hold_out,
    )
