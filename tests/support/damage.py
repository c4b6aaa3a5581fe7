"""Damaged copies of plain data: every part of it is missing, or of another type."""

import copy

MISSING = object()
VALUES = (None, "x", [], {}, 10**400, float("nan"), MISSING)


def paths(value, path=()):
    """Yield the keys that lead to each part; of lists, of their first item."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*path, key))


def damaged_copies(value, values=VALUES):
    """Yield (path, what is there instead, copy)."""
    for path in paths(value):
        for wrong in values:
            whole = copy.deepcopy(value)
            place = whole
            for key in path[:-1]:
                place = place[key]
            if wrong is MISSING:
                del place[path[-1]]
            else:
                place[path[-1]] = wrong
            yield path, wrong, whole
