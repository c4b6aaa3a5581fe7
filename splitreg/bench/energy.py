"""Energy of this machine, from the counters that it has."""

from __future__ import annotations

import abc
import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Folder under which RAPL (powercap) and hwmon are looked for.
SYSFS = Path("/sys")
#: Seconds between two readings of a power, which is integrated over time.
_INTERVAL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Energy of a block of code.

    Args:
        joules: energy of what the meter sees: whole packages or rails, other programs included.
        seconds: wall-clock time.
        meter: name of the meter, e.g. ``"rapl"``.
    """

    joules: float
    seconds: float
    meter: str


class Meter(abc.ABC):
    """Measures energy.

    Attributes:
        name: of the kind of meter.
    """

    name: str

    @abc.abstractmethod
    def start(self) -> None:
        """Start a measurement."""

    @abc.abstractmethod
    def stop(self) -> float:
        """Return the joules since ``start``."""

    @contextlib.contextmanager
    def measure(self, results: list[Energy]) -> Iterator[None]:
        """Append the energy of a block to a list."""
        begin = time.perf_counter()
        self.start()
        try:
            yield
        finally:
            joules = self.stop()
            results.append(Energy(joules=joules, seconds=time.perf_counter() - begin, meter=self.name))


class Rapl(Meter):
    """Processor packages and memory by the counters of Intel and AMD in sysfs.

    Source: Documentation/power/powercap/powercap.rst of Linux.

    Args:
        zones: folders with ``energy_uj`` and ``max_energy_range_uj``.
    """

    name = "rapl"

    def __init__(self, zones: Sequence[Path]) -> None:
        self._zones = list(zones)
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in zones]
        self._start: list[float] = []

    @classmethod
    def find(cls, sysfs: Path = SYSFS) -> Rapl | None:
        """Return the meter of this machine; None if it has none that may be read."""
        zones = []
        for zone in sorted((sysfs / "class" / "powercap").glob("intel-rapl:*")):
            # A package contains its cores; memory is beside them. "psys" would count both again.
            top = zone.name.count(":") == 1
            if _text(zone / "name").startswith("package" if top else "dram") and _readable(zone):
                zones.append(zone)
        return cls(zones) if zones else None

    def start(self) -> None:
        """Read the counters."""
        self._start = [_number(zone / "energy_uj") for zone in self._zones]

    def stop(self) -> float:
        """Return the joules since ``start``; a counter that has wrapped once is corrected."""
        total = 0.0
        for zone, before, limit in zip(self._zones, self._start, self._ranges, strict=True):
            after = _number(zone / "energy_uj")
            total += after - before if after >= before else after + limit - before
        return total / 1e6


class Sampled(Meter):
    """Integrates a power over time, in a thread.

    Args:
        name: of the meter.
        watts: returns the power now.
    """

    def __init__(self, name: str, watts: Callable[[], float]) -> None:
        self.name, self._watts = name, watts
        self._joules = 0.0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._joules = 0.0
        self._ended.clear()
        self._thread = threading.Thread(target=self._run, name=f"energy-{self.name}", daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Stop the thread and return the joules."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        return self._joules

    def _run(self) -> None:
        last, power = time.perf_counter(), self._watts()
        while True:
            ended = self._ended.wait(_INTERVAL_S)
            now, current = time.perf_counter(), self._watts()
            self._joules += (now - last) * (power + current) / 2
            last, power = now, current
            if ended:
                return


def jetson(sysfs: Path = SYSFS) -> Sampled | None:
    """Return a meter of a Jetson's input rail; None if there is no such rail.

    The sensors INA3221 are hwmon devices with ``inN_label``, ``inN_input`` (mV) and ``currN_input``
    (mA). The rail of the whole module is ``VDD_IN`` or ``POM_5V_IN``.
    """
    for folder in sorted((sysfs / "class" / "hwmon").glob("hwmon*")):
        for label in sorted(folder.glob("in*_label")):
            if _text(label) in ("VDD_IN", "POM_5V_IN"):
                number = label.name.removeprefix("in").removesuffix("_label")
                volts, amperes = folder / f"in{number}_input", folder / f"curr{number}_input"
                if volts.exists() and amperes.exists():
                    return Sampled("jetson", lambda v=volts, a=amperes: _number(v) * _number(a) / 1e6)  # type: ignore[misc]
    return None


def nvml() -> Sampled | None:
    """Return a meter of the first NVIDIA GPU; None without one, or without the package nvidia-ml-py."""
    try:
        import pynvml
    except ModuleNotFoundError:
        return None
    try:
        pynvml.nvmlInit()
        gpu: Any = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetPowerUsage(gpu)
    except pynvml.NVMLError:
        return None
    return Sampled("nvml", lambda: float(pynvml.nvmlDeviceGetPowerUsage(gpu)) / 1000)


def meters(sysfs: Path = SYSFS) -> list[Meter]:
    """Return the meters of this machine: a Jetson's rail, or RAPL; and an NVIDIA GPU."""
    board = jetson(sysfs)
    processor = Rapl.find(sysfs) if board is None else board  # the rail includes the processor
    return [meter for meter in (processor, None if board else nvml()) if meter is not None]


def _readable(zone: Path) -> bool:
    try:
        _number(zone / "energy_uj")
        _number(zone / "max_energy_range_uj")
    except (OSError, ValueError):  # since 2020, only root may read the counters (CVE-2020-8694)
        return False
    return True


def _number(path: Path) -> float:
    return float(path.read_text(encoding="ascii"))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""
