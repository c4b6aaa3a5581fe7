"""The rules that every reader follows for names of files, texts, and splits.

- Hidden files (``.x``, ``._x``) and the folders that systems leave behind are skipped.
- Suffixes count in any case; an image has a suffix of ``splitreg.files.IMAGE_SUFFIXES``.
- Links to files and folders are followed; a link to a folder above itself is not.
- Texts are UTF-8 or UTF-16 with or without a byte order mark, else Latin-1, with any line ends.
- Names stored in files may have Windows separators and never lead out of the dataset's folder.
- Splits have their names in any case: ``Training`` is ``train``, ``valid`` and ``validation`` are
  ``val``. Where a dataset has no splits, a part is held out for validation by the hash of the
  images' stems, so that every format of the same images holds out the same ones.
"""

from __future__ import annotations

import codecs
import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Generic, TypeVar

from splitreg.data.recognition import hint
from splitreg.errors import DataError, suggest
from splitreg.files import IMAGE_SUFFIXES, is_image

T = TypeVar("T")

#: Canonical name of a split -> names under which it is found.
SPLITS: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
#: Fraction of the images that is held out for validation where a dataset has no splits.
HOLD_OUT = 0.2
#: Text files with more bytes are refused.
MAX_TEXT_BYTES = 1_000_000_000
#: Readers look this many folders deep.
MAX_DEPTH = 8
#: `recognise` counts what is in this many label files at most.
MAX_COUNTED = 20_000
_SPLIT_OF = {alias: split for split, aliases in SPLITS.items() for alias in aliases}
_LEFT_BEHIND = {"__macosx", "@eadir", "$recycle.bin", "lost+found", "system volume information"}


# --- names


def visible(name: str) -> bool:
    """Whether a file or folder counts.

    >>> visible("a.jpg"), visible("._a.jpg"), visible("__MACOSX")
    (True, False, False)
    """
    return not name.startswith(".") and name.lower() not in _LEFT_BEHIND


def split_name(name: str) -> str | None:
    """Return the canonical name of a split, None if the name is not one.

    >>> split_name("Training"), split_name("valid"), split_name("cats")
    ('train', 'val', None)
    """
    return _SPLIT_OF.get(name.lower())


def split_in(stem: str) -> str:
    """Return the split that a file's stem names, an empty string if it names none or several.

    >>> split_in("instances_train2017"), split_in("oidv6-validation-bbox"), split_in("trainers")
    ('train', 'val', '')
    """
    words = "".join(c if c.isalpha() else " " for c in stem).split()
    named = {split for word in words if (split := split_name(word))}
    return named.pop() if len(named) == 1 else ""


def stored_name(name: str) -> str:
    r"""Return a file name that a tool has stored, with forward slashes.

    >>> stored_name("images\\a.jpg"), stored_name("./a.jpg")
    ('images/a.jpg', 'a.jpg')
    """
    return "/".join(part for part in name.strip().replace("\\", "/").split("/") if part != ".")


def inside(name: str) -> bool:
    """Whether a path that a file names stays inside its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    drive = len(name) > 1 and name[1] == ":" and name[0].isalpha()
    return not path.is_absolute() and not drive and ".." not in path.parts and "\0" not in name


def stem_of(name: str) -> str:
    """Return a path without its suffix.

    >>> stem_of("a/b (1).final.jpg")
    'a/b (1).final'
    """
    head, dot, tail = name.rpartition(".")
    return head if dot and head and "/" not in tail else name


# --- folders


def walk(root: Path, depth: int = MAX_DEPTH) -> Iterator[str]:
    """Yield the files of a folder, sorted, relative with forward slashes; links are followed.

    Raises:
        DataError: a folder cannot be read.
    """
    yield from _walk(os.fspath(root), "", depth, frozenset())


def _walk(folder: str, prefix: str, depth: int, above: frozenset[tuple[int, int]]) -> Iterator[str]:
    try:
        state = os.stat(folder)
        with os.scandir(folder) as scanned:
            entries = sorted((entry.name, _is_folder(entry)) for entry in scanned if visible(entry.name))
    except OSError as cause:
        raise DataError(f"cannot read the folder {folder}: {cause.strerror}") from cause
    identity = (state.st_dev, state.st_ino)
    if identity in above:
        return  # a link to a folder above itself
    for name, is_folder in entries:
        if not is_folder:
            yield prefix + name
        elif depth:
            yield from _walk(os.path.join(folder, name), f"{prefix}{name}/", depth - 1, above | {identity})


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def images_in(root: Path, depth: int = MAX_DEPTH) -> list[str]:
    """Return the images of a folder, sorted, relative with forward slashes."""
    return [name for name in walk(root, depth) if is_image(name)]


@dataclass(frozen=True, slots=True)
class Listing:
    """Names in one folder, sorted; what is hidden does not count."""

    folders: tuple[str, ...]
    files: tuple[str, ...]

    def images(self) -> list[str]:
        """Return the names of images."""
        return [name for name in self.files if is_image(name)]


def listing(folder: Path, limit: int | None = None) -> Listing:
    """List a folder; empty where it is none.

    Args:
        folder: to list.
        limit: largest number of names, the first that the system returns.
    """
    folders: list[str] = []
    files: list[str] = []
    try:
        with os.scandir(folder) as scanned:
            for entry in scanned:
                if visible(entry.name):
                    (folders if _is_folder(entry) else files).append(entry.name)
                if limit is not None and len(folders) + len(files) >= limit:
                    break
    except OSError:
        return Listing((), ())
    return Listing(tuple(sorted(folders)), tuple(sorted(files)))


def child(folder: Path, *names: str) -> Path | None:
    """Return the first entry of a folder that has one of these names, in any case."""
    there = listing(folder)
    entries = {name.lower(): name for name in reversed((*there.folders, *there.files))}
    return next((folder / entries[name.lower()] for name in names if name.lower() in entries), None)


def child_folder(folder: Path, *names: str) -> Path | None:
    """Return the first folder inside a folder that has one of these names, in any case."""
    entries = {name.lower(): name for name in reversed(listing(folder).folders)}
    return next((folder / entries[name.lower()] for name in names if name.lower() in entries), None)


def only_folder(root: Path) -> Path:
    """Return the folder that holds all: an unpacked archive often has one folder with everything in it."""
    for _ in range(2):
        there = listing(root, limit=64)
        if len(there.folders) != 1 or there.files or split_name(there.folders[0]):
            break
        root = root / there.folders[0]
    return root


def by_stem(folder: Path, depth: int = MAX_DEPTH) -> dict[str, str]:
    """Return stem -> name of the images of a folder, both relative with forward slashes.

    Of two images with one stem the first by suffix counts (JPEG before PNG, and so on).
    """
    rank = {suffix: number for number, suffix in enumerate(IMAGE_SUFFIXES)}
    names = sorted(images_in(folder, depth), key=lambda name: -rank.get(os.path.splitext(name)[1].lower(), 99))
    return {stem_of(name): name for name in names}


# --- texts


def read_text(path: Path) -> str:
    """Read a text file: UTF-8 or UTF-16, with or without byte order mark, else Latin-1.

    Raises:
        DataError: it cannot be read, is too large, or is no text.
    """
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise DataError(f"{path} has more than {MAX_TEXT_BYTES} bytes")
        data = path.read_bytes()
    except OSError as cause:
        raise DataError(f"cannot read {path}: {cause.strerror}") from cause
    return decode_text(data, path)


def decode_text(data: bytes, path: Path) -> str:
    """Decode the bytes of a text file, as ``read_text``.

    Raises:
        DataError: it is no text.
    """
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = data.decode("utf-16")
        else:
            text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    if "\0" in text:
        raise DataError(f"{path} is not a text file")
    return text


def read_lines(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty, without space around them.

    Raises:
        DataError: it cannot be read, or is no text.
    """
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def class_names(names: Iterable[str], where: object) -> tuple[str, ...]:
    """Check the names of classes.

    Args:
        names: in the order of their indexes.
        where: file or option that they come from.

    Raises:
        DataError: an empty name, or one that is there twice.
    """
    listed = tuple(name.strip() for name in names)
    for number, name in enumerate(listed):
        if not name:
            raise DataError(f"{where}: class {number} has an empty name")
        if name in listed[:number]:
            raise DataError(f"{where}: two classes are named {name!r} ({listed.index(name)} and {number}); rename one")
    return listed


def option_names(text: str, option: str = "classes") -> tuple[str, ...]:
    """Read an option that lists names, separated by commas; empty: none.

    Raises:
        DataError: a name is there twice.
    """
    return class_names((name for name in text.split(",") if name.strip()), f"the option {option}")


# --- splits


def held_out(stems: Sequence[str], fraction: float = HOLD_OUT) -> list[bool]:
    """Choose the images of a group that are held out for validation, by the hashes of their stems.

    At least one image is held out and one is not, unless there is only one.

    >>> sum(held_out([f"{i}" for i in range(10)])), held_out(["a"]), sum(held_out(["a", "b"]))
    (2, [False], 1)
    """
    number = min(len(stems) - 1, max(1, round(fraction * len(stems)))) if len(stems) > 1 else 0
    keys = [(hashlib.sha256(os.path.basename(stem).encode(errors="replace")).digest(), stem) for stem in stems]
    chosen = set(sorted(range(len(stems)), key=lambda index: keys[index])[:number])
    return [index in chosen for index in range(len(stems))]


@dataclass(frozen=True, slots=True)
class Splits(Generic[T]):
    """The images of a dataset by split.

    Args:
        images: canonical name of a split -> its images; ``"all"`` has every image.
        fraction: of the images that are held out as ``"val"``; 0: the dataset has its own splits.
    """

    images: Mapping[str, Sequence[T]]
    fraction: float = 0.0

    def select(self, split: str, dataset: str, root: Path) -> Sequence[T]:
        """Return the images of a split.

        Raises:
            DataError: there is no such split, or it is empty; the message says why.
        """
        wanted = split_name(split) or split
        if self.images.get(wanted):
            return self.images[wanted]
        if self.fraction and wanted == "val":
            raise DataError(
                f"{root} has an empty split 'val' for {dataset}: {self.fraction:.0%} of each class's images would be "
                "held out, but no class has 2 images; add images, or name another split to validate on"
            )
        if wanted in self.images:
            raise DataError(f"{root} has the split {wanted!r} for {dataset}, but no image is in it")
        names, remedy = sorted(self.images), ""
        if wanted == "val" and "train" in names:
            other = "test" if "test" in names else "train"
            remedy = (
                f'. Hold a part of train out with the option hold_out = 0.2, or validate on {other}: val = "{other}"'
            )
        raise DataError(
            f"{root} has no split {split!r} for {dataset}.{suggest(split, names)} There are: "
            f"{', '.join(names) or 'none'}{remedy}"
        )

    def counts(self) -> str:
        """Return the number of images by split: ``"412 train and 88 val images"``."""
        parts = [
            f"{len(self.images[name]):,} {name}" for name in (*SPLITS, *_others(self.images)) if self.images.get(name)
        ]
        text = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts) or "0"
        note = f" ({self.fraction:.0%} held out for val by file name)" if self.fraction else ""
        return f"{text} images{note}"


def _others(images: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in images if name not in SPLITS and name != "all")


def make_splits(
    named: Mapping[str, Sequence[T]],
    *,
    stem: Callable[[T], str],
    group: Callable[[T], Hashable] = lambda image: None,
    hold_out: float = 0.0,
) -> Splits[T]:
    """Complete the splits that a dataset has.

    Args:
        named: split -> images, in any spelling; an empty name for images that are in no split.
        stem: the stem of an image, from which its place in a held-out split follows.
        group: what is split apart from others, as the class of an image.
        hold_out: fraction to hold out of ``train`` as ``val``; 0: only where there are no splits at all.

    Raises:
        DataError: a fraction that is none, or given where there is a ``val`` already.
    """
    if not 0 <= hold_out < 1:
        raise DataError(f"hold_out is a fraction of the images, 0 to 1; got {hold_out}")
    images: dict[str, list[T]] = {}
    for name, listed in named.items():
        images.setdefault(split_name(name) or name, []).extend(listed)
    every = [image for listed in images.values() for image in listed]
    unnamed = images.pop("", [])
    if not images:
        images["train"], hold_out = unnamed, hold_out or HOLD_OUT
    if not hold_out:
        return Splits({**images, "all": every})
    if images.get("val"):
        raise DataError("the dataset has its own split 'val'; leave the option hold_out away")
    groups: dict[Hashable, list[T]] = {}
    for image in images.get("train", []):
        groups.setdefault(group(image), []).append(image)
    chosen = {
        id(image)
        for members in groups.values()
        for image, out in zip(members, held_out([stem(i) for i in members], hold_out), strict=True)
        if out
    }
    train = images.get("train", [])
    images["train"] = [image for image in train if id(image) not in chosen]
    images["val"] = [image for image in train if id(image) in chosen]
    return Splits({**images, "all": every}, fraction=hold_out)


# --- messages


def not_this(dataset: str, root: Path, expected: str) -> DataError:
    """Return the error for a folder of another layout: what was expected, what is there, which reader may fit."""
    return DataError(
        f"{root} is not a {dataset} dataset: expected {expected}; there is {contents(root)}.{hint(root, dataset)}"
    )


def contents(root: Path) -> str:
    """Return the first names in a folder, for an error message."""
    if not root.is_dir():
        return "a file"
    there = listing(root, limit=1000)
    names = sorted([*(f"{name}/" for name in there.folders), *there.files])
    return ", ".join([*names[:8], *(["..."] if len(names) > 8 else [])]) or "nothing"


def plural(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> plural(1, "class"), plural(1904, "box")
    ('1 class', '1,904 boxes')
    """
    ending = "" if number == 1 else "es" if noun.endswith(("s", "x")) else "s"
    return f"{number:,} {noun}{ending}"
