"""A worker process of a sweep: ``python -m splitreg.sweep.worker FOLDER`` trains the point of a prepared folder."""

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
    """Train one point; the outcome is in its folder, exit status 128 + n says that signal n stopped it."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries about each other
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        train_point(Path(sys.argv[1]))
    except TrainingInterrupted as error:
        sys.exit(128 + error.signal)
    except SplitregError as error:
        print(error, file=sys.stderr)
        sys.exit(1)


def _stop_with_parent() -> None:
    """Stop as by SIGTERM when stdin ends: the sweep that holds its other end is gone, however it went."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
