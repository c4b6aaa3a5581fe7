"""Where the files of a COCO dataset lie: COCO's own names, and those of Roboflow, CVAT, Label Studio and others."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from splitreg.errors import DataError
from splitreg_datasets import layout
from splitreg_datasets.instances import Record

#: A JSON with more bytes is not counted by `recognise`.
MAX_COUNTED_BYTES = 200_000_000
#: Bytes at either end of a JSON in which its keys are looked for.
_PEEK = 1 << 20
#: First letters of COCO's and CVAT's JSON files of objects with keypoints.
_KEYPOINTS = "person_keypoints"
_YEAR = re.compile(r"(19|20)[0-9]{2}$")
#: COCO's JSON files for other tasks, which name images and annotations too.
_OTHER_TASKS = ("captions", _KEYPOINTS, "stuff", "image_info", "labels_")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotationFile:
    """A JSON file of objects.

    Args:
        path: of the JSON.
        split: canonical name, empty where the file is of no split.
        word: the split as the file or folder names it, e.g. ``"train2017"``.
        strict: it lies where COCO has it; file names must then lead to the images as they are. Tools store paths of
            another machine: elsewhere the end of such a path is enough.
        panoptic: it lists segments.
    """

    path: Path
    split: str
    word: str = ""
    strict: bool = True
    panoptic: bool = False


def find_sources(root: Path, annotations: str = "") -> list[AnnotationFile]:
    """Find the JSON files of a folder, in at most one place.

    Args:
        root: the folder.
        annotations: pattern of the files relative to it, with ``{split}`` for the split; empty: where tools put them.
    """
    if annotations:
        return _of_pattern(root, annotations)
    notes = layout.child_folder(root, "annotations")
    if notes is not None:
        files = [name for name in layout.listing(notes).files if name.lower().endswith(".json")]
        for prefix in ("instances", "panoptic", _KEYPOINTS):
            listed = [name for name in files if name.lower().startswith(prefix)]
            if listed:
                return _unique(_standard(notes / name, prefix) for name in listed)
        loose = _loose(notes / name for name in files)
        if loose:
            return loose
    in_splits: list[AnnotationFile] = []
    there = layout.listing(root, limit=10_000)
    for folder in there.folders:
        split = layout.split_name(folder)
        if split:
            inner = layout.listing(root / folder).files
            found = _loose(root / folder / name for name in inner if name.lower().endswith(".json"))
            in_splits += [AnnotationFile(path=s.path, split=split, word=folder, strict=False) for s in found[:1]]
    return in_splits or _loose(root / name for name in there.files if name.lower().endswith(".json"))


def _of_pattern(root: Path, annotations: str) -> list[AnnotationFile]:
    if "{split}" not in annotations:
        path = root / annotations
        return [AnnotationFile(path=path, split=layout.split_in(path.stem))] if path.exists() else []
    before, _, after = annotations.partition("{split}")
    sources = []
    for path in sorted(root.glob(annotations.replace("{split}", "*"))):
        name = path.relative_to(root).as_posix()
        word = name[len(before) : len(name) - len(after.replace("{split}", ""))].split("/")[0]
        if name == annotations.replace("{split}", word):
            sources.append(AnnotationFile(path=path, split=layout.split_name(word) or word, word=word))
    return _unique(sources)


def _standard(path: Path, prefix: str) -> AnnotationFile:
    word = path.stem[len(prefix) :].lstrip("_-. ")
    name = word.rstrip("0123456789") or word
    split = layout.split_name(name) or ("" if name.lower() in ("", "default") else name)
    return AnnotationFile(path=path, split=split, word=word, panoptic=prefix == "panoptic")


def _loose(paths: Iterable[Path]) -> list[AnnotationFile]:
    """Return the files of other names that hold COCO's keys."""
    files = [path for path in paths if not path.name.lower().startswith(_OTHER_TASKS) and is_coco(path)]
    return _unique(
        AnnotationFile(path=path, split=layout.split_in(path.stem), word=path.stem, strict=False) for path in files
    )


def _unique(sources: Iterable[AnnotationFile]) -> list[AnnotationFile]:
    """Of several files of one split keep the one without a year, or the one of 2017 (others are older copies)."""
    chosen: dict[str, AnnotationFile] = {}
    for source in sorted(sources, key=lambda s: (s.word.endswith(tuple("0123456789")), "2017" not in s.word, s.word)):
        if source.split or not source.strict or "" not in chosen:
            other = chosen.setdefault(source.split, source)
            if other is not source and not (source.strict and _is_copy(source, other)):
                raise DataError(
                    f"{source.path} and {other.path.name} are both COCO files of "
                    f"{'the split ' + source.split if source.split else 'no split'}; name one: annotations=FILE"
                )
    return list(chosen.values())


def _is_copy(source: AnnotationFile, other: AnnotationFile) -> bool:
    """Whether two files of a split differ in their year only, as ``train2014`` and ``train2017`` do."""
    words = [_YEAR.sub("", one.word) for one in (source, other)]
    return words[0] == words[1]


def is_coco(path: Path) -> bool:
    """Whether a JSON file has COCO's keys, by its first and last megabyte."""
    try:
        with path.open("rb") as file:
            head = file.read(_PEEK)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - _PEEK, 0))
            text = head + file.read(_PEEK)
    except OSError:
        return False
    keys = (b'"images"', b'"annotations"', b'"categories"')
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and sum(key in text for key in keys) >= 2


def image_folders(root: Path, source: AnnotationFile, images: str = "") -> list[Path]:
    """Return the folders in which the images of a file may lie, the most likely first."""
    if images:
        return [root / images.replace("{split}", source.word or source.split)]
    words = [source.word] if source.strict or source.word != source.path.stem else []
    if source.split:
        words += [source.split, f"{source.split}2017", *layout.SPLITS.get(source.split, ())]
    home = source.path.parent
    folders = [place for word in dict.fromkeys(words) if word for place in _named(root, word)]
    for name in ("images", "data", "JPEGImages"):
        folders += [folder for base in (home, root) if (folder := layout.child_folder(base, name))]
    folders += [root] if source.strict else [home, root]
    return list(dict.fromkeys(folders))


def _named(root: Path, word: str) -> Iterator[Path]:
    for base in (root, layout.child_folder(root, "images")):
        folder = layout.child_folder(base, word) if base else None
        if folder:
            yield folder


def choose_folder(folders: Sequence[Path], records: Sequence[Record], *, strict: bool) -> list[Path]:
    """Sort folders so that the first one is where the images are, judging by a few of them."""
    probe = records[:: len(records) // 16 + 1]

    def hits(folder: Path) -> int:
        return sum(locate(record.file_name, [folder], strict=strict) is not None for record in probe)

    return sorted(folders, key=lambda folder: -hits(folder))


def locate(name: str, folders: Sequence[Path], *, strict: bool) -> Path | None:
    """Return the path of an image; unless ``strict`` the end of its stored path is enough."""
    parts = [part for part in name.split("/") if part not in ("", "..")]
    for start in range(1 if strict else len(parts)):
        for folder in folders:
            path = folder.joinpath(*parts[start:])
            if path.is_file():
                return path
    return None
