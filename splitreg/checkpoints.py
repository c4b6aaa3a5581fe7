"""Weights from elsewhere, read without executing code: ``torch.save``, safetensors, the Hub, torchvision.

A place is a file, ``hf:ORG/NAME[/FILE][@REVISION]``, or ``torchvision:MODEL[.WEIGHTS]``, for example
``torchvision:fasterrcnn_resnet50_fpn`` for what torchvision itself downloads.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from splitreg.errors import CheckpointError, suggest
from splitreg.hub import PREFIX as HUB_PREFIX
from splitreg.hub import HubPlace, fetch_first

#: Prefix of models whose weights torchvision downloads.
TORCHVISION = "torchvision:"
#: Files of a repository on the Hub that may hold its weights, in this order.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")

#: Largest checkpoint. The largest of sc2bench, with its optimizer, has about 1.5 GB.
MAX_BYTES = 8 * 2**30
#: Types of objects beside the tensors that training loops save; they are ignored.
_IGNORED_TYPES = ("argparse.Namespace", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")
#: Keys of the model's state dict in a checkpoint.
_STATE_KEYS = ("model", "state_dict", "model_state_dict")


def is_remote(place: str) -> bool:
    """Whether weights are downloaded, from the Hub or from torchvision."""
    return place.startswith((HUB_PREFIX, TORCHVISION))


def weights_file(place: str | Path) -> Path:
    """Return the local file of a place; one that is remote is downloaded into the cache of its library.

    Raises:
        HubError: the Hub has no such file, or it cannot be fetched.
        CheckpointError: torchvision has no such model, or its weights cannot be downloaded.
    """
    text = str(place)
    if text.startswith(HUB_PREFIX):
        return fetch_first(HubPlace.parse(text), HUB_FILES)
    return _torchvision_file(text) if text.startswith(TORCHVISION) else Path(place)


def _torchvision_file(place: str) -> Path:
    from torchvision import models

    name, _, member = place.removeprefix(TORCHVISION).partition(".")
    if name not in models.list_models():
        raise CheckpointError(f"torchvision has no model {name!r}.{suggest(name, models.list_models())}")
    weights = models.get_model_weights(name)
    if member and member not in weights.__members__:
        raise CheckpointError(
            f"torchvision's {name} has no weights {member!r}; it has {', '.join(weights.__members__)}"
        )
    url = (weights[member] if member else weights.DEFAULT).url
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    file: Path = folder / str(url).rpartition("/")[2]
    if not file.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), hash_prefix=file.stem.rpartition("-")[2], progress=False)
        except Exception as cause:  # of urllib, of the operating system, of the check of the hash
            reason = next(iter(str(cause).splitlines()), type(cause).__name__)
            raise CheckpointError(f"cannot download {url}: {reason}; or name a file with these weights") from cause
    return file


def read_checkpoint(place: str | Path) -> dict[str, Tensor]:
    """Return a state dict on the CPU, without the prefix ``module.``.

    Args:
        place: a file of ``torch.save`` or safetensors, or a remote place as above.

    Raises:
        CheckpointError: there is no such file, it is not a checkpoint, damaged, too large, would execute
            code, or has no state dict.
        HubError: the Hub has no such file, or it cannot be fetched.
    """
    path = weights_file(place)
    if path.suffix == ".safetensors" and path.is_file():
        try:
            return _state_dict(path, load_file(path))
        except (SafetensorError, OSError, ValueError) as cause:
            raise CheckpointError(f"{path} is not a valid safetensors file: {cause}") from cause
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
