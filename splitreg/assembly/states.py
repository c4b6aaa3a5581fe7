"""The weights of each half by name, and the model id of packets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from splitreg.interfaces import Bottleneck
from splitreg.recipe import Recipe


def edge_state(prefix: nn.Module | None, bottleneck: Bottleneck) -> dict[str, Tensor]:
    """Return the device's weights: ``prefix.*`` and ``encoder.*``."""
    stages = {} if prefix is None else _state(prefix, "prefix")
    return {**stages, **_state(bottleneck.encoder, "encoder")}


def server_state(bottleneck: Bottleneck, body: nn.Module) -> dict[str, Tensor]:
    """Return the server's weights without the heads: ``bottleneck.*`` except its encoder, ``body.*``."""
    decoder = {
        f"bottleneck.{key}": value for key, value in bottleneck.state_dict().items() if not key.startswith("encoder.")
    }
    return {**decoder, **_state(body, "body")}


def _state(module: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Return a module's weights as ``prefix.*``."""
    return {f"{prefix}.{key}": value for key, value in module.state_dict().items()}


def wire_id(recipe: Recipe, tables: bytes, state: Mapping[str, Tensor]) -> int:
    """Return the 32-bit model id: a hash of tables, edge weights and everything else that affects packets.

    The tables alone are not enough: all bottlenecks without tables would have one id.
    """
    total = hashlib.sha256(tables)
    wire = {
        "backbone": recipe.backbone.name, "cut": recipe.cut, "bottleneck": recipe.bottleneck.to_mapping(),
        "codec": recipe.codec.to_mapping() if recipe.codec else None, "input": recipe.input.to_mapping(),
    }  # fmt: skip
    total.update(json.dumps(wire, sort_keys=True).encode())
    for name, tensor in sorted(state.items()):
        total.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return int.from_bytes(total.digest()[:4], "little")
