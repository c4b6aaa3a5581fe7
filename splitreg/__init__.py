"""splitreg: assemble, train, publish and run models that are cut between a device and a server.

Names below are imported on first use, so that ``import splitreg`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from splitreg import errors
    from splitreg.assembly import build, plan
    from splitreg.publishing import load, save
    from splitreg.recipe import Recipe
    from splitreg.registry import discover

_HOMES = {
    "Recipe": "splitreg.recipe",
    "build": "splitreg.assembly",
    "discover": "splitreg.registry",
    "load": "splitreg.publishing",
    "plan": "splitreg.assembly",
    "save": "splitreg.publishing",
}

__all__ = ["Recipe", "__version__", "build", "discover", "errors", "load", "plan", "save"]


def __getattr__(name: str) -> Any:
    if name == "errors":
        return importlib.import_module("splitreg.errors")
    if name not in _HOMES:
        raise AttributeError(f"module 'splitreg' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
