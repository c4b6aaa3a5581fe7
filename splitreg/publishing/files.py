"""Files of a bundle: a folder that appears finished or not at all; hashes; safetensors in and out (never pickle)."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from splitreg.edge.files import FORMAT, VERSION, digest, is_bundle, read_checked, read_config
from splitreg.errors import BundleError

__all__ = [
    "FORMAT", "VERSION", "digest", "hash_folder", "is_bundle", "new_folder", "parse_tensors", "read_checked",
    "read_config", "refuse_taken", "write_config", "write_tensors",
]  # fmt: skip


@contextmanager
def new_folder(path: Path, *, replace: bool) -> Iterator[Path]:
    """Give a temporary folder that becomes ``path`` when the block ends well, and vanishes when it does not.

    Args:
        path: where it shall be.
        replace: an older bundle there is replaced; anything else there is an error.

    Raises:
        BundleError: something else is there, or the disk refuses.
    """
    refuse_taken(path, replace=replace)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as cause:
        raise BundleError(f"cannot write the bundle {path}: {cause.strerror or cause}") from cause
    try:
        os.chmod(work, 0o755)
        yield work
        for file in work.rglob("*"):
            if file.is_file():
                _sync(file)
        if path.exists():
            _swap(work, path)
        else:
            os.rename(work, path)
    except OSError as cause:
        raise BundleError(
            f"cannot write the bundle {path}: {cause.strerror or cause}; nothing was left behind"
        ) from cause
    finally:
        shutil.rmtree(work, ignore_errors=True)


def refuse_taken(path: Path, *, replace: bool) -> None:
    """Say that a bundle cannot be written where something is, before the work for it begins.

    Raises:
        BundleError: something is there, and it is not a bundle that may be replaced.
    """
    if path.exists() and not (replace and is_bundle(path)):
        what = "a bundle is there already; overwrite it (--overwrite)" if is_bundle(path) else "something else is there"
        raise BundleError(f"cannot write the bundle {path}: {what}, or choose another place")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name, the same bytes for the same tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    ready = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    # one key: the library writes several in random order, and equal bundles must have equal bytes
    path.write_bytes(safetensors.torch.save(ready, {FORMAT: str(VERSION)}))


def parse_tensors(data: bytes, name: str) -> dict[str, Tensor]:
    """Read the tensors of a file's bytes.

    Raises:
        BundleError: not safetensors, or cut short.
    """
    try:
        return dict(safetensors.torch.load(data))
    except (SafetensorError, ValueError, KeyError, OverflowError) as cause:
        raise BundleError(f"{name} is not a whole safetensors file: {cause}") from cause


def hash_folder(folder: Path) -> dict[str, str]:
    """Return relative name -> SHA-256 of every file but ``config.json``."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "config.json")
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write ``config.json`` with the hashes of all other files and its own digest; call it last."""
    table = {"format": FORMAT, "version": VERSION, **config, "files": hash_folder(folder)}
    table["digest"] = digest(table)
    (folder / "config.json").write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _swap(work: Path, path: Path) -> None:
    """Put a finished folder in the place of another, which comes back if that fails."""
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    try:
        os.rename(path, old / "bundle")
        try:
            os.rename(work, path)
        except OSError:
            os.rename(old / "bundle", path)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
