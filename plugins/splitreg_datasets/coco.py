"""COCO's layout: boxes, masks, classes present; semantic labels from panoptic files or label pictures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import Sample, Target
from splitreg_datasets import semantic as labels
from splitreg_datasets.files import as_image, find_root, first_existing, no_split, not_a, read_picture
from splitreg_datasets.instances import read_categories, read_instances

EXPECTED = "annotations/instances_<split>.json (or <split>2017) beside <split>/ (or <split>2017/, images/<split>/)"


class Coco(Dataset):
    """A folder of COCO's layout.

    ::

        root/annotations/instances_<split>[2017].json
        root/annotations/panoptic_<split>[2017].json, panoptic_<split>[2017]/     optional: semantic labels
        root/annotations/semantic_<split>[2017]/                                  optional: 8-bit PNG, category ids
        root/<split>[2017]/ or root/images/<split>[2017]/

    Category ids may have gaps; class indexes follow rising ids. Semantic id 0 and panoptic pixels without a segment are
    unknown (``IGNORE``). A class seen only in a crowd region is unknown to the multi-label target.

    Args:
        root: the folder; None: ``$SPLITREG_DATA/coco``.
        split: ``"train"``, ``"val"``, ...
        annotations: another instances JSON, relative to the root, as in ``"instances_{split}.json"``.
        images: another folder of pictures, relative to the root; ``{split}`` stands for the split here too.
        semantic: where semantic labels come from: ``"png"``, ``"panoptic"``, ``"auto"`` (whichever is there, label
            pictures first) or ``"none"``.
        masks: give masks with the boxes.
        min_objects: leave out pictures with fewer objects (crowds do not count).

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
    ) -> None:
        self.targets = self.describe(root, annotations=annotations, semantic=semantic)
        folder = find_root(root, "coco")
        notes = folder / "annotations"
        if annotations:
            path = first_existing([folder / annotations.replace("{split}", split)])
        else:
            path = labels.of_split(notes, "instances_", split, ".json")
        if path is None:
            there = (p.stem.removeprefix("instances_").removesuffix("2017") for p in notes.glob("instances_*.json"))
            raise no_split("coco", folder, split, there)
        self._instances = read_instances(path)
        if self._instances.labels != self.targets[tasks.DETECTION].labels:
            raise DataError(f"{path} lists other categories than another split's file; a dataset has one list")
        years = [f"{split}", f"{split}2017", f"images/{split}", f"images/{split}2017"]
        pictures = first_existing(folder / name for name in ([images.replace("{split}", split)] if images else years))
        if pictures is None:
            raise not_a("coco", folder, f"its pictures in {images or ', '.join(years)}")
        self._pictures = pictures
        self._masks = masks
        self._ids = [
            identity
            for identity, record in self._instances.records.items()
            if sum(not o.get("iscrowd") for o in record.objects) >= min_objects
        ]
        kind = labels.resolve(notes, semantic)
        self._semantic = None if kind == "none" else labels.find(notes, split, kind, path)

    @classmethod
    def describe(
        cls, root: str | None = None, *, annotations: str = "", semantic: str = "auto", **options: Any
    ) -> Mapping[str, TargetSpec]:
        """Return the targets; reads the smallest of the JSON files, which all list the same categories.

        Raises:
            DataError: not this layout.
        """
        folder = find_root(root, "coco")
        if annotations and "{split}" not in annotations:
            path = first_existing([folder / annotations])
        else:
            path = labels.smallest(folder, annotations.replace("{split}", "*") or "annotations/instances_*.json")
        if path is None:
            raise not_a("coco", folder, annotations or EXPECTED)
        names = tuple(read_categories(path).values())
        targets = {
            tasks.DETECTION: TargetSpec(task=tasks.DETECTION, labels=names),
            tasks.MULTILABEL: TargetSpec(task=tasks.MULTILABEL, labels=names),
        }
        if labels.resolve(folder / "annotations", semantic) != "none":
            classes = tuple(labels.categories(folder / "annotations", path).values())
            targets[tasks.SEGMENTATION] = TargetSpec(task=tasks.SEGMENTATION, labels=classes)
        return targets

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        identity = self._ids[index]
        record = self._instances.records[identity]
        image = read_picture(self._pictures / record.file_name, record.size)
        targets: dict[str, Target | None] = {
            tasks.DETECTION: self._instances.boxes(record, masks=self._masks),
            tasks.MULTILABEL: self._instances.present(record),
        }
        if self._semantic is not None:
            targets[tasks.SEGMENTATION] = self._semantic.mask(identity, record)
        return Sample(image=as_image(image), targets=targets, name=record.file_name)
