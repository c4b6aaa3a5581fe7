"""Interleaved timing of several tasks: medians of wall-clock and processor time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splitreg.progress import Progress

#: A task gets the number of the round and runs once.
Task = Callable[[int], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times of one task, medians over the rounds.

    Args:
        ms: wall-clock milliseconds.
        low_ms: first quartile of the wall-clock milliseconds.
        high_ms: third quartile.
        cpu_ms: processor milliseconds of the process, which other load disturbs less.
        ratio: processor time divided by that of the reference task in the same round.
    """

    ms: float
    low_ms: float
    high_ms: float
    cpu_ms: float
    ratio: float


def measure(
    tasks: Mapping[str, Task], *, rounds: int, pause_s: float = 0.0, progress: bool = False
) -> tuple[dict[str, Timing], Timing]:
    """Run all tasks once per round, in turn, so that a change of the load meets all of them.

    Args:
        tasks: name -> task.
        rounds: number of rounds; one more before them is not counted.
        pause_s: seconds between an untimed run of a task and the timed one; 0: no untimed run. After a rest a
            processor is slower: its caches are cold, and its clock rate is low.
        progress: show a bar on stderr.

    Returns:
        name -> times, and the times of the reference task: one Fourier transform and one sort of
        fixed numbers on one thread.
    """
    reference = _reference()
    wall = np.zeros((rounds + 1, len(tasks) + 1))
    cpu = np.zeros_like(wall)
    for number in Progress(progress).track(range(rounds + 1), rounds + 1, "timing"):
        for column, task in enumerate((reference, *tasks.values())):
            if pause_s:
                task(number)
                time.sleep(pause_s)
            start, start_cpu = time.perf_counter(), time.process_time()
            task(number)
            cpu[number, column] = time.process_time() - start_cpu
            wall[number, column] = time.perf_counter() - start
    wall, cpu = 1000 * wall[1:], 1000 * cpu[1:]
    timings = [_timing(wall[:, i], cpu[:, i], cpu[:, 0]) for i in range(wall.shape[1])]
    return dict(zip(tasks, timings[1:], strict=True)), timings[0]


def _timing(wall: NDArray[np.float64], cpu: NDArray[np.float64], reference: NDArray[np.float64]) -> Timing:
    low, middle, high = np.quantile(wall, [0.25, 0.5, 0.75])
    return Timing(
        ms=float(middle), low_ms=float(low), high_ms=float(high), cpu_ms=float(np.median(cpu)),
        ratio=float(np.median(cpu / np.maximum(reference, 1e-6))),
    )  # fmt: skip


def _reference() -> Task:
    numbers = np.random.default_rng(0).standard_normal(1 << 16)

    def run(_: int) -> object:
        return np.sort(np.abs(np.fft.rfft(numbers)))

    return run
