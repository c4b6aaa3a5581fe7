"""The names that the family answers for."""

from __future__ import annotations

import timm


def names() -> list[str]:
    """Return every model name of the installed timm, without weight tags."""
    return list(timm.list_models())
