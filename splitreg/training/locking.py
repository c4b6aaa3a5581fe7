"""Lock a folder for one process."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from splitreg.errors import TrainingError

#: File with the id of the process that holds the lock.
LOCK_FILE = ".lock"


@contextlib.contextmanager
def locked(folder: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock of a folder, which is created; the system releases it when the process ends, in any way.

    A file system without locks, such as some network file systems, is not locked.

    Raises:
        TrainingError: another process still holds it after ``wait_s`` seconds.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    end = time.monotonic() + wait_s
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("a+") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as cause:
                if time.monotonic() >= end:
                    file.seek(0)
                    raise TrainingError(
                        f"process {file.read()} is using {folder}; wait until it ends, or stop it"
                    ) from cause
            except OSError:  # no locks here
                yield
                return
            time.sleep(0.1)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
