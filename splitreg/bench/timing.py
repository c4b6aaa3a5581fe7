"""Interleaved timing of several tasks: medians of wall-clock and processor time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from splitreg.progress import Progress

#: A task gets the number of the round and runs once.
Task = Callable[[int], object]
#: Timed runs in a row of a task and round, and seconds after which there is no further one.
_REPEATS, _REPEAT_S = 4, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times of one task.

    Args:
        ms: wall-clock milliseconds, the median of all runs.
        low_ms: first quartile of the wall-clock milliseconds.
        high_ms: third quartile.
        cpu_ms: processor milliseconds of the process, which other load disturbs less; the median of all runs.
        ratio: processor time of the fastest run of a round, divided by that of the reference task, which runs right
            before it; the median over the rounds. It differs least between two measurements.
    """

    ms: float
    low_ms: float
    high_ms: float
    cpu_ms: float
    ratio: float


def measure(
    tasks: Mapping[str, Task], *, rounds: int, pause_s: float = 0.0, progress: bool = False
) -> tuple[dict[str, Timing], Timing]:
    """Run all tasks in each round, in turn, so that a change of the load meets all of them.

    Args:
        tasks: name -> task.
        rounds: number of rounds; one more before them is not counted.
        pause_s: seconds of rest before the timed run; 0: up to four timed runs follow one another. After a rest a
            processor is slower: its caches are cold, and its clock rate is low.
        progress: show a bar on stderr.

    Returns:
        name -> times, and the times of the reference task, see ``_reference``.
    """
    reference = _reference()
    before: dict[str, list[_Runs]] = {name: [] for name in tasks}  # runs of the reference, right before those of a task
    runs: dict[str, list[_Runs]] = {name: [] for name in tasks}
    for number in Progress(progress).track(range(rounds + 1), rounds + 1, "timing"):
        for name, task in tasks.items():
            base, found = _run(reference, number, pause_s), _run(task, number, pause_s)
            if number:
                before[name].append(base)
                runs[name].append(found)
    timings = {name: _timing(found, before[name]) for name, found in runs.items()}
    every = [base for found in before.values() for base in found]
    return timings, _timing(every, every)


@dataclass(frozen=True, slots=True)
class _Runs:
    """Milliseconds of the runs of a task in one round."""

    wall: tuple[float, ...]
    cpu: tuple[float, ...]


def _run(task: Task, number: int, pause_s: float) -> _Runs:
    task(number)  # the caches hold what the task before has left
    time.sleep(pause_s)
    wall: list[float] = []
    cpu: list[float] = []
    while not wall or (not pause_s and len(wall) < _REPEATS and sum(wall) < 1000 * _REPEAT_S):
        start, start_cpu = time.perf_counter(), time.process_time()
        task(number)
        cpu.append(1000 * (time.process_time() - start_cpu))
        wall.append(1000 * (time.perf_counter() - start))
    return _Runs(wall=tuple(wall), cpu=tuple(cpu))


def _timing(rounds: Sequence[_Runs], before: Sequence[_Runs]) -> Timing:
    low, middle, high = np.quantile([ms for runs in rounds for ms in runs.wall], [0.25, 0.5, 0.75])
    ratios = [min(runs.cpu) / max(min(base.cpu), 1e-6) for runs, base in zip(rounds, before, strict=True)]
    return Timing(
        ms=float(middle), low_ms=float(low), high_ms=float(high),
        cpu_ms=float(np.median([ms for runs in rounds for ms in runs.cpu])), ratio=float(np.median(ratios)),
    )  # fmt: skip


def _reference() -> Task:
    """Return what networks and coders do: products of matrices, passes over memory, work on few numbers."""
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(1 << 14)
    left, right = rng.standard_normal((2, 320, 320), np.float32)
    plane = np.zeros(1 << 20, np.float32)

    def run(_: int) -> object:
        np.maximum(plane, 0.5, out=plane)
        return left @ right, np.sort(np.abs(np.fft.rfft(numbers)))

    return run
