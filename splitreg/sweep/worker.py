"""A worker process of a sweep: ``python -m splitreg.sweep.worker FOLDER`` trains the point in a folder."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from pathlib import Path

from splitreg.errors import SplitregError, TrainingInterrupted
from splitreg.sweep.point import train_point


def main() -> None:
    """Train one point; its outcome is in the folder. Exit status 128 + n: stopped by signal n."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # raised by libraries about each other
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        train_point(Path(sys.argv[1]))
    except TrainingInterrupted as error:
        sys.exit(128 + error.signal)
    except SplitregError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def _stop_with_parent() -> None:
    """Stop as with SIGTERM when stdin ends: the sweep that holds its other end has died."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
