"""Write a bundle's folder: it appears complete or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from splitreg.bundle.bundle import hash_folder
from splitreg.bundle.config import CONFIG, FORMAT, BundleConfig
from splitreg.errors import BundleError


def is_bundle(path: Path) -> bool:
    """Whether a folder looks like a bundle."""
    try:
        return bool(json.loads((path / CONFIG).read_text(encoding="utf-8")).get("format") == FORMAT)
    except (OSError, ValueError, AttributeError):
        return False


def check_free(path: Path, *, overwrite: bool) -> None:
    """Check that a bundle can be written to a path, before the work for it begins.

    Raises:
        BundleError: something is there, and it is not a bundle that may be replaced.
    """
    if path.exists() and not (overwrite and is_bundle(path)):
        what = (
            "a bundle exists there; overwrite it (--overwrite)"
            if is_bundle(path)
            else "the path exists, and is no bundle"
        )
        raise BundleError(f"cannot write the bundle {path}: {what}, or choose another path")


@contextmanager
def new_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` when the block succeeds, and is removed when it does not.

    Args:
        path: final place.
        overwrite: replace a bundle that is there; anything else there is an error.

    Raises:
        BundleError: something else is there, or the disk refuses.
    """
    check_free(path, overwrite=overwrite)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as cause:
        raise BundleError(f"cannot write the bundle {path}: {cause.strerror or cause}") from cause
    try:
        os.chmod(temporary, 0o755)
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        if path.exists():
            _swap(temporary, path)
        else:
            os.rename(temporary, path)
    except OSError as cause:
        raise BundleError(
            f"cannot write the bundle {path}: {cause.strerror or cause}; nothing was left behind"
        ) from cause
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_config(folder: Path, config: BundleConfig) -> None:
    """Write ``config.json`` with the hashes of all other files of the folder; call it last."""
    table = replace(config, files=hash_folder(folder)).dump()
    (folder / CONFIG).write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _swap(new: Path, path: Path) -> None:
    """Replace a folder by a finished one; the old one comes back if that fails."""
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.old.", dir=path.parent))
    try:
        os.rename(path, aside / "bundle")
        try:
            os.rename(new, path)
        except OSError:
            os.rename(aside / "bundle", path)
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _sync(file: Path) -> None:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
