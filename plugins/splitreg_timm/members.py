"""Names of the members of the family."""

from __future__ import annotations

import timm


def names() -> list[str]:
    """Return the names of all models of the installed timm, without weight tags."""
    return list(timm.list_models())
