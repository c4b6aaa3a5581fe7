"""The log: JSON lines, to stderr or rotated files; without tokens, bodies or answers."""

from __future__ import annotations

import contextvars
import datetime
import io
import json
import logging
import logging.handlers
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitreg.errors import RecipeError

if TYPE_CHECKING:
    from splitreg.serving.config import ServeConfig

_NAME = "splitreg.serve"
#: Lines that wait to be written; further ones are dropped.
_MAX_WAITING_LINES = 10_000
#: Seconds for which lines are written at the end.
_CLOSING_SECONDS = 1.0
#: Id of the request that is being answered; it is in each of its log lines.
request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")
_logger = logging.getLogger(_NAME)


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: time (UTC), level, event, and the fields of ``log``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= {"id": request_id.get()} if request_id.get() else {}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log(event: str, level: int = logging.INFO, *, exception: BaseException | None = None, **fields: Any) -> None:
    """Write a line to the log.

    Args:
        event: what happened, in a few words that never change.
        level: a level of ``logging``.
        exception: its traceback is added.
        fields: the details.
    """
    _logger.log(level, event, extra={"fields": fields}, exc_info=exception)


class DroppingHandler(logging.Handler):
    """Writes lines from a thread; drops lines if they are written more slowly than they come.

    A pipe that nothing reads would otherwise stop the server.

    Args:
        target: writes the lines.
        on_drop: called for every dropped line.
    """

    def __init__(self, target: logging.Handler, on_drop: Callable[[], None]) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self._target, self._on_drop = target, on_drop
        self._lines: queue.Queue[logging.LogRecord | None] = queue.Queue(_MAX_WAITING_LINES)
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record."""
        line = logging.makeLogRecord({"msg": self.format(record), "levelno": record.levelno})
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._on_drop()

    def close(self) -> None:
        """Write what waits, for a limited time."""
        with suppress(queue.Full):
            self._lines.put_nowait(None)
            self._thread.join(_CLOSING_SECONDS)
        if not self._thread.is_alive():
            self._target.close()
        super().close()

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            self._target.emit(line)


class _PrivateFile(logging.handlers.RotatingFileHandler):
    """Creates its files for their owner only: a log has addresses and paths."""

    def _open(self) -> io.TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        return open(descriptor, "a", encoding=self.encoding)


def open_log(config: ServeConfig, on_drop: Callable[[], None] = lambda: None) -> logging.Handler:
    """Write the log, and errors of the libraries, to the file in the config or to stderr.

    Args:
        config: uses ``log_file``, ``max_log_bytes`` and ``log_backups``.
        on_drop: called for every line that is dropped because nothing reads stderr.

    Raises:
        RecipeError: the file cannot be written.
    """
    target: logging.Handler = logging.StreamHandler()
    if config.log_file is not None:
        try:
            Path(config.log_file).parent.mkdir(parents=True, exist_ok=True)
            target = _PrivateFile(
                config.log_file, maxBytes=config.max_log_bytes, backupCount=config.log_backups, encoding="utf-8"
            )
        except OSError as cause:
            raise RecipeError(f"cannot write the log file {config.log_file}: {cause.strerror or cause}") from cause
    target.handleError = lambda record: on_drop()  # type: ignore[method-assign]  # a full disk, a closed pipe
    handler = DroppingHandler(target, on_drop)
    for name, level in ((_NAME, logging.INFO), ("asyncio", logging.ERROR), ("websockets", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
    return handler
