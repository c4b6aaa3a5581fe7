"""Weights as safetensors, and from there into modules."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from splitreg.bundle.config import FORMAT, VERSION
from splitreg.errors import BundleError


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file and create its folder; equal tensors give equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors)}
    # A single metadata key, because the library writes several in random order.
    path.write_bytes(safetensors.torch.save(contiguous, {FORMAT: str(VERSION)}))


def parse_tensors(data: bytes, name: str) -> dict[str, Tensor]:
    """Read the tensors of a file's bytes.

    Args:
        data: bytes of a safetensors file.
        name: name of the file, for messages.

    Raises:
        BundleError: it is not safetensors, or cut short.
    """
    try:
        return dict(safetensors.torch.load(data))
    except (SafetensorError, ValueError, KeyError, OverflowError) as cause:
        raise BundleError(f"{name} is not a valid safetensors file: {cause}") from cause


def assign(modules: Mapping[str, nn.Module | None], tensors: Mapping[str, Tensor], name: str, skip: str = "-") -> None:
    """Copy tensors into modules.

    Args:
        modules: prefix of the tensors' names -> module; "" for no prefix, None for no module.
        tensors: name -> value.
        name: name of the file, for messages.
        skip: prefix of the modules' tensors that the file does not have.

    Raises:
        BundleError: names every missing, unexpected or misshapen tensor.
    """
    expected = {
        f"{prefix}.{key}" if prefix else key: value
        for prefix, module in modules.items()
        if module is not None
        for key, value in module.state_dict(keep_vars=True).items()
    }
    expected = {key: value for key, value in expected.items() if not key.startswith(skip)}
    problems = [f"missing {key}" for key in expected if key not in tensors]
    problems += [f"unexpected {key}" for key in tensors if key not in expected]
    problems += [
        f"{key} has shape {tuple(tensors[key].shape)} {tensors[key].dtype}, expected {tuple(value.shape)} {value.dtype}"
        for key, value in expected.items()
        if key in tensors and (tensors[key].shape != value.shape or tensors[key].dtype != value.dtype)
    ]
    if problems:
        raise BundleError(f"{name} does not fit the model: " + "; ".join(problems))
    with torch.no_grad():
        for key, value in expected.items():
            value.copy_(tensors[key])
