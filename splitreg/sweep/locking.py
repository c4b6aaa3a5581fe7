"""A folder for one process at a time."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from splitreg.errors import TrainingError

#: Holds the number of the process that works in the folder.
NAME = ".lock"


@contextlib.contextmanager
def alone(folder: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it when the process ends, however it ends.

    Raises:
        TrainingError: after ``wait_s`` seconds, another process still holds it.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on Windows
        yield
        return
    end = time.monotonic() + wait_s
    with (folder / NAME).open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as cause:
                if time.monotonic() >= end:
                    file.seek(0)
                    raise TrainingError(f"process {file.read()} works in {folder}; wait for it, or stop it") from cause
            time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
