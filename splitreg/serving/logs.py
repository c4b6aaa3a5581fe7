"""The log: JSON lines, to stderr or rotated files; without tokens, bodies or answers."""

from __future__ import annotations

import datetime
import json
import logging
import logging.handlers
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splitreg.errors import RecipeError

if TYPE_CHECKING:
    from splitreg.serving.config import ServeConfig

_NAME = "splitreg.serve"
_logger = logging.getLogger(_NAME)


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON: time (UTC), level, event, and the fields of ``log``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        time = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "event": record.getMessage()}
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


def open_log(config: ServeConfig) -> logging.Handler:
    """Write the log, and errors of the libraries, to the file in the config or to stderr.

    Raises:
        RecipeError: the file cannot be written.
    """
    handler: logging.Handler = logging.StreamHandler()
    if config.log_file is not None:
        try:
            Path(config.log_file).parent.mkdir(parents=True, exist_ok=True)
            handler = logging.handlers.RotatingFileHandler(
                config.log_file, maxBytes=config.max_log_bytes, backupCount=config.log_backups, encoding="utf-8"
            )
        except OSError as cause:
            raise RecipeError(f"cannot write the log file {config.log_file}: {cause.strerror or cause}") from cause
    handler.setFormatter(JsonLines())
    for name, level in ((_NAME, logging.INFO), ("asyncio", logging.ERROR), ("websockets", logging.ERROR)):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
    return handler
