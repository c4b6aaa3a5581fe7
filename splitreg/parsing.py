"""Checks of names and of values in a recipe's tables: each error names the place that is wrong (no torch)."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, get_args

from splitreg.errors import RecipeError, suggest
from splitreg.files import is_finite


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


def check_numbers(value: Any, where: str = "") -> None:
    """Refuse NaN, which passes every range, and integers that no float holds, anywhere in plain data.

    Raises:
        RecipeError: names the place.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_numbers(item, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            check_numbers(item, f"{where}[{number}]")
    elif isinstance(value, float) and value != value:
        raise RecipeError(f"{where} must be a number, got {value}")
    elif is_int(value) and not is_finite(value):
        raise RecipeError(f"{where} must be a number that a float holds, got {str(value)[:40]}")


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


def check_name(name: str, names: Iterable[str], kind: str) -> None:
    """Refuse a name that does not exist.

    Args:
        name: what was given.
        names: the names that exist.
        kind: what is named, e.g. ``"schedule"``.

    Raises:
        RecipeError: there is no such name; suggests near ones.

    >>> check_name("cosin", ["cosine", "poly"], "schedule")
    Traceback (most recent call last):
        ...
    splitreg.errors.RecipeError: no schedule named 'cosin'. Did you mean 'cosine'? Available: cosine, poly
    """
    names = tuple(names)
    if name not in names:
        raise RecipeError(f"no {kind} named {name!r}.{suggest(name, names)} Available: {', '.join(names)}")


def check_options(options: Iterable[str], names: Iterable[str], owner: str) -> None:
    """Refuse names that are not options of something.

    Args:
        options: names that were given.
        names: the options that exist.
        owner: what has them, e.g. ``"bottleneck 'fp'"``.

    Raises:
        RecipeError: one sentence per unknown option, with near names.

    >>> check_options(["chanels"], ["channels", "blocks"], "bottleneck 'fp'")
    Traceback (most recent call last):
        ...
    splitreg.errors.RecipeError: invalid option 'chanels' for bottleneck 'fp'. Did you mean 'channels'? \
Available: channels, blocks
    """
    names = tuple(names)
    available = f"Available: {', '.join(names)}" if names else "It has no options"
    unknown = [
        f"invalid option {option!r} for {owner}.{suggest(option, names)} {available}"
        for option in options
        if option not in names
    ]
    if unknown:
        raise RecipeError("; ".join(unknown))


def check_types(cls: type[Any], options: Mapping[str, Any], owner: str) -> None:
    """Check values against a constructor's annotations with plain types; the constructor checks all others.

    Args:
        cls: the class.
        options: name -> value.
        owner: what has the options, e.g. ``"bottleneck 'fp'"``.

    Raises:
        RecipeError: a value has another type.
    """
    import typing

    try:
        hints = typing.get_type_hints(cls.__init__)
    except Exception:  # a name that only type checkers know
        return
    for name, value in options.items():
        kinds = _plain_kinds(hints.get(name))
        if kinds and not any(_is_a(value, kind) for kind in kinds):
            wanted = " or ".join("None" if kind is NoneType else kind.__name__ for kind in kinds)
            raise RecipeError(f"{owner}: {name} must be {wanted}, got {value!r}")


def _plain_kinds(hint: Any) -> tuple[type, ...]:
    """Return the types of an annotation such as ``int`` or ``str | None``; () for any other one."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    return kinds if all(kind in (bool, int, float, str, NoneType) for kind in kinds) else ()


def _is_a(value: Any, kind: type) -> bool:
    """Whether a value is of a plain type; whole numbers are numbers, and truth values are not."""
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, kind)


def keyword_options(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the keyword-only parameters of a function or class: name -> default.

    >>> keyword_options(sorted)
    {'key': None, 'reverse': False}
    """
    import inspect  # imported here: `splitreg list` is measured in milliseconds

    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
