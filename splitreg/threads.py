"""Threads of the networks, from the CPUs that this process may really use; standard library only."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

#: Where Linux mounts control groups.
CGROUP = Path("/sys/fs/cgroup")


def available_cpus(cgroup: Path = CGROUP) -> int:
    """Return the number of CPUs: those of the machine, of the affinity mask and of the container's quota.

    Args:
        cgroup: where control groups are mounted.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(math.ceil(quota) for quota in _quotas(cgroup))]))


def _quotas(cgroup: Path) -> Iterator[float]:
    """Yield the quotas in CPUs: of version 2 of control groups, and of version 1."""
    for quota_file, period_file in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            fields = (cgroup / quota_file).read_text().split()
            if period_file is not None:
                fields += (cgroup / period_file).read_text().split()
            quota, period = float(fields[0]), float(fields[1])
        except (OSError, ValueError, IndexError):  # no control groups, or no quota ("max")
            continue
        if quota > 0 and period > 0:
            yield quota / period


def set_threads(threads: int | None = None) -> int:
    """Set the number of threads with which torch computes.

    Args:
        threads: the number; by default ``OMP_NUM_THREADS``, otherwise the CPUs that are available.

    Returns:
        The number.
    """
    import torch

    if threads is None:
        text = os.environ.get("OMP_NUM_THREADS", "")
        threads = int(text) if text.isdecimal() and int(text) else available_cpus()
    torch.set_num_threads(threads)
    return threads
