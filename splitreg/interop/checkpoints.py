"""Other projects' checkpoints: files of ``torch.save``, read without running anything that is in them."""

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

#: Larger files are refused. The largest that sc2bench trains, with its optimizer, has about 1.5 GB.
MAX_BYTES = 8 * 2**30
#: What else than tensors a training loop leaves in a checkpoint; none of it is of use here.
_BESIDES = ("argparse.Namespace", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
#: Where a training loop keeps the state dict of its model.
_PLACES = ("model", "state_dict", "model_state_dict")


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Return the state dict in a file of ``torch.save``, on the CPU, without a ``module.`` before every name.

    Raises:
        CheckpointError: no such file, not a checkpoint, cut short, too large, in need of code, or without a state dict.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder, not a checkpoint" if path.is_dir() else "is not there"
        raise CheckpointError(f"{path} {what}; give a file that torch.save wrote, such as model.pt")
    try:
        size = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = max(size, sum(entry.file_size for entry in archive.infolist()))
        if size > MAX_BYTES:
            raise CheckpointError(f"{path} holds {size / 2**30:.1f} GiB, beyond the limit of {MAX_BYTES >> 30} GiB")
        with _besides():
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as cause:
        code = re.search(r"(?:GLOBAL|class|function) `?([\w.]+\.[\w.]+)", str(cause))
        if code is None:
            raise CheckpointError(f"{path} is not a checkpoint of torch.save, or a damaged one") from cause
        raise CheckpointError(
            f"{path} holds more than tensors: reading it would run {code[1]}, and nothing in a checkpoint is run here; "
            'write it anew where you trust it: torch.save({"model": model.state_dict()}, path)'
        ) from cause
    except CheckpointError:
        raise
    except OSError as cause:
        raise CheckpointError(f"cannot read {path}: {cause.strerror or cause}") from cause
    except Exception as cause:  # whatever a damaged file provokes in torch's readers
        raise CheckpointError(f"{path} is not a checkpoint of torch.save, or it is cut short or damaged") from cause
    return _state(path, found)


def _state(path: Path, found: Any) -> dict[str, Tensor]:
    if isinstance(found, Mapping):
        found = next((found[place] for place in _PLACES if isinstance(found.get(place), Mapping)), found)
    tensors = {key: v for key, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors or not all(isinstance(key, str) for key in tensors):
        has = ", ".join(map(str, list(found)[:5])) if isinstance(found, Mapping) else type(found).__name__
        raise CheckpointError(f"{path} holds no state dict, plain or as one of {', '.join(_PLACES)}; it has {has}")
    for key, value in tensors.items():
        if not _is_dense(value):
            raise CheckpointError(f"{path} holds {key} as another kind of tensor than a dense one on the CPU")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def _is_dense(value: Tensor) -> bool:
    """Tell whether a tensor is a plain one, and as large in memory as its shape says: a model is made by such shapes."""
    if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
        return False
    empty = value.numel() == 0 and value.dim() > 1
    return not empty and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


class _Nothing:
    """Stands for an object that is not wanted, whatever it is made from."""

    def __new__(cls, *_: Any) -> _Nothing:
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


_STAND_INS: list[Any] = [
    type(name.rpartition(".")[2], (_Nothing,), {"__module__": name.rpartition(".")[0]}) for name in _BESIDES
]


@contextmanager
def _besides() -> Iterator[None]:
    """Let ``torch.load`` read over what lies beside the tensors: stand-ins of the same names, nothing of the real ones."""
    before = list(get_safe_globals())
    clear_safe_globals()
    add_safe_globals(_STAND_INS)
    try:
        yield
    finally:
        clear_safe_globals()
        add_safe_globals(before)
