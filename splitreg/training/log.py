"""Log of a run: JSON lines, loggers and a callback."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splitreg.errors import SplitregError, TrainingError
from splitreg.files import disk_errors, dump_json
from splitreg.training.loggers import TensorBoard, TrainingLogger, open_loggers
from splitreg.training.options import OnEvent, TrainOptions

_ADVICE = "the checkpoints are intact; free some space, then resume"


class RunLog:
    """``log.jsonl`` of one run, and its loggers.

    Each line is an object with the key ``event``: ``start``, ``step``, ``epoch``, ``warning``, ``resume`` or
    ``end``. A checkpoint stores the length of the file, and a resumed run truncates it, so that no line
    comes twice.

    Args:
        folder: folder of the run.
        recipe: the resolved recipe as plain tables, for the loggers.
        position: length in bytes to continue from; 0 starts a new file.
        step: last step to keep.
        loggers: receive all numbers.
        on_event: called with each line.
    """

    def __init__(
        self,
        folder: Path,
        *,
        recipe: Mapping[str, Any] | None = None,
        position: int = 0,
        step: int = 0,
        loggers: Sequence[TrainingLogger] = (),
        on_event: OnEvent | None = None,
    ) -> None:
        self._on_event = on_event
        self._folder, self._loggers = folder, list[TrainingLogger]()
        with disk_errors(folder, TrainingError, _ADVICE):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(folder / "log.jsonl", "ab", buffering=0)
            if self._file.tell() > position:
                self._file.truncate(position)
            try:
                for logger in loggers:
                    self._start(logger, recipe or {}, step)
            except BaseException:
                self.close()
                raise

    def _start(self, logger: TrainingLogger, recipe: Mapping[str, Any], step: int) -> None:
        try:
            logger.start(self._folder, recipe, step)
        except SplitregError:
            raise
        except Exception as cause:  # of a package that this one does not know
            name = type(logger).__name__
            raise TrainingError(
                f"the logger {name} does not start: {cause}; change its settings, or remove it"
            ) from cause
        self._loggers.append(logger)

    def write(self, event: str, **fields: Any) -> None:
        """Write one line; numbers that are not finite become null.

        Raises:
            TrainingError: the file cannot be written.
        """
        line = {"event": event, **fields}
        with disk_errors(self._folder, TrainingError, _ADVICE):
            self._file.write(dump_json(line).encode() + b"\n")
            numbers = dict(_numbers(fields, event)) if "step" in fields else {}
            for logger in self._loggers if numbers else ():
                logger.scalars(numbers, fields["step"])
        if self._on_event is not None:
            self._on_event(line)

    def image(self, name: str, path: Path, step: int) -> None:
        """Pass an image to the loggers."""
        with disk_errors(self._folder, TrainingError, _ADVICE):
            for logger in self._loggers:
                logger.image(name, path, step)

    def position(self) -> int:
        """Flush the file to the disk and return its length in bytes."""
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Close the file and the loggers."""
        self._file.close()
        for logger in self._loggers:
            logger.close()


class SilentLog(RunLog):
    """Writes nothing: for processes other than the first, which call the callback only."""

    def __init__(self, on_event: OnEvent | None = None) -> None:
        self._on_event = on_event

    def write(self, event: str, **fields: Any) -> None:
        """Call the callback."""
        if self._on_event is not None:
            self._on_event({"event": event, **fields})

    def image(self, name: str, path: Path, step: int) -> None:
        """Do nothing."""

    def position(self) -> int:
        """Return 0."""
        return 0

    def close(self) -> None:
        """Do nothing."""


def loggers_of(options: TrainOptions) -> list[TrainingLogger]:
    """Return the loggers that the options name, and TensorBoard where it is installed and wanted."""
    loggers = open_loggers(options.loggers)
    wanted = options.tensorboard and not any(isinstance(logger, TensorBoard) for logger in loggers)
    if wanted and importlib.util.find_spec("tensorboard") is not None:  # optional: log.jsonl has the same numbers
        loggers.append(TensorBoard())
    return loggers


def _numbers(value: Any, path: str) -> list[tuple[str, float]]:
    if isinstance(value, Mapping):
        return [pair for key, item in value.items() for pair in _numbers(item, f"{path}/{key}")]
    return [(path, float(value))] if isinstance(value, int | float) and not isinstance(value, bool) else []
