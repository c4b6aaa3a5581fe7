"""``calibrate``: a device profile of this machine, from the bundles that it will run."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg import imaging
from splitreg.bench.energy import Energy, meters
from splitreg.bench.machine import machine
from splitreg.bench.timing import Task, measure
from splitreg.bundle import Bundle
from splitreg.edge import EdgeEncoder
from splitreg.errors import BenchError, TrainingError
from splitreg.files import disk_errors, write_atomic

#: Seconds over which a power is measured.
_POWER_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """How ``calibrate`` measures.

    Args:
        runtime: of the edge half.
        threads: CPU threads.
        rounds: number of rounds; medians are written.
        pause_s: seconds of rest before each run, as between images; 0: none.
        network: also run the whole network in torch, for "everything on the device"; needs torch.
    """

    runtime: str = "onnxruntime"
    threads: int = 1
    rounds: int = 15
    pause_s: float = 0.0
    network: bool = True


def calibrate(
    bundles: Mapping[str, Path], output: str | Path, options: CalibrationOptions | None = None
) -> dict[str, Any]:
    """Measure the edge halves of some bundles here, and write a profile for ``splitreg choose``.

    Args:
        bundles: name -> folder; each needs ``edge.onnx`` and its test vectors.
        output: the TOML file.
        options: runtime, threads and so on.

    Returns:
        ``figures`` and ``bundles``, as in the file.

    Raises:
        BenchError: there is no bundle.
        BundleError: a bundle cannot be read.
        TrainingError: the file cannot be written.
    """
    options = options or CalibrationOptions()
    if not bundles:
        raise BenchError("calibration runs the edge halves of bundles; name at least one, e.g. zoo:camvid-small")
    tasks: dict[str, Task] = {}
    digests, macs = {}, {}
    for name, path in bundles.items():
        image = imaging.read(path / "testvectors" / "image.png")
        digests[name] = Bundle.open(path).config.digest
        encoder = EdgeEncoder.open(path, runtime=options.runtime, threads=options.threads)
        tasks |= {f"{name}\0{part}": task for part, task in _edge_tasks(encoder, image).items()}
        if options.network:
            tasks[f"{name}\0local"], macs[name] = _whole(path, image, options.threads)
    timings, _ = measure(tasks, rounds=options.rounds, pause_s=options.pause_s)
    times: dict[str, dict[str, float]] = {
        digests[name]: {
            key.partition("\0")[2]: round(timing.ms, 4)
            for key, timing in timings.items() if key.startswith(f"{name}\0")
        }
        for name in bundles
    }  # fmt: skip
    where, date = machine()["hardware"], f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
    source = f"splitreg bench calibrate on {where}, {date}, {options.threads} thread(s), {options.runtime}"
    if options.pause_s:
        source += f", pauses of {options.pause_s:g} s"
    figures: dict[str, tuple[float, str]] = {}
    speeds = [macs[name] / times[digests[name]]["local"] / 1e6 for name in macs]
    if speeds:
        figures["gmacs_per_s"] = (float(np.median(speeds)), f"whole networks in torch: {source}")
    else:  # without torch: from prepared pixels to the latent, of unknown MACs
        raise BenchError("a profile needs gmacs_per_s, for which the whole network must run; install torch")
    busy, idle = _power(tasks), _power({})
    if busy is not None and idle is not None:
        figures["active_watts"] = (busy.joules / busy.seconds, f"measured by {busy.meter}: {source}")
        figures["idle_watts"] = (idle.joules / idle.seconds, f"measured by {idle.meter}: {source}")
    path = Path(output)
    with disk_errors(path, TrainingError, "choose another file"):
        write_atomic(path, _toml(where, figures, times).encode())
    return {"figures": figures, "bundles": times}


def _edge_tasks(encoder: EdgeEncoder, image: NDArray[np.uint8]) -> dict[str, Task]:
    pixels, _ = imaging.prepare(image, encoder.coding.preprocess)
    latent = encoder.network.run(pixels).copy()
    return {
        "prepare": lambda n: imaging.prepare(image, encoder.coding.preprocess),
        "network": lambda n: encoder.network.run(pixels),
        "code": lambda n: encoder.coding.encode(latent, None),
        "encode": lambda n: encoder.encode(image),
    }


def _whole(path: Path, image: NDArray[np.uint8], threads: int) -> tuple[Task, float]:
    """Return a task that runs the whole network, and its multiply-accumulates."""
    from splitreg.assembly import load
    from splitreg.bench.speed import run_locally
    from splitreg.threads import set_threads

    set_threads(threads)
    model = load(path).eval()
    costs = model.plan.costs()
    macs = sum(cost.macs for part, cost in costs.items() if part != "unsplit")
    return lambda n: run_locally(model, image), float(macs)


def _power(tasks: Mapping[str, Task]) -> Energy | None:
    """Return the energy of running tasks for some seconds, or of waiting; None without a meter."""
    found = meters()
    if not found:
        return None
    results: list[Energy] = []
    with found[0].measure(results):
        end = time.perf_counter() + _POWER_S
        number = 0
        while time.perf_counter() < end:
            for task in tasks.values():
                task(number)
            number += 1
            if not tasks:
                time.sleep(0.05)
    return results[0]


def _toml(where: str, figures: Mapping[str, tuple[float, str]], times: Mapping[str, Mapping[str, float]]) -> str:
    lines = [f"summary = {json.dumps(where)}"]
    for name, (value, source) in figures.items():
        lines += ["", f"[figures.{name}]", f"value = {value:.6g}", f"source = {json.dumps(source)}"]
    for digest, parts in times.items():
        lines += ["", f"[bundles.{json.dumps(digest)}]", *(f"{part} = {ms}" for part, ms in parts.items())]
    return "\n".join([*lines, ""])


def named(places: Sequence[str]) -> dict[str, Path]:
    """Return name -> folder of bundles given as paths or ``zoo:NAME``."""
    from splitreg.zoo import find_bundle

    return {str(place): find_bundle(place) for place in places}
