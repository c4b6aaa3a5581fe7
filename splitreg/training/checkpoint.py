"""Checkpoints: nested state in one safetensors file with a checksum, written atomically. No pickle.

The file's metadata hold everything that is not a tensor as JSON, and a SHA-256 of the whole file in which
the digits of the checksum itself are zeros. A damaged file is detected, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from splitreg.errors import TrainingError
from splitreg.files import disk_errors, safetensors_metadata, write_atomic

#: Name and version of the format.
FORMAT = "splitreg-checkpoint/1"
#: Number of checkpoints that are kept.
KEEP = 2
_ZEROS = "0" * 64  # in place of the checksum
_NAME = re.compile(r"step-(\d+)\.safetensors")


def flatten(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split nested state into tensors by path, and a JSON value that refers to them.

    Args:
        state: str, int, float, bool, None, tensors, and dicts (with str, int, float or bool keys), lists
            and tuples of these.

    Raises:
        TrainingError: the state contains something else.

    >>> flatten({"step": 3, "betas": (0.9, 0.99)})
    ({}, {'step': 3, 'betas': {'$tuple': [0.9, 0.99]}})
    """
    tensors: dict[str, Tensor] = {}

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            tensors[path] = value
            return {"$tensor": path}
        if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
            return {"$float": str(value)}  # JSON has no such numbers
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Mapping):
            items = [(key, walk(item, f"{path}/{key}" if path else str(key))) for key, item in value.items()]
            if all(isinstance(key, str) and not key.startswith("$") for key, _ in items):
                return dict(items)
            return {"$items": [[walk(key, path), item] for key, item in items]}
        if isinstance(value, list | tuple):
            listed = [walk(item, f"{path}/{index}" if path else str(index)) for index, item in enumerate(value)]
            return {"$tuple": listed} if isinstance(value, tuple) else listed
        raise TrainingError(
            f"a checkpoint can hold tensors, numbers, strings, lists and dicts; {path or 'the state'} is a "
            f"{type(value).__name__}"
        )

    return tensors, walk(state, "")


def unflatten(tensors: Mapping[str, Tensor], value: Any) -> Any:
    """Undo ``flatten``."""
    if isinstance(value, list):
        return [unflatten(tensors, item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return tensors[value["$tensor"]]
    if "$float" in value:
        return float(value["$float"])
    if "$tuple" in value:
        return tuple(unflatten(tensors, item) for item in value["$tuple"])
    if "$items" in value:
        return {unflatten(tensors, key): unflatten(tensors, item) for key, item in value["$items"]}
    return {key: unflatten(tensors, item) for key, item in value.items()}


def to_bytes(state: Any) -> bytes:
    """Serialise nested state."""
    tensors, rest = flatten(state)
    seen: set[int] = set()
    ready = {}
    for path, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        ready[path] = tensor.clone() if pointer in seen else tensor  # safetensors refuses shared memory
        seen.add(pointer)
    metadata = {"format": FORMAT, "seal": _ZEROS, "state": json.dumps(rest, allow_nan=False)}
    data = bytearray(safetensors.torch.save(ready, metadata=metadata))
    start = data.index(f'"seal":"{_ZEROS}"'.encode()) + len('"seal":"')  # quotes in the state are escaped
    data[start : start + len(_ZEROS)] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


def from_bytes(data: bytes) -> Any:
    """Read nested state.

    Raises:
        TrainingError: truncated, altered, or not a checkpoint.
    """
    try:
        metadata = safetensors_metadata(data)
    except ValueError as cause:
        raise TrainingError(str(cause)) from cause
    if metadata.get("format") != FORMAT:
        raise TrainingError(f"unknown checkpoint format {metadata.get('format')!r}, expected {FORMAT!r}")
    seal = metadata.get("seal", "")
    start = data.find(seal.encode())
    zeroed = bytearray(data)
    zeroed[start : start + len(_ZEROS)] = _ZEROS.encode()
    if len(seal) != len(_ZEROS) or hashlib.sha256(zeroed).hexdigest() != seal:
        raise TrainingError("wrong checksum: the file is damaged or truncated")
    return unflatten(safetensors.torch.load(data), json.loads(metadata["state"]))


class Checkpoints:
    """The checkpoints of one run, named ``step-00000120.safetensors``; the last ``KEEP`` are kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """Return the files, oldest first."""
        paths = self.folder.glob("step-*.safetensors") if self.folder.is_dir() else ()
        return sorted((p for p in paths if _NAME.fullmatch(p.name)), key=lambda p: int(_NAME.fullmatch(p.name)[1]))  # type: ignore[index]

    def save(self, step: int, state: Any) -> Path:
        """Write the state after ``step`` steps, and remove all but the last ``KEEP`` checkpoints.

        Raises:
            TrainingError: the file cannot be written; earlier checkpoints are intact.
        """
        path = self.folder / f"step-{step:08d}.safetensors"
        data = to_bytes(state)
        with disk_errors(path, TrainingError, f"{len(data)} bytes are needed; free some space, then resume"):
            write_atomic(path, data)
        for old in self.paths()[:-KEEP]:
            old.unlink(missing_ok=True)
        return path

    def clear(self) -> None:
        """Remove all checkpoints."""
        for path in self.paths():
            path.unlink(missing_ok=True)

    def load(self) -> tuple[Any, Path, list[str]]:
        """Read the newest intact checkpoint.

        Returns:
            Its state, its path, and one sentence per damaged newer checkpoint; those are removed.

        Raises:
            TrainingError: there is no intact checkpoint.
        """
        paths = self.paths()
        if not paths:
            raise TrainingError(f"no checkpoint in {self.folder}; start the run without resume")
        damaged = []
        for path in reversed(paths):
            try:
                state = from_bytes(path.read_bytes())
            except (TrainingError, OSError) as cause:
                damaged.append(f"cannot use {path.name}: {cause}")
                continue
            for bad in paths[paths.index(path) + 1 :]:
                bad.unlink(missing_ok=True)  # otherwise it would count among the last KEEP
            return state, path, damaged
        raise TrainingError(f"no intact checkpoint in {self.folder}: {'; '.join(damaged)}; start without resume")
