"""The model zoo: ``zoo:camvid-small`` is a bundle, ``zoo:recipes/camvid-small`` a recipe; no torch.

The zoo is the folder ``model_zoo`` in the installed package, or beside it in a source checkout.
``SPLITREG_ZOO`` replaces it. Only a checkout has bundles in its folders ``large``, of many megabytes, and
``local``, which scripts make and git ignores.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from splitreg.errors import BundleError, RecipeError, suggest
from splitreg.files import parse_json
from splitreg.hub import HubPlace, fetch, is_hub

#: Prefix of names in the zoo.
PREFIX = "zoo:"
_RECIPES = "recipes"
#: Folders of bundles that are not in the package.
_CHECKOUT = ("large", "local")


def folder() -> Path:
    """Return the folder of the zoo.

    Raises:
        BundleError: there is none.
    """
    custom = os.environ.get("SPLITREG_ZOO")
    here = Path(__file__).parent
    places = [Path(custom)] if custom else [here / "model_zoo", here.parent / "model_zoo"]
    for place in places:
        if place.is_dir():
            return place
    problem = f"SPLITREG_ZOO is {custom!r}, which is not a folder" if custom else "no model zoo is installed"
    raise BundleError(
        f"{problem}; set SPLITREG_ZOO to the folder model_zoo of a source checkout, or reinstall splitreg"
    )


def bundles() -> dict[str, Path]:
    """Return name -> folder of every bundle in the zoo."""
    places = [folder(), *(folder() / name for name in _CHECKOUT)]
    return {path.parent.name: path.parent for place in places for path in sorted(place.glob("*/config.json"))}


def recipes() -> dict[str, Path]:
    """Return name -> file of every recipe in the zoo."""
    return {path.stem: path for path in sorted((folder() / _RECIPES).glob("*.toml"), key=lambda path: path.stem)}


def find_bundle(place: str | Path) -> Path:
    """Return the folder of a bundle.

    Args:
        place: a path, ``zoo:NAME``, or ``hf:ORG/NAME[@REVISION]``; of the last, ``config.json`` is fetched
            here, and ``splitreg.bundle.Bundle`` fetches other files when they are read.

    Raises:
        BundleError: no such bundle in the zoo.
        HubError: no such bundle on the Hub, or it cannot be fetched.
    """
    if is_hub(place):
        hub_place = HubPlace.parse(place)
        if hub_place.file:
            raise BundleError(f"{place} is a file; a bundle on the Hub is hf:ORG/NAME or hf:ORG/NAME@REVISION")
        return fetch(replace(hub_place, file="config.json")).parent
    if not _is_name(place):
        return Path(place)
    name, known = str(place).removeprefix(PREFIX), bundles()
    if name in known:
        return known[name]
    if name.startswith(_RECIPES + "/"):
        raise BundleError(f"{place} is a recipe, not a bundle; make a bundle with: splitreg train {place}")
    raise BundleError(
        f"no bundle {name!r} in the zoo.{suggest(name, known)} Available: {_listed(known)}; see splitreg list zoo"
    )


def find_recipe(place: str | Path) -> Path:
    """Return the file of a recipe.

    Args:
        place: a path, ``zoo:recipes/NAME``, or ``NAME`` alone if there is no such file.

    Raises:
        RecipeError: no such file, and no such recipe in the zoo.
    """
    text, path = str(place), Path(place)
    if not _is_name(place) and (path.exists() or isinstance(place, Path) or path.suffix or path.name != text):
        return path
    known = recipes()
    name = text.removeprefix(PREFIX).removeprefix(_RECIPES + "/")
    if name in known:
        return known[name]
    no_file = "" if _is_name(place) else f"no file {text!r}, and "
    raise RecipeError(
        f"{no_file}no recipe {name!r} in the zoo.{suggest(name, known)} Available: {_listed(known)}; see splitreg list zoo"
    )


def catalogue() -> list[dict[str, Any]]:
    """Return the content of the zoo, bundles first, as plain data for ``splitreg list zoo``."""
    return [_bundle(name, path) for name, path in bundles().items()] + [
        {"kind": "recipe", "name": f"{PREFIX}{_RECIPES}/{name}", "summary": _first_comment(path)}
        for name, path in recipes().items()
    ]


def _bundle(name: str, path: Path) -> dict[str, Any]:
    try:
        config = parse_json((path / "config.json").read_text(encoding="utf-8"))
        results = parse_json((path / "metrics.json").read_text(encoding="utf-8")).get("evaluations", [])
        recipe = config["recipe"]
        heads = {head["as"]: head["name"] for head in recipe["heads"]}
        data = [part["name"] for part in recipe["data"]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        raise BundleError(f"cannot read the bundle {name} of the zoo: {type(cause).__name__}: {cause}") from cause
    latest = results[-1] if results else {}
    return {
        "kind": "bundle", "name": PREFIX + name, "backbone": recipe["backbone"]["name"], "heads": heads, "data": data,
        "input": recipe["input"]["size"], "packet_bytes": latest.get("bytes", {}).get("mean"),
        "metrics": latest.get("metrics", {}), "measured_on": latest.get("dataset"),
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
