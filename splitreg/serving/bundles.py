"""The served bundles: which heads of each, and their entries in ``/v1/models`` (no torch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splitreg.coding.variable import VariableModel
from splitreg.edge.files import read_config
from splitreg.errors import BundleError, RecipeError
from splitreg.zoo import find_bundle


def select_bundles(bundles: Sequence[str], heads: Sequence[str] | None) -> list[tuple[Path, dict[str, Any], list[str]]]:
    """Return folder, config and heads to load of each bundle.

    Args:
        bundles: folders or names of the zoo.
        heads: names of heads; None selects all.

    Raises:
        BundleError: a bundle cannot be read, or two bundles have the same model id.
        RecipeError: no bundle has one of the heads, or a bundle has none of them.
    """
    selected: dict[str, tuple[Path, dict[str, Any], list[str]]] = {}
    available: set[str] = set()
    for bundle in bundles:
        folder = find_bundle(bundle)
        config = read_config(folder)
        names = [head["as"] for head in config["recipe"]["heads"]]
        wanted = [name for name in names if heads is None or name in heads]
        if not wanted:
            raise RecipeError(f"{bundle} has none of the heads {', '.join(heads or ())}; it has {', '.join(names)}")
        if config["model_id"] in selected:
            other = selected[config["model_id"]][0]
            raise BundleError(f"{bundle} and {other} have the same model id {config['model_id']}; serve one of them")
        selected[config["model_id"]] = folder, config, wanted
        available |= set(names)
    for head in heads or ():
        if head not in available:
            raise RecipeError(f"no bundle has a head {head!r}; available heads: {', '.join(sorted(available))}")
    return list(selected.values())


def describe_model(server: Any, model_id: str, name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's entry in ``/v1/models``.

    Args:
        server: the loaded ``ServerModel``.
        model_id: eight hexadecimal digits.
        name: name of the bundle's folder.
        config: of the bundle.
    """
    codec = config["recipe"].get("codec")
    labels = {head["as"]: head.get("labels") for head in config["recipe"]["heads"]}
    return {
        "id": model_id,
        "name": name,
        "heads": {
            head: {"task": branch.head.task, "labels": labels[head] if isinstance(labels[head], list) else []}
            for head, branch in server.branches.items()
        },
        "size": list(server.preprocess.size),
        "mode": server.preprocess.mode,
        "codec": codec.get("name") if isinstance(codec, dict) else None,
        "rates": isinstance(server.symbols, VariableModel),
    }
