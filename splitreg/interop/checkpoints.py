"""Checkpoints of other projects: files of ``torch.save``, read without executing code in them."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from splitreg.errors import CheckpointError

#: Largest checkpoint. The largest of sc2bench, with its optimizer, has about 1.5 GB.
MAX_BYTES = 8 * 2**30
#: Types of objects beside the tensors that training loops save; they are ignored.
_IGNORED_TYPES = ("argparse.Namespace", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
#: Keys of the model's state dict in a checkpoint.
_STATE_KEYS = ("model", "state_dict", "model_state_dict")


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a file of ``torch.save``, on the CPU, without the prefix ``module.``.

    Raises:
        CheckpointError: there is no such file, it is not a checkpoint, damaged, too large, would execute
            code, or has no state dict.
    """
    path = Path(path)
    if not path.is_file():
        problem = f"{path} is a folder" if path.is_dir() else f"no file {path}"
        raise CheckpointError(f"{problem}; a checkpoint must be a file of torch.save, such as model.pt")
    try:
        size = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = max(size, sum(entry.file_size for entry in archive.infolist()))
        if size > MAX_BYTES:
            raise CheckpointError(f"{path} has {size / 2**30:.1f} GiB, the limit is {MAX_BYTES >> 30} GiB")
        with _ignored_types():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as cause:
        code = re.search(r"(?:GLOBAL|class|function) `?([\w.]+\.[\w.]+)", str(cause))
        if code is None:
            raise CheckpointError(f"{path} is not a file of torch.save, or damaged") from cause
        raise CheckpointError(
            f"{path} has more than tensors: reading it would execute {code[1]}. Save it again where you trust it: "
            'torch.save({"model": model.state_dict()}, path)'
        ) from cause
    except CheckpointError:
        raise
    except OSError as cause:
        raise CheckpointError(f"cannot read {path}: {cause.strerror or cause}") from cause
    except Exception as cause:  # torch may raise anything for a damaged file
        raise CheckpointError(f"{path} is not a file of torch.save, or cut short or damaged") from cause
    return _state_dict(path, content)


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        content = next((content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)), content)
    tensors = {k: v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors or not all(isinstance(key, str) for key in tensors):
        keys = ", ".join(map(str, list(content)[:5])) if isinstance(content, Mapping) else type(content).__name__
        raise CheckpointError(f"no state dict in {path}, plain or as one of {', '.join(_STATE_KEYS)}; it has {keys}")
    for key, value in tensors.items():
        if not _is_dense(value):
            raise CheckpointError(f"{key} in {path} is not a dense tensor on the CPU")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _is_dense(value: Tensor) -> bool:
    """Whether a tensor is dense and as large in memory as its shape says."""
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        return False
    empty = value.numel() == 0 and value.dim() > 1
    return not empty and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


class _Placeholder:
    """Placeholder of an ignored object."""

    def __new__(cls, *_: Any) -> _Placeholder:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


_PLACEHOLDERS: list[Any] = [
    type(name.rpartition(".")[2], (_Placeholder,), {"__module__": name.rpartition(".")[0]}) for name in _IGNORED_TYPES
]


@contextmanager
def _ignored_types() -> Iterator[None]:
    """Let ``torch.load`` replace ignored objects by placeholders with the same type names."""
    before = list(get_safe_globals())
    clear_safe_globals()
    add_safe_globals(_PLACEHOLDERS)
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)
