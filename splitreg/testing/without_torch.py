"""Run a codec in a process that cannot import torch, as on a device (no torch in this module)."""

from __future__ import annotations

import importlib
import importlib.util
import json
import pickle
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding import LatentModel, load_model
from splitreg.coding.streams import decode_streams, encode_streams
from splitreg.errors import MissingExtra

#: Packages that a device does not have.
ABSENT = ("torch", "torchvision", "torchmetrics", "timm", "compressai", "lightning_fabric")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceCase:
    """A latent, and the streams that this process wrote for it.

    Args:
        name: of the case, for messages.
        tables: ``to_arrays`` of the tables.
        latent: (C, h, w) float32.
        streams: what the codec wrote here.
    """

    name: str
    tables: Mapping[str, NDArray[Any]]
    latent: NDArray[np.float32]
    streams: tuple[bytes, ...]

    @classmethod
    def of(cls, name: str, tables: LatentModel, latent: NDArray[np.float32], codec: Any) -> DeviceCase:
        """Encode a latent in this process."""
        streams = encode_streams(tables, latent, codec)
        return cls(name=name, tables=tables.to_arrays(), latent=latent, streams=streams)


@dataclass(kw_only=True)
class DeviceReport:
    """What the other process found.

    Args:
        problem: what is wrong; empty if nothing is.
        skipped: why nothing could be checked; empty if it was.
        trace: text of the traceback of a problem.
    """

    problem: str = ""
    skipped: str = ""
    trace: str = field(default="", repr=False)


def check_on_device(target: str, options: Mapping[str, Any], cases: Sequence[DeviceCase]) -> DeviceReport:
    """Encode and decode latents in a process without torch, and compare the bytes.

    Args:
        target: ``"package.module:Class"`` of the codec.
        options: of the codec.
        cases: the latents.
    """
    module = target.partition(":")[0]
    try:
        importable = module != "__main__" and importlib.util.find_spec(module) is not None
    except (ValueError, ImportError):
        importable = False
    if not importable:
        return DeviceReport(skipped=f"another process cannot import {module}; install the package")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cases.pickle"
        path.write_bytes(pickle.dumps((target, dict(options), list(cases))))
        done = _run(f"from splitreg.testing.without_torch import report; report({str(path)!r})")
        lines = done.stdout.splitlines()
        if done.returncode or not lines:
            return DeviceReport(
                problem=f"the process without torch ended with status {done.returncode}", trace=done.stderr
            )
        return DeviceReport(**json.loads(lines[-1]))


def import_on_device(module: str) -> DeviceReport:
    """Import a module in a process without torch."""
    done = _run(f"import importlib; importlib.import_module({module!r})")
    lines = done.stderr.strip().splitlines()
    return DeviceReport(problem=lines[-1] if done.returncode and lines else "", trace=done.stderr)


def _run(code: str) -> subprocess.CompletedProcess[str]:
    start = f"import sys; sys.path[:] = {sys.path!r}; sys.modules.update(dict.fromkeys({ABSENT!r})); "
    command = [sys.executable, "-c", start + code]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def report(path: str) -> None:
    """Check the cases of a file, and print a ``DeviceReport`` as JSON; runs in the other process."""
    target, options, cases = pickle.loads(Path(path).read_bytes())
    result = DeviceReport()
    try:
        module, _, name = target.partition(":")
        plugin = getattr(importlib.import_module(module), name)
        try:
            codec = plugin(**options)
        except MissingExtra as error:  # the codec says that it is not for devices without torch
            result.skipped = str(error)
        else:
            result.problem = next(filter(None, (_problem(codec, case) for case in cases)), "")
    except Exception as error:
        result.problem, result.trace = f"{type(error).__name__}: {error}", traceback.format_exc()
    sys.stdout.write(
        "\n" + json.dumps({name: getattr(result, name) for name in ("problem", "skipped", "trace")}) + "\n"
    )


def _problem(codec: Any, case: DeviceCase) -> str:
    tables = load_model(case.tables)
    if encode_streams(tables, case.latent, codec) != case.streams:
        return f"{case.name}: other bytes than in a process with torch"
    channels, height, width = case.latent.shape
    restored = decode_streams(tables, case.streams, (channels, height, width), codec)
    if codec.lossless and not np.array_equal(restored, tables.restore(case.latent)):
        return f"{case.name}: the decoded latent differs from the encoded one"
    return ""
