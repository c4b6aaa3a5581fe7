"""The recipe of a command with its overrides and the folder of its data."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from splitreg.recipe import Recipe


def read_recipe(recipe: str, overrides: tuple[str, ...], root: str | None) -> Recipe:
    """Read the recipe, with the folder of its data and, if it names no dataset, the one that recognises it."""
    from splitreg.data.recognition import detect
    from splitreg.overrides import text_override
    from splitreg.recipe import Recipe

    loaded = Recipe.read(recipe, overrides)
    if root is None:
        return loaded
    if not loaded.data:
        overrides = (*overrides, f'data=[{{name="{detect(root)[0]}"}}]')
    return Recipe.read(recipe, (*overrides, text_override("data.root", root)))
