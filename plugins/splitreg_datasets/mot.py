"""MOTChallenge: sequences of frames with boxes and identities."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from splitreg import tasks
from splitreg.errors import DataError
from splitreg.interfaces import Dataset
from splitreg.predictions import Detections
from splitreg.specs import TargetSpec
from splitreg.tasks import Clip, Sample
from splitreg_datasets import layout
from splitreg_datasets.files import as_image, find_root, no_split, read_picture
from splitreg_datasets.mottext import MotRows, SequenceInfo, read_info, read_rows
from splitreg_datasets.objects import Shape, object_specs, object_targets

#: Classes of MOT16, MOT17 and MOT20, from 1 on.
CLASSES = (
    "pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle", "static person",
    "distractor", "occluder", "occluder on the ground", "full occluder", "reflection", "crowd",
)  # fmt: skip
#: Classes on which the benchmark's evaluation accepts and ignores detections of pedestrians.
AMBIGUOUS = frozenset({2, 7, 8, 12, 13})
EXPECTED = "<split>/<sequence>/img1/*.jpg with gt/gt.txt and seqinfo.ini, the same without splits, or one sequence"


class Mot(Dataset):
    """A folder of MOTChallenge's layout (MOT15 to MOT20, DanceTrack, SportsMOT, exports of CVAT).

    ::

        root/train/<sequence>/img1/000001.jpg, ...      the number of a frame is its file's
        root/train/<sequence>/gt/gt.txt                 frame, id, left, top, width, height, counts, class, visibility
        root/train/<sequence>/det/det.txt               optional: public detections, see ``detections``
        root/train/<sequence>/seqinfo.ini               optional: frameRate, imDir, imWidth, imHeight
        root/train/<sequence>/gt/labels.txt             optional: names of the classes (CVAT)
        root/test/<sequence>/                           without gt/: images only

    Splits may be missing (``root/<sequence>/``), and root may be one sequence. Where there is no folder ``val``,
    ``train`` is the first half of every sequence and ``val`` the rest, as is usual for MOT17; ``all`` has
    every frame of every split.

    Without class names there is one class, ``pedestrian``: rows that do not count and people of
    ambiguous classes are marked as crowds, other classes are left out, as in the benchmark's
    evaluation. With class names every row that counts is an object.

    Args:
        root: the folder; None: ``$SPLITREG_DATA/mot``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.
        classes: names of the classes from 1 on, separated by commas.
        min_visibility: objects of which a smaller share is visible are marked as crowds.
        origin: coordinate of the first pixel: ``"1"`` as MOTChallenge has it, ``"0"``, or ``"auto"``: 0
            where there is a ``labels.txt``.

    Raises:
        DataError: not this layout, or a file that is malformed.
    """

    def __init__(
        self, root: str | None = None, split: str = "train", *, classes: str = "", min_visibility: float = 0.0,
        origin: str = "auto",
    ) -> None:  # fmt: skip
        if not 0 <= min_visibility <= 1:
            raise DataError(f"min_visibility must be 0 to 1, got {min_visibility}")
        if origin not in ("auto", "0", "1"):
            raise DataError(f"origin must be 'auto', '0' or '1', got {origin!r}")
        self._root = find_root(root, "mot")
        self.targets = self.describe(root, classes=classes)
        self._named = bool(layout.option_names(classes) or _label_file(_sequences(self._root)))
        self._min_visibility, self._origin = min_visibility, origin
        self._frames: list[tuple[_Sequence, _Frame]] = []
        clips = []
        for sequence, frames in _select(self._root, split):
            start = len(self._frames)
            self._frames += [(sequence, frame) for frame in frames]
            rate = sequence.info().rate
            clips.append(Clip(name=sequence.name, frames=range(start, len(self._frames)), rate=rate))
        self.clips = clips

    @classmethod
    def describe(cls, root: str | None = None, *, classes: str = "", **options: object) -> Mapping[str, TargetSpec]:
        """Return the targets; reads names only.

        Raises:
            DataError: not this layout.
        """
        place = find_root(root, "mot")
        sequences = _sequences(place)
        if not sequences:
            raise layout.not_this("mot", place, EXPECTED)
        names = layout.option_names(classes)
        labels = _label_file(sequences)
        if not names and labels is not None:
            names = layout.class_names(layout.read_lines(labels), labels)
        return object_specs(names or CLASSES[:1])

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return a line with the numbers of sequences and frames; None if it is another layout."""
        sequences = _sequences(Path(root)) if Path(root).is_dir() else []
        if not sequences or not any(sequence.truth or sequence.ini for sequence in sequences):
            return None
        frames = sum(len(sequence.frames()) for sequence in sequences)
        truth = sum(sequence.truth is not None for sequence in sequences)
        return (
            f"mot: {layout.plural(len(sequences), 'sequence')}, {layout.plural(frames, 'frame')}, {truth} with gt.txt"
        )

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Sample:
        sequence, frame = self._frames[index]
        image = read_picture(frame.path, sequence.info().size)
        targets = {}
        if sequence.truth is not None:
            shapes = self._shapes(sequence, frame)
            size = (image.shape[0], image.shape[1])
            labels = self.targets[tasks.DETECTION].labels
            targets = object_targets(shapes, len(labels), size, sequence.truth, identities=True)
        return Sample(image=as_image(image), targets=targets, name=f"{sequence.name}/{frame.path.name}")

    def detections(self, index: int) -> Detections | None:
        """Return the public detections of a sample (``det/det.txt``), highest score first; None without a file.

        They have one class. Scores are as stored; in some files they are not in 0 to 1.

        Raises:
            DataError: the file is malformed.
        """
        sequence, frame = self._frames[index]
        path = layout.child(sequence.folder / "det", "det.txt")
        if path is None:
            return None
        rows = _rows(path, path.stat().st_mtime_ns)
        part = rows.of_frame(frame.number)
        order = np.argsort(-rows.scores[part], kind="stable")
        boxes = rows.boxes[part][order] - [self._first(sequence), self._first(sequence), 0, 0]
        boxes[:, 2:] += boxes[:, :2]
        return Detections(
            boxes=boxes.astype(np.float32),
            scores=rows.scores[part][order].astype(np.float32),
            labels=np.zeros(len(order), np.int64),
            names=self.targets[tasks.DETECTION].labels,
        )

    def _first(self, sequence: _Sequence) -> int:
        """Return the coordinate of the first pixel."""
        return int(self._origin) if self._origin != "auto" else int(sequence.labels is None)

    def _shapes(self, sequence: _Sequence, frame: _Frame) -> list[Shape]:
        path = sequence.truth
        assert path is not None
        rows = _rows(path, path.stat().st_mtime_ns)
        first, classes = self._first(sequence), len(self.targets[tasks.DETECTION].labels)
        shapes: list[Shape] = []
        seen: set[int] = set()
        part = rows.of_frame(frame.number)
        columns = (rows.identities, rows.boxes, rows.scores, rows.classes, rows.visibility)
        for identity, (left, top, width, height), counts, number, visible in zip(
            *(column[part].tolist() for column in columns), strict=True
        ):
            number = 1 if number == -1 else number
            crowd = counts == 0 or visible < self._min_visibility
            if self._named:
                if not 1 <= number <= classes:
                    raise DataError(
                        f"{path}, frame {frame.number}: class {number} of {classes}; name it with classes=..."
                    )
            elif number in AMBIGUOUS:
                number, crowd = 1, True
            elif number != 1:
                continue
            if not crowd and identity in seen:
                raise DataError(f"{path}, frame {frame.number}: two objects have the identity {identity}")
            seen.update(() if crowd else (identity,))
            box = (left - first, top - first, left - first + width, top - first + height)
            shapes.append(Shape(label=number - 1, box=box, crowd=crowd, identity=identity))
        return shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    number: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sequence:
    """Folder of one sequence: its files, and its split ("" without folders of splits)."""

    folder: Path
    split: str
    truth: Path | None
    labels: Path | None
    ini: Path | None

    @property
    def name(self) -> str:
        return f"{self.split}/{self.folder.name}" if self.split else self.folder.name

    def info(self) -> SequenceInfo:
        return SequenceInfo() if self.ini is None else _info(self.ini, self.ini.stat().st_mtime_ns)

    def frames(self) -> list[_Frame]:
        """Return the frames in the order of their numbers.

        Raises:
            DataError: a file's name is no number, or two are of one frame.
        """
        images = self.folder / self.info().images
        frames: dict[int, _Frame] = {}
        for name in layout.listing(images).images():
            digits = layout.stem_of(name).rpartition("_")[2]
            if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
                raise DataError(f"{images / name} is no frame: its name is not a number")
            other = frames.setdefault(int(digits), _Frame(number=int(digits), path=images / name))
            if other.path.name != name:
                raise DataError(f"{images} has two images of frame {int(digits)}: {other.path.name} and {name}")
        return [frames[number] for number in sorted(frames)]


@functools.lru_cache(maxsize=16)
def _rows(path: Path, modified: int) -> MotRows:
    return read_rows(path)


@functools.lru_cache(maxsize=64)
def _info(path: Path, modified: int) -> SequenceInfo:
    return read_info(path)


def _sequence(folder: Path, split: str) -> _Sequence | None:
    """Return a sequence; None if the folder is none."""
    there = layout.listing(folder)
    names = {name.lower() for name in there.folders}
    ini = layout.child(folder, "seqinfo.ini") if any(name.lower() == "seqinfo.ini" for name in there.files) else None
    if ini is None and "img1" not in names:
        return None
    truth = layout.child(folder / "gt", "gt.txt") if "gt" in names else None
    labels = layout.child(folder / "gt", "labels.txt") if "gt" in names else None
    return _Sequence(folder=folder, split=split, truth=truth, labels=labels, ini=ini)


def _sequences(root: Path) -> list[_Sequence]:
    one = _sequence(root, "")
    if one is not None:
        return [one]
    root = layout.only_folder(root)
    one = _sequence(root, "")
    if one is not None:
        return [one]
    sequences = []
    for name in layout.listing(root).folders:
        split = layout.split_name(name)
        folders = layout.listing(root / name).folders if split else [name]
        parent = root / name if split else root
        sequences += [s for folder in folders if (s := _sequence(parent / folder, split or "")) is not None]
    return sequences


def _select(root: Path, split: str) -> list[tuple[_Sequence, list[_Frame]]]:
    """Return the frames of a split by sequence.

    Raises:
        DataError: no such split, or no frame in it.
    """
    wanted = layout.split_name(split) or split
    sequences = _sequences(root)
    splits = {sequence.split or "train" for sequence in sequences}
    halves = "val" not in splits and "train" in splits
    if wanted not in {*splits, "all", *(["val"] if halves else [])}:
        raise no_split("mot", root, split, {*splits, "all", *(["val"] if halves else [])})
    selected = []
    for sequence in sequences:
        own = sequence.split or "train"
        frames: Sequence[_Frame] = sequence.frames()
        if halves and own == "train" and wanted in ("train", "val"):
            half = (len(frames) + 1) // 2
            frames = frames[:half] if wanted == "train" else frames[half:]
        elif wanted not in (own, "all"):
            continue
        if frames:
            selected.append((sequence, list(frames)))
    if not selected:
        raise DataError(f"{root} has no frame in the split {wanted!r}")
    return selected


def _label_file(sequences: Sequence[_Sequence]) -> Path | None:
    return next((sequence.labels for sequence in sequences if sequence.labels is not None), None)
