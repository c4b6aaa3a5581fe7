"""Paths into a recipe's tables: ``bottleneck.channels=24`` (no torch)."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from typing import Any

from splitreg.errors import RecipeError


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Read ``key=value`` strings; values are TOML, else plain strings.

    >>> parse_overrides(["channels=24", "name=fp"])
    {'channels': 24, 'name': 'fp'}

    Raises:
        RecipeError: one has no ``=``.
    """
    found = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"an override reads key=value, as in bottleneck.channels=24; got {override!r}")
        try:
            found[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            found[key.strip()] = text
    return found


def apply_overrides(table: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set ``"key=value"`` in a table, in place; values are TOML, else plain strings.

    >>> apply_overrides({"bottleneck": "fp"}, ["bottleneck.channels=24", "cut=layer1"])
    {'bottleneck': {'name': 'fp', 'channels': 24}, 'cut': 'layer1'}

    Raises:
        RecipeError: not of that form, or a place that is not there.
    """
    for key, value in parse_overrides(overrides).items():
        set_path(table, key, value)
    return table


def set_path(table: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at ``"stages.0.epochs"`` or ``"heads.det.width"``; missing tables on the way are made.

    The only item of a list may be left out: ``"data.root"`` where there is one dataset.

    Raises:
        RecipeError: a list has no such item, or something on the way has no keys.
    """
    *parents, last = path.split(".")
    here: Any = table
    for depth, key in enumerate(parents):
        here, step = _place(here, key, path)
        if isinstance(here, dict):
            here.setdefault(step, {})
        here = _table(here, step)
        if not isinstance(here, dict | list):
            raise RecipeError(f"{path}: {'.'.join(parents[: depth + 1])} is {here!r}, which has no keys")
    here, step = _place(here, last, path)
    here[step] = value


def _table(here: Any, step: Any) -> Any:
    """Return what is there; a name becomes the table that it is short for."""
    if isinstance(here[step], str):  # "fp" is short for { name = "fp" }
        here[step] = {"name": here[step]}
    return here[step]


def _place(here: Any, key: str, path: str) -> tuple[Any, Any]:
    """Return what holds ``key``, and where: in a table, in a list, or in the only item of a list."""
    if not isinstance(here, list):
        return here, key
    names = [item.get("as", item.get("name")) if isinstance(item, dict) else item for item in here]
    if key in names:
        return here, names.index(key)
    if key.isdecimal() and int(key) < len(here):
        return here, int(key)
    if len(here) == 1 and not key.isdecimal() and isinstance(only := _table(here, 0), dict):
        return only, key
    there = f"there are: {', '.join(map(str, names))} (or 0 to {len(here) - 1})" if here else "the list is empty"
    raise RecipeError(f"{path}: no {key!r}; {there}")
