"""What a benchmark ran on: processor, memory, load, versions."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from splitreg.threads import available_cpus

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_MEMORY = Path("/proc/meminfo")


def machine() -> dict[str, Any]:
    """Return plain data that describes this machine and its load."""
    from splitreg.evaluation.report import hardware, versions  # imported here: it needs torch, a comparison does not

    return {
        "hardware": hardware(), "architecture": platform.machine(), "cpus": available_cpus(),
        "memory_bytes": _memory_bytes(), "governor": _read(_GOVERNOR),
        "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.release()}", "versions": versions(),
    }  # fmt: skip


def _memory_bytes() -> int | None:
    for line in (_read(_MEMORY) or "").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:  # not Linux, or a virtual machine without it
        return None
