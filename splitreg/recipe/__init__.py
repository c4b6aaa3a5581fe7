"""Recipes: TOML in, frozen dataclasses out; unknown keys are errors with near names. No torch.

>>> recipe = Recipe.from_mapping({"backbone": "resnet50", "heads": ["det", {"name": "cls", "as": "kind"}]})
>>> [head.name for head in recipe.heads]
['det', 'kind']
>>> Recipe.from_mapping({"backbone": "resnet50", "heads": ["det"], "bottelneck": "fp"})
Traceback (most recent call last):
    ...
splitreg.errors.RecipeError: the recipe has no key 'bottelneck'. Did you mean 'bottleneck'?
"""

from splitreg.recipe.parts import (
    IGNORE,
    REFUSE,
    UNKNOWN_CLASSES,
    BottleneckPart,
    DataPart,
    HeadPart,
    Input,
    Options,
    Part,
    TeacherPart,
)
from splitreg.recipe.recipe import Recipe
from splitreg.recipe.stage import PRECISIONS, Stage, check_precision

__all__ = [
    "IGNORE", "PRECISIONS", "REFUSE", "UNKNOWN_CLASSES", "BottleneckPart", "DataPart", "HeadPart", "Input", "Options",
    "Part", "Recipe", "Stage", "TeacherPart", "check_precision",
]  # fmt: skip
