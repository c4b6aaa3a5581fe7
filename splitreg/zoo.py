"""The model zoo by name: ``zoo:camvid-small`` is a bundle, ``zoo:recipes/camvid-small`` a recipe (no torch, no numpy).

The zoo is a folder, ``model_zoo``: within the installed package, or beside it in a source checkout. ``SPLITREG_ZOO`` names
another one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from splitreg.errors import BundleError, RecipeError, suggest

#: What the name of something in the zoo begins with.
PREFIX = "zoo:"
_RECIPES = "recipes"


def folder() -> Path:
    """Return the folder of the zoo.

    Raises:
        BundleError: there is none.
    """
    given = os.environ.get("SPLITREG_ZOO")
    here = Path(__file__).parent
    places = [Path(given)] if given else [here / "model_zoo", here.parent / "model_zoo"]
    for place in places:
        if place.is_dir():
            return place
    what = f"SPLITREG_ZOO is {given!r}, which is no folder" if given else "this installation has no model zoo"
    raise BundleError(
        f"{what}; set SPLITREG_ZOO to the folder model_zoo of a source checkout, or install splitreg again"
    )


def bundles() -> dict[str, Path]:
    """Return name -> folder of every bundle in the zoo."""
    return {path.parent.name: path.parent for path in sorted(folder().glob("*/config.json"))}


def recipes() -> dict[str, Path]:
    """Return name -> file of every recipe in the zoo."""
    return {path.stem: path for path in sorted((folder() / _RECIPES).glob("*.toml"), key=lambda path: path.stem)}


def find_bundle(place: str | Path) -> Path:
    """Return the folder that is meant: a path as it is, ``zoo:NAME`` from the zoo.

    Raises:
        BundleError: the zoo has no such bundle.
    """
    if not _is_name(place):
        return Path(place)
    name, known = str(place).removeprefix(PREFIX), bundles()
    if name in known:
        return known[name]
    if name.startswith(_RECIPES + "/"):
        raise BundleError(f"{place} is a recipe, and a bundle is wanted; splitreg train {place} makes one")
    raise BundleError(
        f"the zoo has no bundle {name!r}.{suggest(name, known)} It has {_listed(known)}: splitreg list zoo"
    )


def find_recipe(place: str | Path) -> Path:
    """Return the file that is meant: a path, ``zoo:recipes/NAME``, or ``NAME`` alone where no such file is.

    Raises:
        RecipeError: the zoo has no such recipe, and nor is there such a file.
    """
    text, path = str(place), Path(place)
    if not _is_name(place) and (path.exists() or isinstance(place, Path) or path.suffix or path.name != text):
        return path
    known = recipes()
    name = text.removeprefix(PREFIX).removeprefix(_RECIPES + "/")
    if name in known:
        return known[name]
    no_file = "" if _is_name(place) else f"there is no file {text!r}, and "
    raise RecipeError(
        f"{no_file}the zoo has no recipe {name!r}.{suggest(name, known)} It has {_listed(known)}: splitreg list zoo"
    )


def catalogue() -> list[dict[str, Any]]:
    """Return what is in the zoo, bundles first: plain data for ``splitreg list zoo``."""
    return [_bundle(name, path) for name, path in bundles().items()] + [
        {"kind": "recipe", "name": f"{PREFIX}{_RECIPES}/{name}", "summary": _first_comment(path)}
        for name, path in recipes().items()
    ]


def _bundle(name: str, path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        results = json.loads((path / "metrics.json").read_text(encoding="utf-8")).get("evaluations", [])
        recipe = config["recipe"]
        heads = {head["as"]: head["name"] for head in recipe["heads"]}
        data = [part["name"] for part in recipe["data"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        raise BundleError(f"the zoo's bundle {name} cannot be read: {type(cause).__name__}: {cause}") from cause
    newest = results[-1] if results else {}
    return {
        "kind": "bundle", "name": PREFIX + name, "backbone": recipe["backbone"]["name"], "heads": heads, "data": data,
        "input": recipe["input"]["size"], "packet_bytes": newest.get("bytes", {}).get("mean"),
        "metrics": newest.get("metrics", {}), "measured_on": newest.get("dataset"),
        "disk_bytes": sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
    }  # fmt: skip


def _is_name(place: str | Path) -> bool:
    return str(place).startswith(PREFIX)


def _first_comment(path: Path) -> str:
    line = path.read_text(encoding="utf-8").partition("\n")[0]
    return line.removeprefix("#").strip() if line.startswith("#") else ""


def _listed(names: dict[str, Path]) -> str:
    shown = ", ".join(list(names)[:5]) or "none"
    return shown + (f" and {len(names) - 5} more" if len(names) > 5 else "")
