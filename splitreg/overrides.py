"""Overrides of a recipe's values by path, such as ``bottleneck.channels=24``; no torch."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from splitreg.errors import RecipeError

if sys.version_info >= (3, 11):  # noqa: UP036
    import tomllib
else:
    import tomli as tomllib


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """Read ``key=value`` strings; values are TOML or plain strings.

    >>> parse_overrides(["channels=24", "name=fp"])
    {'channels': 24, 'name': 'fp'}

    Raises:
        RecipeError: a string has no ``=`` or no key.
    """
    values = {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"an override must be KEY=VALUE, such as bottleneck.channels=24; got {override!r}")
        try:
            values[key.strip()] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key.strip()] = text
    return values


def apply_overrides(table: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Apply ``key=value`` strings to a table in place; values are TOML or plain strings.

    >>> apply_overrides({"bottleneck": "fp"}, ["bottleneck.channels=24", "cut=layer1"])
    {'bottleneck': {'name': 'fp', 'channels': 24}, 'cut': 'layer1'}

    Raises:
        RecipeError: a string is not ``key=value``, or there is no such path.
    """
    for key, value in parse_overrides(overrides).items():
        set_path(table, key, value)
    return table


def set_path(table: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a path such as ``"stages.0.epochs"`` or ``"heads.det.width"``.

    Missing tables are created. The index of a list with one item may be omitted: ``"data.root"``,
    ``"stages.optimizer.lr"``.

    Raises:
        RecipeError: a list has no such item, or a value on the path has no keys.
    """
    *parents, last = path.split(".")
    here: Any = table
    for depth, key in enumerate(parents):
        if parents[:depth] == ["stages"]:  # items of other lists have no tables, and a wrong name must not be one
            here = _only_item(here, key)
        step = _index(here, key, path) if isinstance(here, list) else key
        if isinstance(here, dict):
            here.setdefault(step, {})
        here = _resolve(here, step)
        if not isinstance(here, dict | list):
            raise RecipeError(f"{path}: {'.'.join(parents[: depth + 1])} is {here!r} and has no keys")
    here = _only_item(here, last)
    here[_index(here, last, path) if isinstance(here, list) else last] = value


def _only_item(here: Any, key: str) -> Any:
    """Return the item of a list with one item, unless the key addresses an item; otherwise the value itself."""
    if isinstance(here, list) and len(here) == 1 and not key.isdecimal() and key not in _names(here):
        return _resolve(here, 0)
    return here


def _resolve(here: Any, step: Any) -> Any:
    """Return the value at a key; a name is replaced by the table that it abbreviates."""
    if isinstance(here[step], str):  # "fp" is short for { name = "fp" }
        here[step] = {"name": here[step]}
    return here[step]


def _names(items: list[Any]) -> list[Any]:
    return [item.get("as", item.get("name")) if isinstance(item, dict) else item for item in items]


def _index(items: list[Any], key: str, path: str) -> int:
    """Return the index for a number, or for the name of a head, dataset or stage."""
    names = _names(items)
    if key in names:
        return names.index(key)
    if key.isdecimal() and int(key) < len(items):
        return int(key)
    available = f"{', '.join(map(str, names))} (or 0 to {len(items) - 1})" if items else "none, the list is empty"
    raise RecipeError(f"{path}: no item {key!r}. Available: {available}")


def text_override(path: str, text: str) -> str:
    """Return an override whose value stays a string, whatever it looks like.

    >>> parse_overrides([text_override("data.root", "2024")])
    {'data.root': '2024'}
    """
    quoted = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's escapes are TOML's
    return f"{path}={quoted}"
