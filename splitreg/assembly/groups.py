"""Names of a model's parts, and groups of them, as a recipe's stages use them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from splitreg.errors import RecipeError, suggest

#: Group -> its parts; a head ``heads.NAME`` belongs to ``heads``.
PART_GROUPS: Mapping[str, tuple[str, ...]] = {
    "all": ("prefix", "encoder", "decoder", "prior", "body", "heads"),
    "edge": ("prefix", "encoder"),
    "server": ("decoder", "prior", "body", "heads"),
    "heads": ("heads",),
}


def part_names(heads: Iterable[str]) -> tuple[str, ...]:
    """Return every name that a stage may use, for a model with these heads."""
    names = dict.fromkeys((*PART_GROUPS, *PART_GROUPS["all"], *(f"heads.{head}" for head in heads)))
    return tuple(names)


def expand_parts(parts: Sequence[str], names: Iterable[str]) -> list[str]:
    """Return the parts that names of parts and groups stand for.

    Args:
        parts: all parts of the model, heads as ``heads.NAME``.
        names: of parts or groups.

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
        elif name not in PART_GROUPS["all"]:  # a model may lack a prefix or a prior
            known = [*PART_GROUPS, *parts]
            raise RecipeError(f"the model has no part {name!r}.{suggest(name, known)} Available: {', '.join(known)}")
    return expanded
