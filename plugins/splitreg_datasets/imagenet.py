"""ImageNet (ILSVRC 2012): folders of synsets, and the validation images as they are published."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from splitreg import tasks
from splitreg.errors import DataError, MissingExtra
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import ClassTarget, Sample
from splitreg_datasets import layout
from splitreg_datasets.files import as_image, find_root, read_json, read_picture
from splitreg_datasets.layout import Splits

SYNSET = re.compile(r"n\d{8}")
EXPECTED = "train/<synset>/*.JPEG (folders such as n01440764), and val/ in folders of synsets or flat with its labels"
#: Two of the 1,000 classes have the word of another one; torchvision's names, which models have.
_SAME_WORDS = {("n02012849", "crane"): "crane bird", ("n03710721", "maillot"): "maillot tank suit"}
_NAME_FILES = ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt", "imagenet_class_index.json")
_TRUTH = "ILSVRC2012_validation_ground_truth.txt"

#: Path relative to the folder of the splits, and the index of the class.
Item = tuple[str, int]


class ImageNet(Dataset):
    """Folders of synsets; classes in the order of the synsets, which is the usual order of the 1,000 classes.

    ::

        root/train/<synset>/*.JPEG              also root/ILSVRC/Data/CLS-LOC/train/, as Kaggle has it
        root/val/<synset>/*.JPEG                or flat, with one of:
            LOC_val_solution.csv                    Kaggle
            ILSVRC2012_validation_ground_truth.txt and meta.mat             the development kit
            val.txt, val_map.txt                    "name index" or "name synset" per line
            val_annotations.txt                     Tiny ImageNet
        root/LOC_synset_mapping.txt             optional: names; also synset_words.txt, words.txt, imagenet_class_index.json

    Without a file of names they come from timm, if it knows the synsets. A name that several synsets share gets the
    synset behind it.

    Args:
        root: the folder; None: ``$SPLITREG_DATA/imagenet``.
        split: ``"train"`` or ``"val"``.
        names: ``"words"``, or ``"synsets"`` to use n01440764 and the like as names.
        hold_out: fraction of ``train`` to hold out as ``val``, where there is none.

    Raises:
        DataError: not this layout, or a label file that is malformed.
    """

    def __init__(
        self, root: str | None = None, split: str = "train", *, names: str = "words", hold_out: float = 0.0
    ) -> None:
        given = find_root(root, "imagenet")
        self.targets = self.describe(root, names=names)
        self._home = _home(given)
        synsets = _synsets(self._home)
        wanted = layout.split_name(split) or split
        chosen = None if hold_out or wanted == "all" else wanted
        self._items = _splits(given, self._home, synsets, hold_out, chosen).select(split, "imagenet", self._home)

    @classmethod
    def describe(cls, root: str | None = None, *, names: str = "words", **options: Any) -> Mapping[str, TargetSpec]:
        """Return the target; reads names only.

        Raises:
            DataError: not this layout.
        """
        if names not in ("words", "synsets"):
            raise DataError(f"names must be 'words' or 'synsets', got {names!r}")
        given = find_root(root, "imagenet")
        synsets = _synsets(_home(given))
        labels = _words(given, synsets) if names == "words" else tuple(synsets)
        return {tasks.CLASSIFICATION: TargetSpec(task=tasks.CLASSIFICATION, labels=labels)}

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of classes and images; None if it is another layout."""
        given = Path(root)
        home = _find_home(given) if given.is_dir() else None
        if home is None:
            return None
        synsets = _synsets(home)
        splits = _splits(given, home, synsets, 0.0, None)
        return f"imagenet: {layout.plural(len(synsets), 'class')}, {splits.counts()}"

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: int) -> Sample:
        name, label = self._items[index]
        image = read_picture(self._home / name)
        return Sample(image=as_image(image), targets={tasks.CLASSIFICATION: ClassTarget(index=label)}, name=name)


def _find_home(root: Path) -> Path | None:
    """Return the folder with train/, None if there is none with synsets."""
    for inner in ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "ILSVRC2012", "ILSVRC"):
        train = layout.child_folder(root / inner, "train")
        folders = layout.listing(train, limit=256).folders if train else ()
        if folders and sum(bool(SYNSET.fullmatch(name)) for name in folders) * 2 > len(folders):
            return root / inner
    return None


def _home(root: Path) -> Path:
    home = _find_home(root)
    if home is None:
        raise layout.not_this("imagenet", root, EXPECTED)
    return home


def _synsets(home: Path) -> list[str]:
    train = layout.child_folder(home, "train")
    folders = layout.listing(train).folders if train else ()
    other = next((name for name in folders if not SYNSET.fullmatch(name)), None)
    if other is not None:
        raise DataError(f"{train}/{other} is not a synset such as n01440764; for class folders use --data folder")
    return list(folders)


def _splits(root: Path, home: Path, synsets: list[str], hold_out: float, chosen: str | None) -> Splits[Item]:
    """Return the images by split; only those of ``chosen``, if given."""
    named: dict[str, list[Item]] = {}
    index = {synset: number for number, synset in enumerate(synsets)}
    for name in layout.listing(home).folders:
        split = layout.split_name(name)
        if split is None:
            continue
        if chosen is not None and split != chosen:
            named.setdefault(split, [])
            continue
        images = layout.images_in(home / name, 2)
        if split == "train" or any(image.split("/")[0] in index for image in images[:64]):
            items = [(f"{name}/{image}", image.split("/")[0]) for image in images if "/" in image]
        else:
            truth = _truth(root, home, name, synsets) if split == "val" else {}
            items = [(f"{name}/{image}", truth.get(_stem(image), "")) for image in images] if truth else []
        for image, synset in items:
            if synset not in index:
                raise DataError(
                    f"{home / image} has the synset {synset or 'of no line'}, of which train/ has no folder"
                )
            named.setdefault(split, []).append((image, index[synset]))
    return layout.make_splits(
        named, stem=lambda item: layout.stem_of(item[0]), group=lambda item: item[1], hold_out=hold_out
    )


def _stem(name: str) -> str:
    return layout.stem_of(name.rsplit("/", 1)[-1])


def _truth(root: Path, home: Path, split: str, synsets: list[str]) -> dict[str, str]:
    """Return stem of a validation image -> synset, from whichever file of labels is there.

    Raises:
        DataError: there is none, or it is malformed.
    """
    kits = [root / name / "data" for name in layout.listing(root, limit=256).folders if "devkit" in name.lower()]
    places = [root, home, home / split, *kits, *(kit.parent for kit in kits)]
    for folder in dict.fromkeys(places):
        path = layout.child(folder, "LOC_val_solution.csv", "val_annotations.txt", "val_map.txt", "val.txt", _TRUTH)
        if path is None:
            continue
        if path.name == _TRUTH:
            return _from_devkit(path)
        return _from_list(path, synsets)
    raise DataError(
        f"{home / split} is flat and no file has its labels; expected LOC_val_solution.csv, {_TRUTH} with meta.mat, or "
        "val.txt in the root, or one folder per synset"
    )


def _from_list(path: Path, synsets: list[str]) -> dict[str, str]:
    """Read lines of an image's name and a synset or an index, separated by spaces, tabs or commas."""
    truth = {}
    for number, line in enumerate(layout.read_lines(path), 1):
        fields = re.split(r"[\s,]+", line)
        if number == 1 and fields[0].lower() in ("imageid", "name", "filename", "file_name"):
            continue
        value = fields[1] if len(fields) > 1 else ""
        if value.isdecimal() and int(value) < len(synsets):
            value = synsets[int(value)]
        if not SYNSET.fullmatch(value):
            raise DataError(f"{path}, line {number}: expected an image and a synset or an index below {len(synsets)}")
        truth[_stem(fields[0]) if fields[0].lower().endswith((".jpeg", ".jpg")) else fields[0]] = value
    return truth


def _from_devkit(path: Path) -> dict[str, str]:
    """Read the numbers of the development kit, which are those of meta.mat and not the order of the synsets."""
    meta = layout.child(path.parent, "meta.mat") or layout.child(path.parent / "data", "meta.mat")
    if meta is None:
        raise DataError(
            f"{path} needs meta.mat of the development kit beside it, which tells the synset of each number"
        )
    try:
        import scipy.io
    except ImportError as cause:
        raise MissingExtra(f"{meta} needs scipy: pip install scipy") from cause
    try:
        rows = scipy.io.loadmat(meta, squeeze_me=True)["synsets"]
        numbers = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in np.atleast_1d(rows)}
    except Exception as cause:  # the library raises ValueError, TypeError, struct.error, zlib.error and more
        raise DataError(f"{meta} is not the development kit's: {cause}") from cause
    truth = {}
    for number, line in enumerate(layout.read_lines(path), 1):
        if not line.isdecimal() or int(line) not in numbers:
            raise DataError(f"{path}, line {number}: expected the number of a synset, got {line[:20]!r}")
        truth[f"ILSVRC2012_val_{number:08d}"] = numbers[int(line)]
    return truth


def _words(root: Path, synsets: list[str]) -> tuple[str, ...]:
    """Return the names of the synsets."""
    path = next((file for folder in (root, _home(root)) if (file := layout.child(folder, *_NAME_FILES))), None)
    words = _from_timm(synsets) if path is None else _read_words(path)
    firsts = [words.get(synset, synset).split(",")[0].strip() or synset for synset in synsets]
    firsts = [_SAME_WORDS.get((synset, name), name) for synset, name in zip(synsets, firsts, strict=True)]
    return tuple(
        name if firsts.count(name) == 1 else f"{name} ({synset})" for name, synset in zip(firsts, synsets, strict=True)
    )


def _read_words(path: Path) -> dict[str, str]:
    if path.suffix.lower() == ".json":
        rows = [row for row in read_json(path).values() if isinstance(row, list) and len(row) == 2]
        return {str(synset): str(word).replace("_", " ") for synset, word in rows}
    rows = [re.split(r"\s+", line, maxsplit=1) for line in layout.read_lines(path)]
    return {row[0]: row[1] for row in rows if len(row) == 2 and SYNSET.fullmatch(row[0])}


def _from_timm(synsets: list[str]) -> dict[str, str]:
    try:
        info: Any = importlib.import_module("timm.data").ImageNetInfo("imagenet-1k")
        known = {synset: info.label_name_to_description(synset) for synset in info.label_names()}
    except Exception:  # not installed, or another version
        return {}
    return {synset: known[synset] for synset in synsets if synset in known}
