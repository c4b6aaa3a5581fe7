"""Values of a recipe's tables, checked as they are read: each function names the place that is wrong (no torch)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from splitreg.errors import RecipeError, suggest


def listed(value: Any) -> Sequence[Any]:
    """Return a list; a table alone stands for a list of one."""
    return value if isinstance(value, list | tuple) else [value]


def name_list(value: Any, where: str) -> tuple[str, ...]:
    """Return names; one alone stands for a list of one."""
    names = [value] if isinstance(value, str) else value
    if not (isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)):
        raise RecipeError(f"{where} must be a list of names, got {value!r}")
    return tuple(names)


def is_int(value: Any) -> bool:
    """Whether it is a number without a fraction, and no ``true`` or ``false``."""
    return isinstance(value, int) and not isinstance(value, bool)


def typed(value: Any, kinds: tuple[Any, ...], where: str) -> Any:
    """Return a value that is of one of these types; ``true`` and ``false`` are no numbers."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
        raise RecipeError(f"{where} must be {names}, got {value!r}")
    return value


def only(value: Any, keys: Iterable[str], where: str) -> dict[str, Any]:
    """Return a table that has no other keys than these."""
    keys = tuple(keys)
    table = dict(typed(value, (Mapping,), where))
    for key in table:
        if key not in keys:
            raise RecipeError(f"{where} has no key {key!r}.{suggest(key, keys) or ' It knows: ' + ', '.join(keys)}")
    return table


def named(value: Any, where: str) -> dict[str, Any]:
    """Return a table with a ``name``; a string is short for one."""
    if isinstance(value, str) and value.strip():
        return {"name": value.strip()}
    if isinstance(value, Mapping) and isinstance(value.get("name"), str):
        return dict(value)
    raise RecipeError(f'{where} must be a name or a table with a name, as {{ name = "..." }}; got {value!r}')
