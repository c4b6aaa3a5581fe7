"""``temporal_sources`` and ``context_source``: coders in C, for devices without Python."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.coding.context_state import first_weights as context_weights
from splitreg.coding.mixing import mixing_tables
from splitreg.coding.temporal_state import FIRST_RATE, FIRST_VOTES, SCORES, first_weights

_STATIC = "static __attribute__((unused)) "
_FILES = ("temporal.c", "mixing.h", "export.h")


def temporal_sources() -> Mapping[str, bytes]:
    """Return C files: ``temporal.c`` with its headers, and its constants as ``temporal_tables.h``.

    The coder needs ``memcmp``, ``memcpy`` and ``memset``, and ``<string.h>`` that declares them.
    """
    folder = resources.files("splitreg.coding")
    text = "".join([
        _mixing(), _array("int32_t", "sr_scores", np.array(SCORES)), _array("int32_t", "sr_first_weights", first_weights()),
        f"enum {{ SR_FIRST_RATE = {FIRST_RATE}, SR_FIRST_VOTES = {FIRST_VOTES} }};\n",
    ])  # fmt: skip
    files = {name: folder.joinpath(name).read_bytes() for name in _FILES}
    return {**files, "temporal_tables.h": text.encode()}


def context_source() -> str:
    """Return the encoder with a context model as C text, to be put into another file.

    It needs ``<stdint.h>``, ``memcpy`` and ``memset``.
    """
    folder = resources.files("splitreg.coding")
    parts = [folder.joinpath(name).read_text(encoding="utf-8") for name in ("mixing.h", "context.c")]
    code = "\n".join(line for part in parts for line in part.splitlines() if not line.startswith("#include"))
    weights = _array("int32_t", "sr_context_weights", context_weights())
    return "#define CONTEXT_CLONES\n" + _mixing() + code.replace("API ", _STATIC) + "\n" + weights


def _mixing() -> str:
    """Return the tables of the range coder, once in a file."""
    tables = mixing_tables()
    arrays = "".join([
        _array("uint16_t", "sr_squash", tables.squash), _array("int16_t", "sr_stretch", tables.stretch),
        _array("uint16_t", "sr_reciprocals", tables.reciprocals),
    ])  # fmt: skip
    return f"#ifndef SR_MIXING_TABLES\n#define SR_MIXING_TABLES\n{arrays}#endif\n"


def _array(kind: str, name: str, values: NDArray[Any]) -> str:
    flat = values.reshape(-1).tolist()
    rows = (", ".join(map(str, flat[i : i + 16])) for i in range(0, len(flat), 16))
    return f"static const {kind} {name}[{len(flat)}] = {{\n" + ",\n".join(rows) + "\n};\n"
