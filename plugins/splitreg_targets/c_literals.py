"""Numbers and arrays as C."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitreg.errors import BundleError

Array = NDArray[Any]


def literals(array: Array) -> str:
    """Return the values of an array as C."""
    flat = np.asarray(array).reshape(-1)
    if flat.dtype.kind == "f":
        if not np.isfinite(flat).all():
            raise BundleError("the edge half has weights that are not finite; training has diverged")
        words = [float_literal(value) for value in flat.astype(np.float32)]
    else:
        words = [str(value) for value in flat.tolist()]
    lines, line = [], ""
    for word in words:
        if len(line) + len(word) > 118:
            lines.append(line)
            line = ""
        line += word + ", "
    return "\n".join([*lines, line]).rstrip().rstrip(",")


def float_literal(value: np.floating[Any]) -> str:
    """Return a float32 as C."""
    text = f"{float(value):.9g}"
    return text + ("f" if "." in text or "e" in text else ".0f")


def array_literal(kind: str, name: str, values: Array) -> str:
    """Return the definition of a constant array in C."""
    return f"static const {kind} {name}[{max(1, np.asarray(values).size)}] = {{\n{literals(values) or 0}\n}};\n"
