"""Train points in this process, or in processes of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from splitreg.errors import TrainingInterrupted
from splitreg.sweep.outcome import FAILED, Outcome
from splitreg.sweep.point import PointJob, train_point
from splitreg.threads import available_cpus
from splitreg.training.interrupts import Interrupts

#: Seconds between two polls of the processes.
_POLL_S = 0.1

#: Called with what happened ("start", "retry", "end") and the folder of the point.
OnWorker = Callable[[str, Path], None]


@dataclass(slots=True)
class _Worker:
    folder: Path
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    attempts: int


def run_here(points: Mapping[Path, PointJob], *, jobs: int, retries: int, on_worker: OnWorker) -> None:
    """Train points one after the other in this process; ``jobs`` and ``retries`` are not used.

    Args:
        points: folder -> job.
        jobs: not used.
        retries: not used.
        on_worker: called at starts and ends.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM; a checkpoint is written.
    """
    for folder, job in points.items():
        on_worker("start", folder)
        train_point(folder, job)
        on_worker("end", folder)


def run_local(points: Mapping[Path, PointJob], *, jobs: int, retries: int, on_worker: OnWorker) -> None:
    """Train points in worker processes; every point ends with an outcome in its folder.

    Args:
        points: folder -> job; the folders are prepared.
        jobs: number of processes at a time.
        retries: how often a point is continued whose process was killed, e.g. because memory ran out.
        on_worker: called at starts, retries and ends.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM; all workers have written checkpoints.
    """
    waiting, running = [(folder, 1) for folder in points], list[_Worker]()
    with Interrupts() as interrupts:
        try:
            while (waiting or running) and not interrupts.received:
                while waiting and len(running) < jobs:
                    worker = _start_worker(*waiting.pop(0), threads=max(1, available_cpus() // jobs))
                    running.append(worker)
                    if worker.attempts == 1:
                        on_worker("start", worker.folder)
                time.sleep(_POLL_S)
                for worker in [w for w in running if w.process.poll() is not None]:
                    running.remove(worker)
                    _close(worker)
                    outcome = Outcome.read(worker.folder)
                    if outcome is None and worker.attempts <= retries and worker.process.returncode < 0:
                        on_worker("retry", worker.folder)
                        waiting.insert(0, (worker.folder, worker.attempts + 1))
                        continue
                    if outcome is None:
                        Outcome(status=FAILED, message=_reason(worker)).write(worker.folder)
                    on_worker("end", worker.folder)
        finally:
            for worker in running:  # after one SIGTERM, a run writes a checkpoint and ends
                worker.process.terminate()
            for worker in running:
                worker.process.wait()
                _close(worker)
    if interrupts.received:
        raise TrainingInterrupted(
            f"stopped by {signal.Signals(interrupts.received).name}; checkpoints are written, run the same command again "
            "to continue",
            interrupts.received,
        )


def _start_worker(folder: Path, attempts: int, *, threads: int) -> _Worker:
    log = (folder / "worker.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, "-m", "splitreg.sweep.worker", str(folder)], stdin=subprocess.PIPE, stdout=log, stderr=log,
        start_new_session=True,  # Ctrl-C reaches only the sweep, which sends one signal to each worker
        env={"OMP_NUM_THREADS": str(threads), **os.environ},
    )  # fmt: skip
    return _Worker(folder, process, log, attempts)


def _close(worker: _Worker) -> None:
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    worker.log.close()


def _reason(worker: _Worker) -> str:
    """Return why a process ended without an outcome: its signal, or its status and the last line of its log."""
    code = worker.process.returncode
    if code < 0:
        return f"its process was killed by {signal.Signals(-code).name} {worker.attempts} times"
    lines = (worker.folder / "worker.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return f"its process ended with status {code}: {lines[-1] if lines else 'no output'}"
