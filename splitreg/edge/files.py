"""Reading a bundle without torch: its config and the hashes of its files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from splitreg.coding import LatentModel, load_model
from splitreg.errors import BundleError, CodingError

FORMAT, VERSION = "splitreg-bundle", 1
#: What the names of the tables' arrays begin with, in both halves' files.
TABLES = "tables."


def is_bundle(path: Path) -> bool:
    """Whether a folder looks like a bundle."""
    try:
        return bool(json.loads((path / "config.json").read_text(encoding="utf-8")).get("format") == FORMAT)
    except (OSError, ValueError, AttributeError):
        return False


def read_checked(folder: Path, name: str, hashes: Mapping[str, str]) -> bytes:
    """Read a file of the bundle and compare its SHA-256 with the config's.

    Raises:
        BundleError: missing, unlisted or altered.
    """
    with _listed(folder, name, hashes) as file:
        data = file.read()
    _compare(hashlib.sha256(data).hexdigest(), folder, name, hashes)
    return data


def check_file(folder: Path, name: str, hashes: Mapping[str, str]) -> Path:
    """Compare a file's SHA-256 with the config's without holding the file in memory, and return its path.

    Raises:
        BundleError: missing, unlisted or altered.
    """
    with _listed(folder, name, hashes) as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    _compare(found, folder, name, hashes)
    return folder / name


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check ``config.json``.

    Raises:
        BundleError: missing, not one, of a newer version, or altered.
    """
    path = folder / "config.json"
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise BundleError(f"no bundle at {folder}: cannot read {path.name}: {cause.strerror or cause}") from cause
    except (ValueError, RecursionError) as cause:
        raise BundleError(f"{path} is not JSON: {cause}") from cause
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise BundleError(f"{path} is not the config of a splitreg bundle")
    if table.get("version") != VERSION:
        raise BundleError(f"{path} has bundle version {table.get('version')!r}, this reads {VERSION}; upgrade splitreg")
    if table.pop("digest", None) != digest(table):
        raise BundleError(f"{path} was altered: its digest does not fit")
    wrong = [key for key, fits in _FIELDS.items() if not fits(table.get(key))]
    if wrong:
        raise BundleError(f"{path} lacks what a bundle needs, or has it in another form: {', '.join(wrong)}")
    return table


def digest(table: Mapping[str, Any]) -> str:
    """SHA-256 of a config without its own digest."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def read_tables(folder: Path, name: str, hashes: Mapping[str, str]) -> LatentModel:
    """Read the tables of a half's file, and none of its weights.

    Raises:
        BundleError: the file is missing, altered or not safetensors, or the tables are damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = check_file(folder, name, hashes)
    try:
        with safe_open(path, framework="numpy") as file:
            wanted = [key for key in file.keys() if key.startswith(TABLES)]
            return load_model({key.removeprefix(TABLES): file.get_tensor(key) for key in wanted})
    except (SafetensorError, OSError) as cause:
        raise BundleError(f"{path} is not a whole safetensors file: {cause}") from cause
    except CodingError as cause:
        raise BundleError(f"the tables in {path} are damaged: {cause}") from cause


@contextmanager
def _listed(folder: Path, name: str, hashes: Mapping[str, str]) -> Iterator[BufferedReader]:
    if name not in hashes:
        raise BundleError(f"the bundle {folder} does not list {name}; it lists {', '.join(sorted(hashes))}")
    try:
        with (folder / name).open("rb") as file:
            yield file
    except OSError as cause:
        raise BundleError(
            f"the bundle {folder} lacks {name}: {cause.strerror or cause}; copy the whole folder"
        ) from cause


def _compare(found: str, folder: Path, name: str, hashes: Mapping[str, str]) -> None:
    if found != hashes[name]:
        raise BundleError(
            f"{folder / name} was altered or belongs to another bundle: its SHA-256 is not the one in config.json"
        )


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


#: What a config must hold, and whether a value is that.
_FIELDS: Mapping[str, Callable[[Any], bool]] = {
    "model_id": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{8}", value) is not None,
    "trained": lambda value: isinstance(value, bool),
    "recipe": lambda value: isinstance(value, dict),
    "preprocess": lambda value: isinstance(value, dict),
    "plugins": _texts,
    "files": _texts,
}
