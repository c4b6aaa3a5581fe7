"""Folders of frames: one folder per clip, without labels."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from splitreg.errors import DataError
from splitreg.interfaces import Dataset
from splitreg.specs import TargetSpec
from splitreg.tasks import Clip, Sample
from splitreg_datasets import layout
from splitreg_datasets.files import as_image, find_root, no_split, read_picture

EXPECTED = "a folder of images per clip, perhaps inside folders of splits"
_DIGITS = re.compile(r"(\d+)")


class Frames(Dataset):
    """Clips as folders of frames, without labels: to measure bytes and agreement of models on real videos.

    ::

        root/<split>/<clip>/*.jpg
        root/<clip>/*.jpg              every split is all of them
        root/*.jpg                     one clip

    Clips may lie in deeper folders. Frames are in the order of their names, where numbers count as
    numbers: ``frame9.png`` comes before ``frame10.png``.

    Args:
        root: the folder; None: ``$SPLITREG_DATA/frames``.
        split: ``"train"``, ``"val"``, ``"test"`` or ``"all"``.
        rate: frames per second; 0: unknown.
        every: take every n-th frame of each clip.

    Raises:
        DataError: no images, no such split, or an option out of its range.
    """

    def __init__(self, root: str | None = None, split: str = "train", *, rate: float = 0.0, every: int = 1) -> None:
        if rate < 0 or every < 1:
            raise DataError(f"rate must be at least 0 and every at least 1, got {rate} and {every}")
        self.targets = self.describe(root)
        self._root = find_root(root, "frames")
        folders = _folders(self._root)
        splits = {split for split, _ in folders if split}
        wanted = layout.split_name(split) or split
        if wanted not in ({*splits, "all"} if splits else {*layout.SPLITS, "all"}):
            raise no_split("frames", self._root, split, {*splits, "all"} if splits else {*layout.SPLITS, "all"})
        self._frames: list[str] = []
        clips = []
        for (own, clip), names in folders.items():
            if not splits or wanted in (own, "all"):
                start = len(self._frames)
                self._frames += sorted(names, key=natural_key)[::every]
                clips.append(Clip(name=clip, frames=range(start, len(self._frames)), rate=rate / every))
        self.clips = clips

    @classmethod
    def describe(cls, root: str | None = None, **options: object) -> Mapping[str, TargetSpec]:
        """Return no target.

        Raises:
            DataError: no images.
        """
        place = find_root(root, "frames")
        if not place.is_dir() or not _folders(place):
            raise layout.not_this("frames", place, EXPECTED)
        return {}

    def __len__(self) -> int:
        return len(self._frames)

    def __getitem__(self, index: int) -> Sample:
        name = self._frames[index]
        return Sample(image=as_image(read_picture(self._root / name)), targets={}, name=name)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Return a sort key by which numbers in names count as numbers.

    >>> sorted(["f10.png", "f9.png", "f09.png"], key=natural_key)
    ['f09.png', 'f9.png', 'f10.png']
    """
    parts = _DIGITS.split(name)
    key = [(int(part[:4000]), "") if number % 2 else (-1, part) for number, part in enumerate(parts)]
    return [*key, (-2, name)]


def _folders(root: Path) -> dict[tuple[str, str], list[str]]:
    """Return (split, name of the clip) -> images relative to the root, in the order of the clips' names."""
    clips: dict[tuple[str, str], list[str]] = {}
    for name in layout.images_in(root):
        folder = name.rpartition("/")[0]
        split = layout.split_name(folder.split("/", 1)[0]) or ""
        clips.setdefault((split, folder or root.name), []).append(name)
    return {key: clips[key] for key in sorted(clips, key=lambda key: natural_key(key[1]))}
