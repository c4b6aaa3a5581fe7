"""Change a bundle on disk, with or without valid hashes."""

import hashlib
import json
from pathlib import Path
from typing import Any

from splitreg.bundle import hash_folder


def read_raw(bundle: Path) -> dict[str, Any]:
    """Return ``config.json`` as plain data."""
    table: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    return table


def write_raw(bundle: Path, table: dict[str, Any]) -> Path:
    """Write a config with valid hashes and digest; None removes a key."""
    table = {"format": "splitreg-bundle", "version": 1, "files": hash_folder(bundle), **table}
    table = {key: value for key, value in table.items() if value is not None and key != "digest"}
    digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()
    (bundle / "config.json").write_text(json.dumps({**table, "digest": digest}, indent=1, sort_keys=True) + "\n")
    return bundle


def seal(bundle: Path, **changes: Any) -> Path:
    """Change keys of the config, and update hashes and digest."""
    table = {key: value for key, value in read_raw(bundle).items() if key not in ("files", "digest")}
    return write_raw(bundle, {**table, **changes})


def save_with_onnx(model: Any, path: Path, **options: Any) -> Path:
    """Save a model with its edge half as ONNX."""
    from splitreg.assembly import save
    from splitreg.publishing import export

    return save(model, path, exported=export(model), **options)
