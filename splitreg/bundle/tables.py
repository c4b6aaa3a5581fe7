"""The integer tables in ``edge.safetensors`` and ``server.safetensors``, read without torch."""

from __future__ import annotations

from safetensors import SafetensorError, safe_open

from splitreg.bundle.bundle import Bundle
from splitreg.coding import LatentModel, load_model
from splitreg.errors import BundleError, CodingError

#: Prefix of the names of the tables' arrays in the files of both halves.
PREFIX = "tables."


def read_tables(bundle: Bundle, name: str) -> LatentModel:
    """Read the tables of one half, without its weights.

    Args:
        bundle: the bundle.
        name: ``"edge.safetensors"`` or ``"server.safetensors"``.

    Raises:
        BundleError: the file is missing, altered or not safetensors, or the tables are damaged.
    """
    path = bundle.check(name)
    try:
        with safe_open(path, framework="numpy") as file:
            names = [key for key in file.keys() if key.startswith(PREFIX)]
            return load_model({key.removeprefix(PREFIX): file.get_tensor(key) for key in names})
    except (SafetensorError, OSError) as cause:
        raise BundleError(f"{path} is not a valid safetensors file: {cause}") from cause
    except CodingError as cause:
        raise BundleError(f"the tables in {path} are damaged: {cause}") from cause
