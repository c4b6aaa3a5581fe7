"""The served bundles: which heads of each, and their entries in ``/v1/models`` (no torch)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from splitreg.bundle import Bundle, BundleConfig
from splitreg.coding import VariableModel
from splitreg.errors import BundleError, RecipeError


def select_bundles(places: Sequence[str], heads: Sequence[str] | None) -> list[tuple[Bundle, list[str]]]:
    """Return each bundle and the heads to load of it.

    Args:
        places: folders or names of the zoo.
        heads: names of heads; None selects all.

    Raises:
        BundleError: a bundle cannot be read, or two bundles have the same model id.
        RecipeError: no bundle has one of the heads, or a bundle has none of them.
    """
    selected: dict[str, tuple[Bundle, list[str]]] = {}
    available: set[str] = set()
    for place in places:
        bundle = Bundle.open(place)
        names = [head.name for head in bundle.config.heads]
        wanted = [name for name in names if heads is None or name in heads]
        if not wanted:
            raise RecipeError(f"{place} has none of the heads {', '.join(heads or ())}; it has {', '.join(names)}")
        if bundle.config.id in selected:
            other = selected[bundle.config.id][0].folder
            raise BundleError(f"{place} and {other} have the same model id {bundle.config.id}; serve one of them")
        selected[bundle.config.id] = bundle, wanted
        available |= set(names)
    for head in heads or ():
        if head not in available:
            raise RecipeError(f"no bundle has a head {head!r}; available heads: {', '.join(sorted(available))}")
    return list(selected.values())


def describe_model(server: Any, name: str, config: BundleConfig) -> dict[str, Any]:
    """Return a model's entry in ``/v1/models``.

    Args:
        server: the loaded ``ServerModel``.
        name: name of the bundle's folder.
        config: of the bundle.
    """
    labels = {head.name: list(head.labels) for head in config.heads}
    preprocess = server.coding.preprocess
    return {
        "id": config.id,
        "name": name,
        "heads": {head: {"task": branch.head.task, "labels": labels[head]} for head, branch in server.branches.items()},
        "size": list(preprocess.size),
        "mode": preprocess.mode,
        "codec": config.codec.name,
        "rates": isinstance(server.coding.tables, VariableModel),
    }
