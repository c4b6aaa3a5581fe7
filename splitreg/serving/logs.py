"""The log: one JSON object a line, to stderr or to files that roll over. It never holds a token, a body or an answer."""

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
logger = logging.getLogger(_NAME)


class JsonLines(logging.Formatter):
    """A record as one line of JSON: time (UTC), level, event, and what ``log`` was given."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds")
        line = {"time": moment, "level": record.levelname.lower(), "event": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log(event: str, level: int = logging.INFO, *, failure: BaseException | None = None, **more: Any) -> None:
    """Write a line.

    Args:
        event: what happened, one or two words.
        level: of the standard library's.
        failure: its traceback is written too.
        more: what else is said.
    """
    logger.log(level, event, extra={"fields": more}, exc_info=failure)


def open_log(config: ServeConfig) -> logging.Handler:
    """Send the log, and what the HTTP library warns of, to where the config says.

    Raises:
        RecipeError: the file cannot be written.
    """
    handler: logging.Handler = logging.StreamHandler()
    if config.log_file is not None:
        try:
            Path(config.log_file).parent.mkdir(parents=True, exist_ok=True)
            handler = logging.handlers.RotatingFileHandler(
                config.log_file, maxBytes=config.log_bytes, backupCount=config.log_files, encoding="utf-8"
            )
        except OSError as cause:
            raise RecipeError(f"cannot write the log {config.log_file}: {cause.strerror or cause}") from cause
    handler.setFormatter(JsonLines())
    for name, level in ((_NAME, logging.INFO), ("uvicorn", logging.ERROR), ("websockets", logging.ERROR)):
        given = logging.getLogger(name)
        given.handlers[:] = [handler]
        given.setLevel(level)
        given.propagate = False
    return handler
