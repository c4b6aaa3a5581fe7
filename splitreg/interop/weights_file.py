"""Weights of a whole backbone, written as one safetensors file for the option ``pretrained``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch

from splitreg.errors import BundleError, CheckpointError, RecipeError
from splitreg.files import disk_errors, write_atomic
from splitreg.registry import Registry, discover


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsFile:
    """A file for ``pretrained``: its ``path``, and the number of its ``tensors``."""

    path: Path
    tensors: int


def import_weights(
    checkpoint: str | Path,
    backbone: str,
    path: str | Path,
    *,
    overwrite: bool = False,
    registry: Registry | None = None,
) -> WeightsFile:
    """Write the weights of a backbone, with its classifier, under the names of its plugin.

    Args:
        checkpoint: whatever ``pretrained`` of the backbone accepts, for example a state dict of
            another project whose names the plugin knows.
        backbone: name of the backbone.
        path: the ``.safetensors`` file to write; it appears complete or not at all.
        overwrite: replace an existing file.
        registry: the installed plugins, by default.

    Raises:
        BundleError: the checkpoint does not have the weights of this backbone.
        CheckpointError: the file exists or cannot be written.
        RecipeError: the backbone takes no weights.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise CheckpointError(f"{path} exists; replace it with overwrite (--overwrite), or choose another path")
    component = (registry or discover()).component("backbone", backbone)
    if "pretrained" not in component.options:
        raise RecipeError(f"backbone {backbone} has no option pretrained, so it takes no weights")
    options = {"pretrained": str(checkpoint)} | ({"classifier": True} if "classifier" in component.options else {})
    state = component.create(options=options).state_dict()
    tensors = {name.removeprefix("net."): value.contiguous().clone() for name, value in sorted(state.items())}
    if not tensors:
        raise BundleError(f"backbone {backbone} has no weights")
    with disk_errors(path, CheckpointError, "choose another path"):
        write_atomic(path, safetensors.torch.save(tensors, {"format": "pt"}))
    return WeightsFile(path=path, tensors=len(tensors))
