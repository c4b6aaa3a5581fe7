"""How a point of a sweep ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from splitreg.errors import TrainingError
from splitreg.files import disk_errors, parse_json, write_json

#: Values of ``Outcome.status``.
DONE, COLLAPSED, FAILED = "done", "collapsed", "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a point ended.

    Args:
        status: ``"done"``, ``"collapsed"`` (stopped, because the rate term drove the rate to zero) or ``"failed"``.
        message: the reason, if it is not done.
        validation: the last validation: ``bits`` per image, head -> metric -> value.
        warnings: warnings of the training.
        steps: steps of the training.
        seconds: duration of the last attempt.
    """

    status: str
    message: str = ""
    validation: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    steps: int = 0
    seconds: float = 0.0

    @classmethod
    def read(cls, folder: Path) -> Outcome | None:
        """Return the outcome in a point's folder; None if the point has not ended."""
        try:
            table = parse_json((folder / "outcome.json").read_text(encoding="utf-8"))
            return cls(**{**table, "warnings": tuple(table["warnings"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, folder: Path) -> None:
        """Write it to a point's folder.

        Raises:
            TrainingError: the file cannot be written.
        """
        write_table(folder / "outcome.json", asdict(self))


def write_table(path: Path, table: Mapping[str, Any]) -> None:
    """Write a JSON file of a sweep.

    Raises:
        TrainingError: the file cannot be written.
    """
    with disk_errors(path, TrainingError, "free some space, then run the same command again"):
        write_json(path, table)
