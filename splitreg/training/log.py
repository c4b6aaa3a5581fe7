"""Log of a run: JSON lines, TensorBoard event files and a callback."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from splitreg.errors import TrainingError
from splitreg.files import disk_errors, dump_json
from splitreg.training.options import OnEvent

_ADVICE = "the checkpoints are intact; free some space, then resume"


class RunLog:
    """``log.jsonl`` and ``tensorboard/`` of one run.

    Each line is an object with the key ``event``: ``start``, ``step``, ``epoch``, ``warning``, ``resume`` or
    ``end``. A checkpoint stores the length of the file, and a resumed run truncates it, so that no line
    comes twice.

    Args:
        folder: folder of the run.
        position: length in bytes to continue from; 0 starts a new file.
        step: last step to keep in TensorBoard.
        tensorboard: write event files, if the package is installed.
        on_event: called with each line.
        silent: write nothing, for processes other than the first.
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
        with disk_errors(folder, TrainingError, _ADVICE):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(folder / "log.jsonl", "ab", buffering=0)
            if self._file.tell() > position:
                self._file.truncate(position)
            self._board = _board(folder / "tensorboard", step) if tensorboard else None
        self._folder = folder

    def write(self, event: str, **fields: Any) -> None:
        """Write one line; numbers that are not finite become null.

        Raises:
            TrainingError: the file cannot be written.
        """
        line = {"event": event, **fields}
        if self._file is not None:
            with disk_errors(self._folder, TrainingError, _ADVICE):
                self._file.write(dump_json(line).encode() + b"\n")
                if self._board is not None and "step" in fields:
                    for name, value in _numbers(fields, event):
                        self._board.add_scalar(name, value, fields["step"])
        if self._on_event is not None:
            self._on_event(line)

    def position(self) -> int:
        """Flush the file to the disk and return its length in bytes."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the files."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            with contextlib.suppress(OSError):  # write() has reported a full disk
                self._board.close()


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None  # optional: the JSON lines contain the same numbers
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)


def _numbers(value: Any, path: str) -> list[tuple[str, float]]:
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _numbers(item, f"{path}/{key}")]
    return [(path, float(value))] if isinstance(value, int | float) and not isinstance(value, bool) else []
