"""Rendered scenes on disk: shards of records, written atomically, checked when read, filled by several processes.

A shard is one ``.npy`` file of structured records, mapped into memory. Each record carries a checksum: a damaged or
shortened shard is rendered again. Nothing is locked: whoever renders a shard moves it into place whole, and two who
render the same one write the same bytes.

Helpers are plain child processes that run this module, so that rendering works from any program (no ``__main__`` guard
is needed), in a worker of a data loader and under every start method.
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

#: Part of the folder's name: raise it with every change of what is drawn or how it is stored.
VERSION = 1
#: Images in a shard: a fifth of a second of work.
SHARD = 64


def cache_folder() -> Path:
    """Return the folder of everything that can be made again: ``SPLITREG_CACHE``, or ``~/.cache/splitreg``."""
    return Path(os.environ.get("SPLITREG_CACHE") or Path.home() / ".cache" / "splitreg")


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneCache:
    """``count`` images of a split, rendered once.

    Args:
        mode: see ``splitreg_scenes.rendering``.
        split: likewise.
        size: (height, width).
        count: how many.
        seed: see ``splitreg_scenes.rendering``.
        folder: where shards are kept; ``cache_folder()`` when None.

    Raises:
        DataError: no such mode or split, or it has not that many images.
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
                f"scenes {self.mode}/{self.split} have 1 to {capacity(self.mode, self.split)} images, not {self.count}"
            )
        if min(self.size) < 8 or max(self.size) > 2048:
            raise DataError(f"scenes are 8 to 2048 pixels a side, not {self.size}")
        if self.seed < 0:
            raise DataError(f"a seed is 0 or more, not {self.seed}")

    @property
    def home(self) -> Path:
        """Folder of the shards; every count shares it."""
        name = f"{self.mode}-{self.split}-{self.size[0]}x{self.size[1]}-seed{self.seed}"
        return (self.folder or cache_folder()) / f"scenes-v{VERSION}" / name

    @property
    def shards(self) -> int:
        """How many shards hold ``count`` images; all but a split's very last one are full."""
        return -(-self.count // SHARD)

    def open(self, shard: int) -> NDArray[Any] | None:
        """Map a shard into memory, or return None if there is no whole one (contents are checked by ``record``)."""
        try:
            records = np.load(self._path(shard), mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        whole = records.dtype == self._dtype and records.shape == (self._length(shard),)
        return records if whole else None

    def render(self, shard: int) -> None:
        """Render a shard and move it into place, whole."""
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
        """Render what is missing.

        Args:
            workers: processes that render, this one among them; None: up to two, by the work there is.
            progress: show a bar on stderr, if that is a terminal.

        Raises:
            DataError: the cache's folder cannot be written.
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
                    if self.open(shard) is None:  # not done by a helper, or by another program, in the meantime
                        self.render(shard)
                    bar.update(min(self.count, done * SHARD))
        except OSError as cause:
            raise DataError(
                f"cannot write rendered scenes under {self.home}: {cause}; set SPLITREG_CACHE to a folder that can be"
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
        """Run ``workers - 1`` child processes, each going through the work in another order."""
        running = []
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        plain = {**asdict(self), "folder": str(self.folder or cache_folder())}
        try:
            for helper in range(1, workers):
                call = [sys.executable, "-m", "splitreg_scenes.cache", repr(plain), str(helper), str(workers)]
                with contextlib.suppress(OSError):  # without helpers it only takes longer
                    running.append(
                        subprocess.Popen(  # it must not read what is typed, nor write into our output
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
    """Images of a filled cache by position; opens shards when first asked and repairs damaged ones.

    It holds no open file when pickled, so that data loader workers of any start method can have one.
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
            found = self.cache.record(self._open[shard], number) if shard in self._open else None
            if found is not None:
                return found
            self._open.pop(shard, None)
            if attempt < 2:
                self.cache.render(shard)
        raise DataError(
            f"rendered scenes under {self.cache.home} stay damaged; delete the folder or set SPLITREG_CACHE"
        )

    def __getstate__(self) -> dict[str, Any]:
        return {"cache": self.cache, "_open": {}}


def _pack(record: NDArray[Any], seen: Rendering) -> None:
    record["image"] = seen.image
    record["surface"] = seen.surface
    record["depth_mm"] = np.clip(np.rint(seen.depth * 1000), 0, 65535)
    record["kinds"] = -1
    record["kinds"][: len(seen.kinds)] = seen.kinds
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
    """Shards in the order of one worker: two of them meet in the middle of each part, so that few are rendered twice."""
    part, backward = divmod(worker, 2)
    parts = (workers + 1) // 2
    begin, end = shards * part // parts, shards * (part + 1) // parts
    mine = range(begin, end)
    return [*(reversed(mine) if backward else mine), *range(end, shards), *range(begin)]


def _help(options: str, worker: str, workers: str) -> None:
    """Render what is missing beside the process that called."""
    import ast

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that an unfinished file is removed
    plain = ast.literal_eval(options)
    cache = SceneCache(**{**plain, "folder": Path(plain["folder"])})
    for shard in _order(cache.shards, int(worker), int(workers)):
        if cache.open(shard) is None:
            cache.render(shard)


if __name__ == "__main__":
    _help(*sys.argv[1:])
