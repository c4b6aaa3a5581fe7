"""What a run says while it goes: a JSON line file, TensorBoard where it is installed, and a callback."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from splitreg.errors import TrainingError
from splitreg.training.options import OnEvent


class RunLog:
    """``log.jsonl`` and ``tensorboard/`` of one run.

    Every line is an object with ``event`` (``start``, ``step``, ``epoch``, ``warning``, ``resume``, ``end``). A
    checkpoint remembers how long the file was, and a resumed run cuts off what was written after it: no line comes twice.

    Args:
        folder: of the run.
        position: length in bytes to continue from; 0 starts anew.
        step: last step that stays in TensorBoard.
        tensorboard: write event files, if the package is there.
        on_event: called with every line.
        silent: write nothing (processes other than the first).
    """

    def __init__(
        self,
        folder: Path,
        *,
        position: int = 0,
        step: int = 0,
        tensorboard: bool = True,
        on_event: OnEvent | None = None,
        silent: bool = False,
    ) -> None:
        self._on_event = on_event
        self._file = self._board = None
        if silent:
            return
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(folder / "log.jsonl", "ab", buffering=0)
            if self._file.tell() > position:
                self._file.truncate(position)
            self._board = _board(folder / "tensorboard", step) if tensorboard else None
        self._folder = folder

    def write(self, event: str, **fields: Any) -> None:
        """Write one line; numbers that JSON lacks become text.

        Raises:
            TrainingError: the disk is full or refuses.
        """
        line = {"event": event, **fields}
        if self._file is not None:
            with _writing(self._folder):
                self._file.write(json.dumps(_plain(line), allow_nan=False).encode() + b"\n")
                if self._board is not None and "step" in fields:
                    for name, value in _numbers(fields, event):
                        self._board.add_scalar(name, value, fields["step"])
        if self._on_event is not None:
            self._on_event(line)

    def position(self) -> int:
        """Make everything durable and return the file's length in bytes."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            with contextlib.suppress(OSError):  # a full disk was told when it was written to
                self._board.close()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise TrainingError(
            f"cannot write the log in {folder}: {cause.strerror or cause}; the checkpoints are intact: make room, then resume"
        ) from cause


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None  # optional: the JSON lines hold the same numbers
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _numbers(value: Any, path: str) -> list[tuple[str, float]]:
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _numbers(item, f"{path}/{key}")]
    return [(path, float(value))] if isinstance(value, int | float) and not isinstance(value, bool) else []


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
