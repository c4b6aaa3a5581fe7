"""Write the folder of a bundle: it appears complete or not at all."""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from splitreg.bundle.bundle import hash_folder
from splitreg.bundle.config import CONFIG, FORMAT, BundleConfig
from splitreg.errors import BundleError
from splitreg.files import parse_json

#: Name of a bundle that is being replaced.
_ASIDE = "bundle"
#: Age in seconds of a folder that a killed process may have left; a new one is not locked at once.
_STALE_SECONDS = 60
#: How often to try again where several processes replace one bundle.
MAX_ATTEMPTS = 20


def is_bundle(path: Path) -> bool:
    """Whether a folder has the config of a bundle."""
    try:
        return bool(parse_json((path / CONFIG).read_text(encoding="utf-8")).get("format") == FORMAT)
    except (OSError, ValueError, AttributeError):
        return False


def check_free(path: Path, *, overwrite: bool) -> None:
    """Check that a bundle can be written to a path.

    Args:
        path: the folder to create.
        overwrite: allow to replace a bundle.

    Raises:
        BundleError: the path exists, and is not a bundle that may be replaced.
    """
    # While another process replaces a bundle, its path may lead nowhere for a moment, also between two looks.
    looks = (path.exists() and not is_bundle(path) for _ in range(MAX_ATTEMPTS))
    if not path.exists():
        return
    if all(looks):
        raise BundleError(f"cannot write a bundle to {path}: it exists and is not a bundle; choose another path")
    if not overwrite:
        raise BundleError(
            f"cannot write a bundle to {path}: there is one already; replace it with overwrite (--overwrite), or choose "
            "another path"
        )


@contextmanager
def new_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` if the block succeeds, and is removed otherwise.

    Its permissions follow the umask.

    Args:
        path: the final folder.
        overwrite: replace an existing bundle.

    Raises:
        BundleError: the path exists and may not be replaced, or the disk is full or not writable.
    """
    check_free(path, overwrite=overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path)
        temporary = _make_sibling(path)
        lock = _lock(temporary)
    except OSError as cause:
        raise BundleError(f"cannot write a bundle to {path}: {cause.strerror or cause}") from cause
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        _move(temporary, path, overwrite=overwrite)
    except OSError as cause:
        raise BundleError(
            f"cannot write a bundle to {path}: {cause.strerror or cause}; no partial bundle is left"
        ) from cause
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def write_config(folder: Path, config: BundleConfig) -> None:
    """Write ``config.json`` with the hashes of all other files in the folder; call it last."""
    table = replace(config, files=hash_folder(folder)).dump()
    (folder / CONFIG).write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _make_sibling(path: Path) -> Path:
    """Create a hidden folder with a unique name beside ``path``."""
    sibling = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    os.mkdir(sibling)  # tempfile.mkdtemp would ignore the umask
    return sibling


def _lock(folder: Path) -> int | None:
    """Lock a folder until its descriptor is closed or the process ends; None if another one has."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_stale(path: Path) -> None:
    """Remove what a killed process has left beside ``path``; put back a bundle that it was replacing."""
    for sibling in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if not re.fullmatch(r"[0-9a-f]{12}", sibling.name.rpartition(".")[2]) or not sibling.is_dir():
            continue
        try:
            if time.time() - sibling.stat().st_mtime < _STALE_SECONDS:
                continue
            lock = _lock(sibling)
        except FileNotFoundError:  # its process has finished, or another one has removed it
            continue
        if lock is None:
            continue
        try:
            if is_bundle(sibling / _ASIDE) and not path.exists():
                os.rename(sibling / _ASIDE, path)
            shutil.rmtree(sibling, ignore_errors=True)
        finally:
            os.close(lock)


def _move(new: Path, path: Path, *, overwrite: bool) -> None:
    """Give a complete folder its final name, also if other processes write to the same path.

    Raises:
        BundleError: a bundle that may not be replaced has appeared there.
        OSError: it cannot be renamed.
    """
    for attempt in range(MAX_ATTEMPTS):
        check_free(path, overwrite=overwrite)
        try:
            if path.exists():
                _swap(new, path)
            else:
                os.rename(new, path)
            return
        except OSError as cause:  # another process was faster
            if cause.errno not in (errno.ENOENT, errno.EEXIST, errno.ENOTEMPTY) or attempt == MAX_ATTEMPTS - 1:
                raise


def _swap(new: Path, path: Path) -> None:
    """Replace a folder by a complete one; if that fails, the old one is restored."""
    aside = _make_sibling(path)
    lock = _lock(aside)
    try:
        os.rename(path, aside / _ASIDE)
        try:
            os.rename(new, path)
        except OSError:
            os.rename(aside / _ASIDE, path)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
