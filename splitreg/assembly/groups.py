"""Names of a model's parts and of groups of parts, as used in the stages of a recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from splitreg.errors import RecipeError, suggest

#: Group -> its parts; a head ``heads.NAME`` belongs to ``heads``.
PART_GROUPS: Mapping[str, tuple[str, ...]] = {
    "all": ("prefix", "encoder", "decoder", "prior", "context", "body", "heads"),
    "edge": ("prefix", "encoder"),
    "server": ("decoder", "prior", "context", "body", "heads"),
    "heads": ("heads",),
}


def part_names(heads: Iterable[str]) -> tuple[str, ...]:
    """Return the names of all parts and groups of a model with these heads."""
    names = dict.fromkeys((*PART_GROUPS, *PART_GROUPS["all"], *(f"heads.{head}" for head in heads)))
    return tuple(names)


def expand_parts(parts: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the parts for names of parts and groups.

    Args:
        parts: all parts of the model, heads as ``heads.NAME``.
        names: names of parts or groups.

    Raises:
        RecipeError: a name is neither a part nor a group.

    >>> expand_parts(["encoder", "decoder", "heads.det"], ["server"])
    ['decoder', 'heads.det']
    """
    expanded: list[str] = []
    for name in names:
        if name in parts:
            expanded.append(name)
        elif name in PART_GROUPS:
            members = PART_GROUPS[name]
            expanded += [part for part in parts if part.partition(".")[0] in members]
        elif name not in PART_GROUPS["all"]:  # a model may lack a prefix, a prior or a context
            known = [*PART_GROUPS, *parts]
            raise RecipeError(f"no part {name!r} in the model.{suggest(name, known)} Available: {', '.join(known)}")
    return expanded
