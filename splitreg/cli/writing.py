"""Output files of commands."""

from __future__ import annotations

from pathlib import Path


def write_output(path: Path, data: bytes) -> None:
    """Write a file as a whole, and create its folder.

    Raises:
        SplitregError: the disk is full, or the file cannot be written; an older file is unchanged.
    """
    from splitreg.errors import SplitregError
    from splitreg.files import write_atomic

    try:
        write_atomic(path, data, sync=False)
    except OSError as cause:
        raise SplitregError(f"cannot write {path}: {cause.strerror or cause}") from cause
