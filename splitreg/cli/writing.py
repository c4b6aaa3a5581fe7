"""Files that a command writes: whole or not at all."""

from __future__ import annotations

import contextlib
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, and the folder that it lies in.

    Raises:
        SplitregError: the disk is full or refuses; an older file is untouched.
    """
    from splitreg.errors import SplitregError

    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        part.replace(path)
    except OSError as cause:
        with contextlib.suppress(OSError):
            part.unlink()
        raise SplitregError(f"cannot write {path}: {cause.strerror or cause}") from cause
