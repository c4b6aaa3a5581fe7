"""Checkpoints: nested state as safetensors and JSON in one sealed file, written atomically. No pickle.

A file is a safetensors file whose metadata hold the JSON of everything that is not a tensor, and a SHA-256 of the whole
file with the seal's own place zeroed. A damaged file is therefore always noticed, and the one before it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from splitreg.errors import TrainingError

FORMAT = "splitreg-checkpoint/1"
KEEP = 2
_SEAL = "0" * 64
_HEADER_LIMIT = 100_000_000  # safetensors' own bound
_NAME = re.compile(r"step-(\d+)\.safetensors")


def flatten(state: Any) -> tuple[dict[str, Tensor], Any]:
    """Split nested dicts, lists and tuples into tensors by path and a JSON value that refers to them.

    Args:
        state: str, int, float, bool, None, tensors, and dicts (str, int, float or bool keys), lists and tuples of these.

    Raises:
        TrainingError: the state holds something else.

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
            f"a checkpoint holds tensors, numbers, text, lists and dicts, but {path or 'the state'} is a {type(value).__name__}"
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
    plain = {}
    for path, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        plain[path] = tensor.clone() if pointer in seen else tensor  # safetensors refuses shared memory
        seen.add(pointer)
    metadata = {"format": FORMAT, "seal": _SEAL, "state": json.dumps(rest, allow_nan=False)}
    data = bytearray(safetensors.torch.save(plain, metadata=metadata))
    start = data.index(f'"seal":"{_SEAL}"'.encode()) + len('"seal":"')  # quotes within the state are escaped
    data[start : start + len(_SEAL)] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


def from_bytes(data: bytes) -> Any:
    """Read nested state.

    Raises:
        TrainingError: cut short, altered, or not a checkpoint.
    """
    metadata = _metadata(data)
    if metadata.get("format") != FORMAT:
        raise TrainingError(f"not a checkpoint of this version: format {metadata.get('format')!r}, wanted {FORMAT!r}")
    seal = str(metadata.get("seal", ""))
    start = data.find(seal.encode())
    zeroed = bytearray(data)
    zeroed[start : start + len(_SEAL)] = _SEAL.encode()
    if len(seal) != len(_SEAL) or hashlib.sha256(zeroed).hexdigest() != seal:
        raise TrainingError("its checksum does not fit its bytes; it was damaged or cut short")
    return unflatten(safetensors.torch.load(data), json.loads(metadata["state"]))


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, finds the old one or the new one, whole.

    Raises:
        TrainingError: the disk is full or refuses; an older file is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as cause:
        temporary.unlink(missing_ok=True)
        raise TrainingError(
            f"cannot write {path} ({len(data)} bytes): {cause.strerror or cause}; what was written before is intact: "
            "make room, then resume"
        ) from cause


class Checkpoints:
    """The checkpoints of one run: ``step-00000120.safetensors`` and so on, of which the last ``KEEP`` stay."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def paths(self) -> list[Path]:
        """Return what is there, oldest first."""
        found = self.folder.glob("step-*.safetensors") if self.folder.is_dir() else ()
        return sorted((p for p in found if _NAME.fullmatch(p.name)), key=lambda p: int(_NAME.fullmatch(p.name)[1]))  # type: ignore[index]

    def save(self, step: int, state: Any) -> Path:
        """Write the state after ``step`` steps and drop what is older than the last ``KEEP``.

        Raises:
            TrainingError: the disk is full or refuses; the checkpoints before are intact.
        """
        path = self.folder / f"step-{step:08d}.safetensors"
        write_atomically(path, to_bytes(state))
        for old in self.paths()[:-KEEP]:
            old.unlink(missing_ok=True)
        return path

    def load(self) -> tuple[Any, Path, list[str]]:
        """Read the newest whole checkpoint.

        Returns:
            Its state, its path, and one sentence for every damaged one that was passed over (and removed).

        Raises:
            TrainingError: there is none, or none is whole.
        """
        paths = self.paths()
        if not paths:
            raise TrainingError(f"no checkpoint in {self.folder}; start the run without resume")
        damaged = []
        for path in reversed(paths):
            try:
                state = from_bytes(path.read_bytes())
            except (TrainingError, OSError) as cause:
                damaged.append(f"{path.name} cannot be used: {cause}")
                continue
            for bad in paths[paths.index(path) + 1 :]:
                bad.unlink(missing_ok=True)  # else it would count among the last KEEP
            return state, path, damaged
        raise TrainingError(f"no whole checkpoint in {self.folder}: {'; '.join(damaged)}; start the run without resume")


def _metadata(data: bytes) -> dict[str, Any]:
    length = struct.unpack_from("<Q", data)[0] if len(data) >= 8 else 0
    if not 2 <= length <= min(_HEADER_LIMIT, len(data) - 8):
        raise TrainingError("it is empty, cut short or not a safetensors file")
    try:
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    except (ValueError, KeyError, TypeError, RecursionError) as cause:
        raise TrainingError("its header is damaged") from cause
    if not isinstance(metadata, dict):
        raise TrainingError("its header is damaged")
    return metadata


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where the system can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
