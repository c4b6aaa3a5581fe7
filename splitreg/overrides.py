"""Paths into a recipe's tables: ``bottleneck.channels=24`` (no torch)."""

from __future__ import annotations

import json
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
        step = _index(here, key, path) if isinstance(here, list) else key
        if isinstance(here, dict):
            here.setdefault(step, {})
        here = _opened(here, step)
        if not isinstance(here, dict | list):
            raise RecipeError(f"{path}: {'.'.join(parents[: depth + 1])} is {here!r}, which has no keys")
    if isinstance(here, list) and len(here) == 1 and not last.isdecimal() and last not in _names(here):
        here = _opened(here, 0)
    here[_index(here, last, path) if isinstance(here, list) else last] = value


def _opened(here: Any, step: Any) -> Any:
    """Return what is there; a name becomes the table that it is short for."""
    if isinstance(here[step], str):  # "fp" is short for { name = "fp" }
        here[step] = {"name": here[step]}
    return here[step]


def _names(items: list[Any]) -> list[Any]:
    return [item.get("as", item.get("name")) if isinstance(item, dict) else item for item in items]


def _index(items: list[Any], key: str, path: str) -> int:
    """Position in a list: a number, or the name of a head, dataset or stage."""
    names = _names(items)
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    there = f"there are: {', '.join(map(str, names))} (or 0 to {len(items) - 1})" if items else "the list is empty"
    raise RecipeError(f"{path}: no {key!r}; {there}")


def text_override(path: str, text: str) -> str:
    """Return an override whose value stays a string, whatever it looks like.

    >>> parse_overrides([text_override("data.root", "2024")])
    {'data.root': '2024'}
    """
    quoted = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's
    return f"{path}={quoted}"
