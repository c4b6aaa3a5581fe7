"""Points in processes of this machine, so many at a time; one that dies does not take the others along."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from splitreg.errors import TrainingInterrupted
from splitreg.sweep.point import FAILED, Outcome
from splitreg.training.interrupts import Interrupts

#: Seconds between looks at the processes.
_LOOK = 0.1
#: Lines of a dead worker's log that its message quotes.
_QUOTED = 1

#: Called with what happened ("start", "retry", "end") and the point's folder.
OnWorker = Callable[[str, Path], None]


@dataclass(slots=True)
class _Worker:
    folder: Path
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    attempts: int


def run_local(folders: Sequence[Path], *, jobs: int, retries: int, on_worker: OnWorker) -> None:
    """Train the points of prepared folders; every one ends with an outcome in its folder.

    Args:
        folders: of the points.
        jobs: processes at a time.
        retries: how often a point goes on whose process was killed (the system does that when memory runs out).
        on_worker: told of starts, retries and ends.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM; all workers have written checkpoints.
    """
    waiting, running = [(folder, 1) for folder in folders], list[_Worker]()
    with Interrupts() as interrupts:
        try:
            while (waiting or running) and not interrupts.received:
                while waiting and len(running) < jobs:
                    worker = _start(*waiting.pop(0), threads=max(1, (os.cpu_count() or 1) // jobs))
                    running.append(worker)
                    if worker.attempts == 1:
                        on_worker("start", worker.folder)
                time.sleep(_LOOK)
                for worker in [w for w in running if w.process.poll() is not None]:
                    running.remove(worker)
                    _close(worker)
                    if (
                        Outcome.read(worker.folder) is None
                        and worker.attempts <= retries
                        and worker.process.returncode < 0
                    ):
                        on_worker("retry", worker.folder)
                        waiting.insert(0, (worker.folder, worker.attempts + 1))
                        continue
                    if Outcome.read(worker.folder) is None:
                        Outcome(status=FAILED, message=_why(worker)).write(worker.folder)
                    on_worker("end", worker.folder)
        finally:
            for worker in running:  # asked once, a run writes a checkpoint and ends
                worker.process.terminate()
            for worker in running:
                worker.process.wait()
                _close(worker)
    if interrupts.received:
        raise TrainingInterrupted(
            f"stopped by {signal.Signals(interrupts.received).name}; what was trained is kept: the same command goes on",
            interrupts.received,
        )


def _start(folder: Path, attempts: int, *, threads: int) -> _Worker:
    log = (folder / "worker.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "splitreg.sweep.worker", str(folder)], stdin=subprocess.PIPE, stdout=log, stderr=log,
        start_new_session=True,  # Ctrl-C reaches the sweep alone, which asks its workers once
        env={"OMP_NUM_THREADS": str(threads), **os.environ},
    )  # fmt: skip
    return _Worker(folder, process, log, attempts)


def _close(worker: _Worker) -> None:
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    worker.log.close()


def _why(worker: _Worker) -> str:
    code = worker.process.returncode
    how = f"killed by {signal.Signals(-code).name} {worker.attempts} times" if code < 0 else f"ended with status {code}"
    said = (worker.folder / "worker.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"its process was {how}" if code < 0 else f"its process {how}: {' '.join(said[-_QUOTED:]) or 'no word'}"
