"""WebDataset: samples in .tar shards, read in any order through an index of each shard."""

from __future__ import annotations

import functools
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg import imaging, tasks
from splitreg.errors import DataError, ImageError
from splitreg.files import IMAGE_SUFFIXES
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import ClassTarget, Sample, Target
from splitreg_datasets import labelimages, layout
from splitreg_datasets.files import as_image, find_root, version_of
from splitreg_datasets.layout import Splits
from splitreg_datasets.stores import MAX_BYTES, MAX_FILES

EXPECTED = "shards such as train-000000.tar, in which files of one sample share a name: 000001.jpg, 000001.cls"
#: Endings of a sample's mask.
MASKS = ("mask.png", "seg.png", "semseg.png")
_IMAGES = tuple(suffix[1:] for suffix in IMAGE_SUFFIXES)

#: Ending of a file's name -> where its bytes begin in the shard, and how many there are.
Parts = Mapping[str, tuple[int, int]]


class WebDataset(Dataset):
    """Tar shards in the format of the library webdataset.

    ::

        root/train-000000.tar, root/val-000000.tar          or root/<split>/000000.tar, or one .tar
            a/0001.jpg, a/0001.cls, a/0001.mask.png            a sample: files that share a name up to its first dot
        root/classes.txt                                    optional: names of the classes, one per line

    The headers of each shard are read once, and every sample is then read at its place: the order is splitreg's own, as
    for every dataset, and no shard is unpacked. Shards that are compressed as a whole cannot be read so.

    Args:
        root: the folder, or a shard; None: ``$SPLITREG_DATA/webdataset``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.
        label: ending of the file with the class, an index or a name: ``"cls"``; or ``"json:KEY"`` for a value in the JSON.
        classes: names of the classes by index, separated by commas; empty: those of ``classes.txt``, or the names in the
            samples, or the numbers.
        mask_classes: names of the mask's classes from 0 on, separated by commas, where samples have masks.
        hold_out: fraction of ``train`` to hold out as ``val``; 0: 20 % where the shards name no splits.

    Raises:
        DataError: not this layout, or a shard that is damaged.
    """

    def __init__(
        self,
        root: str | None = None,
        split: str = "train",
        *,
        label: str = "cls",
        classes: str = "",
        mask_classes: str = "",
        hold_out: float = 0.0,
    ) -> None:
        self.targets = self.describe(root, label=label, classes=classes, mask_classes=mask_classes)
        place = find_root(root, "webdataset")
        self._label = label
        self._entries = _splits(_shards(place), hold_out).select(split, "webdataset", place)
        names = self.targets[tasks.SEGMENTATION].labels if tasks.SEGMENTATION in self.targets else ()
        self._mask_classes = labelimages.indexed_classes(names)
        labelimages.check_foreground(self._some_masks(), self._mask_classes, place, "store it as 1")

    @classmethod
    def describe(
        cls, root: str | None = None, *, label: str = "cls", classes: str = "", mask_classes: str = "", **options: Any
    ) -> Mapping[str, TargetSpec]:
        """Return the targets; reads the classes of all samples, unless they are named.

        Raises:
            DataError: not this layout.
        """
        place = find_root(root, "webdataset")
        shards = _shards(place)
        entries = _splits(shards, 0.0).images["all"] if shards else ()
        if not entries:
            raise layout.not_this("webdataset", place, EXPECTED)
        targets: dict[str, TargetSpec] = {}
        if any(_label_part(entry, label) for entry in entries):
            targets[tasks.CLASSIFICATION] = TargetSpec(
                task=tasks.CLASSIFICATION, labels=layout.option_names(classes) or _class_names(place, entries, label)
            )
        if any(entry.mask for entry in entries):
            names = layout.option_names(mask_classes, "mask_classes")
            if not names:
                raise DataError(
                    f"the samples of {place} have masks; name their classes: mask_classes=background,first,..."
                )
            targets[tasks.SEGMENTATION] = TargetSpec(task=tasks.SEGMENTATION, labels=names)
        return targets

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of shards, samples and classes; None if it is another layout."""
        shards = _shards(Path(root))
        if not shards or not _has_labels(next(iter(shards.values()))[0]):
            return None
        splits = _splits(shards, 0.0)
        number = sum(map(len, shards.values()))
        return f"webdataset: {layout.plural(number, 'shard')}, {splits.counts()}"

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self._entries[index]
        name = f"{entry.shard.name}/{entry.key}"
        try:
            image = imaging.read(entry.read(entry.image))
        except ImageError as cause:
            raise DataError(f"cannot read the image of {name}: {cause}") from cause
        targets: dict[str, Target | None] = {}
        if tasks.CLASSIFICATION in self.targets:
            value = _label(entry, self._label)
            labels = self.targets[tasks.CLASSIFICATION].labels
            targets[tasks.CLASSIFICATION] = None if value is None else ClassTarget(index=_index(value, labels, name))
        if tasks.SEGMENTATION in self.targets and entry.mask:
            targets[tasks.SEGMENTATION] = self._mask(entry, (image.shape[0], image.shape[1]), name)
        return Sample(image=as_image(image), targets=targets, name=name)

    def _some_masks(self) -> Iterator[NDArray[np.int64]]:
        """Yield the class indexes of a few masks."""
        masks = [entry for entry in self._entries if entry.mask]
        for entry in masks[:: len(masks) // labelimages.CHECKED_BYTES + 1]:
            labels = labelimages.read_label_bytes(entry.read(entry.mask), f"{entry.shard.name}/{entry.key}")
            yield self._mask_classes.indexes(labels)

    def _mask(self, entry: ShardEntry, size: tuple[int, int], name: str) -> Target:
        labels = labelimages.read_label_bytes(entry.read(entry.mask), name)
        if labels.shape[:2] != size:
            raise DataError(f"the mask of {name} has another size than its image")
        mask = self._mask_classes.indexes(labels)
        if (mask == labelimages.UNKNOWN).any():
            raise DataError(
                f"the mask of {name} holds {labelimages.example_of(labels, mask)}, which no class stands for"
            )
        return labelimages.mask_target(mask)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """A sample: its shard, name, and the places of its files there."""

    shard: Path
    key: str
    parts: Parts
    image: str
    mask: str = ""

    def read(self, ending: str) -> bytes:
        """Return the bytes of one file.

        Raises:
            DataError: the shard ends before it.
        """
        begin, size = self.parts[ending]
        try:
            with self.shard.open("rb") as file:
                file.seek(begin)
                data = file.read(size)
        except OSError as cause:
            raise DataError(f"cannot read {self.shard}: {cause.strerror}") from cause
        if len(data) != size:
            raise DataError(f"{self.shard} ends in the middle of {self.key}.{ending}")
        return data


def _shards(place: Path) -> dict[str, list[Path]]:
    """Return split -> shards, from the names of the files or their folders; an empty name for those of no split."""
    if place.is_file():
        return {"": [place]} if place.suffix.lower() == ".tar" else {}
    shards: dict[str, list[Path]] = {}
    there = layout.listing(place)
    names = [
        *there.files,
        *(
            f"{folder}/{n}"
            for folder in there.folders
            if layout.split_name(folder)
            for n in layout.listing(place / folder).files
        ),
    ]
    for name in sorted(names):
        if name.lower().endswith(".tar"):
            folder, _, file = name.rpartition("/")
            shards.setdefault(layout.split_name(folder) or layout.split_in(layout.stem_of(file)), []).append(
                place / name
            )
    return shards


def _splits(shards: Mapping[str, Sequence[Path]], hold_out: float) -> Splits[ShardEntry]:
    named = {split: [entry for shard in paths for entry in _entries(shard)] for split, paths in shards.items()}
    return layout.make_splits(named, stem=lambda entry: entry.key, hold_out=hold_out)


def _entries(shard: Path) -> list[ShardEntry]:
    return _index_shard(shard, *version_of(shard))


@functools.lru_cache(maxsize=4096)
def _index_shard(shard: Path, modified: int, size: int) -> list[ShardEntry]:
    """Read the headers of a shard.

    Raises:
        DataError: not a whole uncompressed .tar.
    """
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for number, member in enumerate(archive):
                if number >= MAX_FILES:
                    raise DataError(f"{shard} holds more than {MAX_FILES} files")
                if not member.isreg() or member.issparse():
                    continue
                folder, _, name = member.name.rpartition("/")
                first, _, ending = name.partition(".")
                if not ending or not first or name.startswith("."):
                    continue
                if member.size > MAX_BYTES or member.offset_data + member.size > size:
                    raise DataError(f"{shard} is cut short, or {member.name} has more than {MAX_BYTES} bytes")
                key = f"{folder}/{first}" if folder else first
                samples.setdefault(key, {})[ending.lower()] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, ValueError, OverflowError) as cause:
        raise DataError(f"{shard} is not a whole uncompressed .tar: {cause}") from cause
    entries = []
    for key, parts in samples.items():
        mask = next((ending for ending in MASKS if ending in parts), "")
        image = next((ending for ending in _IMAGES if ending in parts), "")
        if image:
            entries.append(ShardEntry(shard=shard, key=key, parts=parts, image=image, mask=mask))
    return entries


def _has_labels(shard: Path) -> bool:
    """Whether the first samples of a shard have an image and something else; stops early."""
    keys: dict[str, set[str]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for number, member in enumerate(archive):
                if number >= 64:
                    break
                folder, _, name = member.name.rpartition("/")
                first, _, ending = name.partition(".")
                keys.setdefault(f"{folder}/{first}", set()).add(ending.lower())
    except (tarfile.TarError, OSError, ValueError, OverflowError):
        return False
    return any(endings & set(_IMAGES) and endings - set(_IMAGES) for endings in keys.values())


def _label_part(entry: ShardEntry, label: str) -> str:
    ending = "json" if label.startswith("json:") else label
    return next((name for name in (ending, f"{ending}.txt") if name in entry.parts), "")


def _label(entry: ShardEntry, label: str) -> str | None:
    """Return the class of a sample as written, None if it has none.

    Raises:
        DataError: its file is malformed.
    """
    part = _label_part(entry, label)
    if not part:
        return None
    text = layout.decode_text(entry.read(part), entry.shard)
    if label.startswith("json:"):
        try:
            value = json.loads(text).get(label.removeprefix("json:"))
        except (ValueError, AttributeError, RecursionError) as cause:
            raise DataError(f"{entry.shard}: the JSON of {entry.key} is no object: {cause}") from cause
        if value is not None and not isinstance(value, str | int):
            raise DataError(f"{entry.shard}: {label} of {entry.key} is {str(value)[:40]}; expected an index or a name")
        return None if value is None else str(value)
    return text.strip()


def _class_names(place: Path, entries: Sequence[ShardEntry], label: str) -> tuple[str, ...]:
    """Return the names of the classes: of classes.txt, the names in the samples, or the numbers from 0 on."""
    folder = place if place.is_dir() else place.parent
    listed = layout.child(folder, "classes.txt", "class_names.txt", "labels.txt")
    if listed is not None:
        return layout.class_names(layout.read_lines(listed), listed)
    values = {value for entry in entries if (value := _label(entry, label))}
    if all(value.isdecimal() for value in values):
        highest = max(map(int, values), default=0)
        if highest >= 1_000_000:
            raise DataError(f"{place} has the class index {highest}; at most 999999")
        return tuple(str(number) for number in range(highest + 1))
    return tuple(sorted(values))


def _index(value: str, labels: tuple[str, ...], name: str) -> int:
    if value in labels:
        return labels.index(value)
    if value.isdecimal() and int(value) < len(labels):
        return int(value)
    raise DataError(f"{name} has the class {value[:40]!r}, which is none of the {len(labels)}")
