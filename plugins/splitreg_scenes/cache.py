"""Rendered scenes on disk: shards of records, written atomically, checked when read.

A shard is one ``.npy`` file of structured records, mapped into memory. Each record has a checksum; a
damaged or truncated shard is rendered again. There are no locks: a process writes a shard to a
temporary file and renames it, and two processes that render the same shard write the same bytes.

Helpers are child processes that run this module. So rendering works from any program without a
``__main__`` guard, in data loader workers, and with every start method.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import DataError
from splitreg.progress import Progress
from splitreg_scenes.raycast import Rendering
from splitreg_scenes.rendering import MAX_SOLIDS, capacity, rendering

__all__ = ["SceneCache", "cache_folder"]

#: Part of the folder's name; increase it when images or their storage change.
VERSION = 1
#: Images per shard; they take about 0.2 s to render.
SHARD = 64


def cache_folder() -> Path:
    """Return the cache folder: ``SPLITREG_CACHE``, or ``~/.cache/splitreg``."""
    return Path(os.environ.get("SPLITREG_CACHE") or Path.home() / ".cache" / "splitreg")


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneCache:
    """The first ``count`` images of a split, rendered once.

    Args:
        mode: see ``splitreg_scenes.rendering``.
        split: see ``splitreg_scenes.rendering``.
        size: (height, width).
        count: number of images.
        seed: see ``splitreg_scenes.rendering``.
        folder: folder of the shards; None: ``cache_folder()``.

    Raises:
        DataError: an argument is out of range, or there is no such mode or split.
    """

    mode: str
    split: str
    size: tuple[int, int]
    count: int
    seed: int = 0
    folder: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.count <= capacity(self.mode, self.split):
            raise DataError(
                f"scenes {self.mode}/{self.split} has 1 to {capacity(self.mode, self.split)} images, not {self.count}"
            )
        if min(self.size) < 8 or max(self.size) > 2048:
            raise DataError(f"scenes have 8 to 2048 pixels per side, not {self.size}")
        if self.seed < 0:
            raise DataError(f"seed must be 0 or more, got {self.seed}")

    @property
    def home(self) -> Path:
        """Folder of the shards; it does not depend on ``count``."""
        name = f"{self.mode}-{self.split}-{self.size[0]}x{self.size[1]}-seed{self.seed}"
        return (self.folder or cache_folder()) / f"scenes-v{VERSION}" / name

    @property
    def shards(self) -> int:
        """Number of shards with ``count`` images; all are full, except the last one of a split."""
        return -(-self.count // SHARD)

    def open(self, shard: int) -> NDArray[Any] | None:
        """Map a shard into memory, or return None if it is missing or incomplete; ``record`` checks contents."""
        try:
            records = np.load(self._path(shard), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        whole = records.dtype == self._dtype and records.shape == (self._length(shard),)
        return records if whole else None

    def render(self, shard: int) -> None:
        """Render a shard and rename it into place."""
        records = np.zeros(self._length(shard), self._dtype)
        for number, record in enumerate(records):
            position = shard * SHARD + number
            _pack(record, rendering(self.mode, self.split, position, size=self.size, seed=self.seed))
        self.home.mkdir(parents=True, exist_ok=True)
        partial = self.home / f".{shard:05d}-{uuid.uuid4().hex}.partial"
        try:
            with partial.open("xb") as file:
                np.save(file, records, allow_pickle=False)
            os.replace(partial, self._path(shard))
        finally:
            partial.unlink(missing_ok=True)

    def fill(self, *, workers: int | None = None, progress: bool = True) -> None:
        """Render the missing shards.

        Args:
            workers: number of processes, with this one; None: up to two, by the number of shards.
            progress: show a progress bar on stderr, if that is a terminal.

        Raises:
            DataError: the folder of the cache cannot be written.
        """
        missing = [shard for shard in range(self.shards) if self.open(shard) is None]
        if not missing:
            return
        if workers is None:
            workers = min(2, os.cpu_count() or 1, 1 + len(missing) // 4)  # a helper takes 0.3 s to start
        try:
            title = f"rendering {self.home.name}"
            with Progress(progress).bar(title, self.count) as bar, self._helpers(workers):
                for done, shard in enumerate(_order(self.shards, 0, workers), 1):
                    if self.open(shard) is None:  # not yet done by a helper or another program
                        self.render(shard)
                    bar.update(min(self.count, done * SHARD))
        except OSError as cause:
            raise DataError(
                f"cannot write rendered scenes to {self.home}: {cause}; set SPLITREG_CACHE to a writable folder"
            ) from cause

    def record(self, records: NDArray[Any], number: int) -> Rendering | None:
        """Return an image of an open shard, or None if it is damaged."""
        return _unpack(records[number])

    def _path(self, shard: int) -> Path:
        return self.home / f"{shard:05d}.npy"

    def _length(self, shard: int) -> int:
        return min(SHARD, capacity(self.mode, self.split) - shard * SHARD)

    @property
    def _dtype(self) -> np.dtype[Any]:
        return np.dtype([
            ("image", "u1", (*self.size, 3)), ("surface", "u1", self.size), ("depth_mm", "<u2", self.size),
            ("kinds", "i1", (MAX_SOLIDS,)), ("crc", "<u4"),
        ])  # fmt: skip

    @contextlib.contextmanager
    def _helpers(self, workers: int) -> Iterator[None]:
        """Run ``workers - 1`` child processes, each with its own order of shards."""
        running = []
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        plain = {**asdict(self), "folder": str(self.folder or cache_folder())}
        try:
            for helper in range(1, workers):
                call = [sys.executable, "-m", "splitreg_scenes.cache", repr(plain), str(helper), str(workers)]
                with contextlib.suppress(OSError):  # without helpers rendering only takes longer
                    running.append(
                        subprocess.Popen(  # without our stdin and output
                            call, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL,
                        )
                    )  # fmt: skip
            yield
        finally:
            for process in running:
                process.terminate()
                process.wait()


class SceneReader:
    """Images of a cache by position; opens shards on first use and renders damaged ones again.

    It can be pickled, so data loader workers of any start method can use it.
    """

    def __init__(self, cache: SceneCache) -> None:
        self.cache = cache
        self._open: dict[int, NDArray[Any]] = {}

    def __len__(self) -> int:
        return self.cache.count

    def __getitem__(self, position: int) -> Rendering:
        if not 0 <= position < len(self):
            raise IndexError(position)
        shard, number = divmod(position, SHARD)
        for attempt in range(3):
            if shard not in self._open:
                records = self.cache.open(shard)
                if records is not None:
                    self._open[shard] = records
            image = self.cache.record(self._open[shard], number) if shard in self._open else None
            if image is not None:
                return image
            self._open.pop(shard, None)
            if attempt < 2:
                self.cache.render(shard)
        raise DataError(
            f"rendered scenes in {self.cache.home} are damaged again after rendering; delete the folder or set SPLITREG_CACHE"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"cache": self.cache, "_open": {}}


def _pack(record: NDArray[Any], image: Rendering) -> None:
    record["image"] = image.image
    record["surface"] = image.surface
    record["depth_mm"] = np.clip(np.rint(image.depth * 1000), 0, 65535)
    record["kinds"] = -1
    record["kinds"][: len(image.kinds)] = image.kinds
    record["crc"] = _crc(record)


def _unpack(record: NDArray[Any]) -> Rendering | None:
    if int(record["crc"]) != _crc(record):
        return None
    kinds = record["kinds"]
    return Rendering(
        image=np.array(record["image"]),
        surface=np.array(record["surface"]),
        depth=record["depth_mm"].astype(np.float32) / np.float32(1000),
        kinds=kinds[kinds >= 0].astype(np.int64),
    )


def _crc(record: NDArray[Any]) -> int:
    value = 0
    for field in ("image", "surface", "depth_mm", "kinds"):
        value = zlib.crc32(np.ascontiguousarray(record[field]).data, value)
    return value


def _order(shards: int, worker: int, workers: int) -> list[int]:
    """Return the order of shards of one worker; two workers meet in the middle of each part."""
    part, backward = divmod(worker, 2)
    parts = (workers + 1) // 2
    begin, end = shards * part // parts, shards * (part + 1) // parts
    mine = range(begin, end)
    return [*(reversed(mine) if backward else mine), *range(end, shards), *range(begin)]


def _help(options: str, worker: str, workers: str) -> None:
    """Render missing shards in a helper process."""
    import ast

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # removes an unfinished file
    plain = ast.literal_eval(options)
    cache = SceneCache(**{**plain, "folder": Path(plain["folder"])})
    for shard in _order(cache.shards, int(worker), int(workers)):
        if cache.open(shard) is None:
            cache.render(shard)


if __name__ == "__main__":
    _help(*sys.argv[1:])
