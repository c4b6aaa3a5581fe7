"""What a bundle requires of a device."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from splitreg.bundle import Bundle
from splitreg.coding.rans_kernel import library
from splitreg.edge.encoder import EdgeEncoder
from splitreg.edge.runtimes import RUNTIMES
from splitreg.errors import SplitregError

#: Vector instructions that runtimes and the kernel make use of, as Linux names them.
_FEATURES = ("sse4_2", "avx2", "fma", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm", "sve", "neon")
#: Images of which the fastest is reported.
_TIMED = 5


def describe(place: str | Path) -> dict[str, Any]:
    """Describe the edge half of a bundle as plain data, without loading a graph.

    Returns:
        ``model_id``; ``input`` (height, width) and ``mode``; ``any_size``, whether
        ``EdgeEncoder.open`` accepts another size; ``codec``; ``bytes`` on disk of each graph and of
        ``edge.safetensors``; and, if there is an 8-bit graph, its measurements as ``int8``.

    Raises:
        BundleError: the config or one of these files is missing or altered.
    """
    bundle = Bundle.open(place)
    config, graph = bundle.config, bundle.config.graph
    names = [name for name in ("edge.safetensors", *EdgeEncoder.FILES.values()) if name in bundle]
    return {
        "model_id": config.id,
        "input": list(config.preprocess.size),
        "mode": config.preprocess.mode,
        "any_size": graph is not None and graph.dynamic,
        "codec": config.codec.name,
        "bytes": {name: bundle.check(name).stat().st_size for name in names},
        **({"int8": dict(graph.int8)} if graph and graph.int8 is not None else {}),
    }


def describe_machine(place: str | Path | None = None) -> dict[str, Any]:
    """Describe what this machine runs an edge half with, as plain data.

    Args:
        place: a bundle to encode a blank image with; None: measure nothing.

    Returns:
        ``kernel`` ("c", or "numpy" where it is not built); ``runtimes``, name -> version of the
        installed ones; ``cpu_features``; ``python`` and ``machine``; with a bundle, ``expected_ms`` per
        image on one thread, or ``not_measured``, why not.
    """
    runtimes = {}
    for name in RUNTIMES:
        try:
            runtimes[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    machine: dict[str, Any] = {
        "kernel": "numpy" if library() is None else "c", "runtimes": runtimes, "cpu_features": _cpu_features(),
        "python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}",
    }  # fmt: skip
    if place is not None:
        try:
            machine["expected_ms"] = round(_fastest_ms(place), 2)
        except SplitregError as error:
            machine["not_measured"] = str(error)
    return machine


def _cpu_features() -> list[str]:
    """Return the vector instructions of the processor, as far as Linux states them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return []
    lines = (line.partition(":") for line in text.splitlines())
    words = {word for key, _, value in lines if key.strip() in ("flags", "Features") for word in value.split()}
    return [feature for feature in _FEATURES if feature in words]


def _fastest_ms(place: str | Path) -> float:
    """Return milliseconds from image to packet at the network's input size: the fastest of a few."""
    encoder = EdgeEncoder.open(place)
    image = np.full((*encoder.coding.preprocess.size, 3), 128, np.uint8)
    image[::2, ::3] = 40
    times = []
    for _ in range(_TIMED + 1):
        start = time.perf_counter()
        encoder.encode(image)
        times.append(1000 * (time.perf_counter() - start))
    return min(times)
