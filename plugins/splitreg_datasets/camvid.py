"""CamVid in the layout of the SegNet tutorial: photographs, label pictures, a list of pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import MaskTarget, MultiLabelTarget, Sample, Target
from splitreg_datasets.files import (
    PICTURES,
    as_image,
    find_root,
    index_table,
    map_indexes,
    no_split,
    read_indexes,
    read_json,
    read_picture,
)
from splitreg_datasets.instances import Instances, Record, read_categories, read_instances
from splitreg_datasets.layout import child_folder, listing, not_this, read_lines, split_name

CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
VOID = 11
EXPECTED = "<split>/ (photographs), <split>annot/ (8-bit class ids) and optionally <split>.txt"


class CamVid(Dataset):
    """Street scenes with 11 semantic classes; id 11 counts nowhere.

    ::

        root/<split>/, root/<split>annot/           photographs and 8-bit class ids
        root/<split>.txt                            optional: "photograph labels" pairs; else all with labels
        root/instances_<split>.json                 optional: boxes and masks in COCO's format
        root/multilabel_<split>.json                optional: classes present (else they follow from the boxes)

    Args:
        root: the folder; None: ``$SPLITREG_DATA/camvid``.
        split: ``"train"``, ``"val"``, ...
        masks: give masks with the boxes.

    Raises:
        DataError: not this layout, or a file that contradicts itself.
    """

    def __init__(self, root: str | None = None, split: str = "train", *, masks: bool = True) -> None:
        self.targets = self.describe(root)
        folder = find_root(root, "camvid")
        if not (folder / split).is_dir() or not (folder / f"{split}annot").is_dir():
            raise no_split("camvid", folder, split, (p.name.removesuffix("annot") for p in folder.glob("*annot")))
        self._pairs = _pairs(folder, split)
        if not self._pairs:
            raise DataError(f"{folder} has no picture with labels in the split {split!r}")
        self._masks = masks
        self._table = index_table(len(CLASSES), [VOID])
        self._instances: Instances | None = None
        self._records: dict[str, Record] = {}
        boxes = folder / f"instances_{split}.json"
        if tasks.DETECTION in self.targets and boxes.exists():
            self._instances = read_instances(boxes)
            if self._instances.labels != self.targets[tasks.DETECTION].labels:
                raise DataError(f"{boxes} lists other categories than the other splits; a dataset has one list")
            self._records = {record.file_name: record for record in self._instances.records.values()}
        present = folder / f"multilabel_{split}.json"
        self._present = _read_present(present, self.targets) if present.exists() else {}

    @classmethod
    def describe(cls, root: str | None = None, **options: Any) -> Mapping[str, TargetSpec]:
        """Return the targets that at least one split has.

        Raises:
            DataError: not this layout.
        """
        folder = find_root(root, "camvid")
        if not folder.is_dir() or not any(
            (folder / p.name.removesuffix("annot")).is_dir() for p in folder.glob("*annot")
        ):
            raise not_this("camvid", folder, EXPECTED)
        targets = {tasks.SEGMENTATION: TargetSpec(task=tasks.SEGMENTATION, labels=CLASSES)}
        listings = sorted(folder.glob("instances_*.json"), key=lambda path: (path.stat().st_size, path.name))
        if listings:
            names = tuple(read_categories(listings[0]).values())
            targets[tasks.DETECTION] = TargetSpec(task=tasks.DETECTION, labels=names)
            targets[tasks.MULTILABEL] = TargetSpec(task=tasks.MULTILABEL, labels=names)
        return targets

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of images; None if it is another layout."""
        folder = Path(root)
        pairs = {name: child_folder(folder, f"{name}annot") for name in listing(folder, limit=64).folders}
        splits = [name for name, labels in pairs.items() if labels is not None and split_name(name)]
        if not splits or (folder / "label_colors.txt").exists():
            return None
        counts = [f"{len(_pairs(folder, name)):,} {split_name(name)}" for name in splits]
        return f"camvid: {len(CLASSES)} classes, {' and '.join(counts)} images"

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> Sample:
        picture, annotated = self._pairs[index]
        record = self._records.get(picture.name)
        image = read_picture(picture, record.size if record else None)
        indexes = read_indexes(annotated, (image.shape[0], image.shape[1]))
        mask = map_indexes(indexes, self._table, annotated, f"0 to {VOID} are known")
        targets: dict[str, Target | None] = {tasks.SEGMENTATION: MaskTarget(mask=mask)}
        if self._instances is not None and record is not None:
            targets[tasks.DETECTION] = self._instances.boxes(record, masks=self._masks)
            targets[tasks.MULTILABEL] = self._instances.present(record)
        if picture.name in self._present:
            targets[tasks.MULTILABEL] = self._present[picture.name]
        return Sample(image=as_image(image), targets=targets, name=picture.name)


def _pairs(folder: Path, split: str) -> list[tuple[Path, Path]]:
    listing = folder / f"{split}.txt"
    if not listing.exists():
        pictures = sorted(p for p in (folder / split).iterdir() if p.suffix.lower() in PICTURES)
        pairs = [(p, folder / f"{split}annot" / f"{p.stem}.png") for p in pictures]
        return [pair for pair in pairs if pair[1].exists()]
    found = []
    for number, line in enumerate(read_lines(listing), 1):
        names = line.split()
        if len(names) != 2:
            raise DataError(f"{listing}, line {number}: expected a photograph and its labels, got {line[:80]!r}")
        # the tutorial's own lists hold absolute paths of another machine: only the names count
        photograph, labels = (name.replace("\\", "/").rsplit("/", 1)[-1] for name in names)
        pair = folder / split / photograph, folder / f"{split}annot" / labels
        for path in pair:
            if not path.is_file():
                raise DataError(f"{listing}, line {number}: there is no {path}")
        found.append(pair)
    return found


def _read_present(path: Path, targets: Mapping[str, TargetSpec]) -> dict[str, MultiLabelTarget]:
    import torch

    loaded = read_json(path)
    names = targets[tasks.MULTILABEL].labels if tasks.MULTILABEL in targets else ()
    if not names:
        return {}
    if tuple(loaded.get("classes", ())) != names or not isinstance(loaded.get("labels"), dict):
        raise DataError(f"{path} lists other classes than instances_<split>.json, or no labels")
    found = {}
    for name, indexes in loaded["labels"].items():
        if not isinstance(indexes, list) or not all(type(i) is int and 0 <= i < len(names) for i in indexes):
            raise DataError(f"{path}: the labels of {name} are {indexes!r}; expected indexes of classes")
        present = torch.zeros(len(names))
        present[indexes] = 1
        found[name] = MultiLabelTarget(present=present)
    return found
