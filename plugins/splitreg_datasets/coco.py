"""COCO's layout: boxes, masks, classes present, and semantic labels.

Semantic labels come from panoptic files or from label images.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import Sample, Target
from splitreg_datasets import semantic as labels
from splitreg_datasets.files import as_image, find_root, first_existing, no_split, not_a, read_image
from splitreg_datasets.instances import read_categories, read_instances
from splitreg_datasets.targets import box_specs

EXPECTED = "annotations/instances_<split>.json (or <split>2017) beside <split>/ (or <split>2017/, images/<split>/)"


class Coco(Dataset):
    """A folder in COCO's layout.

    ::

        root/annotations/instances_<split>[2017].json
        root/annotations/panoptic_<split>[2017].json, panoptic_<split>[2017]/     optional: semantic labels
        root/annotations/semantic_<split>[2017]/                                  optional: 8-bit PNG, category ids
        root/<split>[2017]/ or root/images/<split>[2017]/

    Category ids may have gaps; class indexes are in the order of ids. Semantic id 0 and panoptic
    pixels without a segment are unknown (``IGNORE``). A class that is only in a crowd region is
    unknown in the multi-label target.

    Args:
        root: the folder; None: ``$SPLITREG_DATA/coco``.
        split: ``"train"``, ``"val"``, ...
        annotations: another instances JSON, relative to the root; ``{split}`` is replaced, as in
            ``"instances_{split}.json"``.
        images: another folder of images, relative to the root; ``{split}`` is replaced.
        semantic: source of semantic labels: ``"png"``, ``"panoptic"``, ``"auto"`` (label images if
            they exist, else panoptic files) or ``"none"``.
        masks: return masks with the boxes.
        min_objects: leave out images with fewer objects; crowds do not count.

    Raises:
        DataError: the layout is another one, or a file is inconsistent.
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
            splits = (p.stem.removeprefix("instances_").removesuffix("2017") for p in notes.glob("instances_*.json"))
            raise no_split("coco", folder, split, splits)
        self._instances = read_instances(path)
        if self._instances.labels != self.targets[tasks.DETECTION].labels:
            raise DataError(f"{path} lists other categories than the other splits; all splits need the same list")
        years = [f"{split}", f"{split}2017", f"images/{split}", f"images/{split}2017"]
        names = [images.replace("{split}", split)] if images else years
        place = first_existing(folder / name for name in names)
        if place is None:
            raise not_a("coco", folder, f"its images in {images or ', '.join(years)}")
        self._images = place
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
        """Return the targets; reads the smallest JSON file, because all list the same categories.

        Raises:
            DataError: the layout is another one.
        """
        folder = find_root(root, "coco")
        if annotations and "{split}" not in annotations:
            path = first_existing([folder / annotations])
        else:
            path = labels.smallest(folder, annotations.replace("{split}", "*") or "annotations/instances_*.json")
        if path is None:
            raise not_a("coco", folder, annotations or EXPECTED)
        names = tuple(read_categories(path).values())
        targets = box_specs(names)
        if labels.resolve(folder / "annotations", semantic) != "none":
            classes = tuple(labels.categories(folder / "annotations", path).values())
            targets[tasks.SEGMENTATION] = TargetSpec(task=tasks.SEGMENTATION, labels=classes)
        return targets

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, index: int) -> Sample:
        identity = self._ids[index]
        record = self._instances.records[identity]
        image = read_image(self._images / record.file_name, record.size)
        targets: dict[str, Target | None] = {
            tasks.DETECTION: self._instances.boxes(record, masks=self._masks),
            tasks.MULTILABEL: self._instances.present(record),
        }
        if self._semantic is not None:
            targets[tasks.SEGMENTATION] = self._semantic.mask(identity, record)
        return Sample(image=as_image(image), targets=targets, name=record.file_name)
