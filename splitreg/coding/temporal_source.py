"""``temporal_sources``: the temporal coder in C, for devices without Python."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.mixing import mixing_tables
from splitreg.coding.temporal_state import FIRST_RATE, FIRST_VOTES, SCORES, first_weights

_FILES = ("temporal.c", "mixing.h", "export.h")


def temporal_sources() -> Mapping[str, bytes]:
    """Return C files: ``temporal.c`` with its headers, and its constants as ``temporal_tables.h``.

    The coder needs ``memcmp``, ``memcpy`` and ``memset``, and ``<string.h>`` that declares them.
    """
    folder, tables = resources.files("splitreg.coding"), mixing_tables()
    text = "".join([
        _array("uint16_t", "sr_squash", tables.squash), _array("int16_t", "sr_stretch", tables.stretch),
        _array("uint16_t", "sr_reciprocals", tables.reciprocals), _array("int32_t", "sr_scores", np.array(SCORES)),
        _array("int32_t", "sr_first_weights", first_weights()),
        f"enum {{ SR_FIRST_RATE = {FIRST_RATE}, SR_FIRST_VOTES = {FIRST_VOTES} }};\n",
    ])  # fmt: skip
    files = {name: folder.joinpath(name).read_bytes() for name in _FILES}
    return {**files, "temporal_tables.h": text.encode()}


def _array(kind: str, name: str, values: NDArray[Any]) -> str:
    flat = values.reshape(-1).tolist()
    rows = (", ".join(map(str, flat[i : i + 16])) for i in range(0, len(flat), 16))
    return f"static const {kind} {name}[{len(flat)}] = {{\n" + ",\n".join(rows) + "\n};\n"
