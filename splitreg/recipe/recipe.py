"""``Recipe``: a model and its training as data."""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from splitreg.errors import RecipeError
from splitreg.overrides import apply_overrides, set_path
from splitreg.parsing import check_numbers, listed, only, typed
from splitreg.recipe.parts import IGNORE, REFUSE, BottleneckPart, DataPart, HeadPart, Input, Options, Part, TeacherPart
from splitreg.recipe.stage import Stage
from splitreg.zoo import find_recipe

if sys.version_info >= (3, 11):  # noqa: UP036
    import tomllib
else:
    import tomli as tomllib

#: Example of each required key, for errors.
_EXAMPLES = {"backbone": 'backbone = "resnet50"', "heads": 'heads = ["det", "seg"]'}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A model and its training; ``docs/recipes.md`` describes the keys."""

    backbone: Part
    heads: tuple[HeadPart, ...]
    bottleneck: BottleneckPart = field(default=BottleneckPart(name="fp"))
    codec: Part | None = None
    cut: str | None = None
    input: Input = field(default=Input())
    data: tuple[DataPart, ...] = ()
    augment: Options = field(default_factory=dict)
    teacher: TeacherPart | None = None
    stages: tuple[Stage, ...] = ()
    seed: int = 0
    sweep: Options = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
        """Read a TOML file.

        Args:
            path: the file; or ``zoo:recipes/NAME``, or ``NAME`` alone if there is no such file.
            overrides: ``"bottleneck.channels=24"`` and the like; values are TOML or plain strings.

        Raises:
            RecipeError: no such file, not TOML, or an invalid key or value.
        """
        try:
            table = tomllib.loads(find_recipe(path).read_text(encoding="utf-8"))
        except OSError as cause:
            raise RecipeError(f"cannot read the recipe {path}: {cause.strerror or cause}") from cause
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
            raise RecipeError(f"{path} is not valid TOML: {cause}") from cause
        return cls.from_mapping(table, overrides)

    @classmethod
    def from_mapping(cls, table: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
        """Read the tables of a recipe; the inverse of ``to_mapping``.

        Raises:
            RecipeError: an invalid key or value.
        """
        table = apply_overrides(_expand(copy.deepcopy(dict(table))), overrides)
        table = only(table, cls.__dataclass_fields__, "the recipe")
        check_numbers(table)
        for key, example in _EXAMPLES.items():
            if key not in table:
                raise RecipeError(f"the recipe has no {key}; add for instance {example}")
        heads = _expand({"heads": table["heads"]})["heads"]  # an override may be "det,seg"
        if not isinstance(heads, list | tuple) or not heads:
            raise RecipeError(
                f"heads must be a list of at least one head, for instance {_EXAMPLES['heads']}; got {heads!r}"
            )
        codec, teacher = table.get("codec"), table.get("teacher")
        recipe = cls(
            backbone=Part.parse(table["backbone"], "backbone"),
            heads=tuple(HeadPart.parse(head, f"heads[{i}]") for i, head in enumerate(heads)),
            bottleneck=BottleneckPart.parse(table["bottleneck"], "bottleneck"),
            codec=None if codec is None else Part.parse(codec, "codec"),
            cut=typed(table.get("cut"), (str, type(None)), "cut"),
            input=Input.parse(table.get("input", {}), "input"),
            data=tuple(DataPart.parse(d, f"data[{i}]") for i, d in enumerate(listed(table.get("data", [])))),
            augment=dict(typed(table.get("augment", {}), (Mapping,), "augment")),
            teacher=None if teacher is None else TeacherPart.parse(teacher, "teacher"),
            stages=tuple(Stage.parse(s, f"stages[{i}]") for i, s in enumerate(listed(table.get("stages", [])))),
            seed=typed(table.get("seed", 0), (int,), "seed"),
            sweep=_dotted(typed(table.get("sweep", {}), (Mapping,), "sweep")),
        )
        recipe._check()
        return recipe

    def _check(self) -> None:
        """Check rules that involve more than one value."""
        names = [head.name for head in self.heads]
        for name in names:
            if names.count(name) > 1:
                raise RecipeError(f"two heads are named {name!r}; rename one: {{ name = ..., as = ... }}")
        if not 0 <= self.seed < 2**63:
            raise RecipeError(f"seed must be 0 to 2**63 - 1, got {self.seed}")
        shares = [part.share for part in self.data]
        if None in shares and any(share is not None for share in shares):
            raise RecipeError(f"data: share is given for some datasets only ({shares}); give it for all, or for none")
        for key, values in self.sweep.items():
            if not isinstance(values, list | tuple) or not values:
                raise RecipeError(f"sweep.{key} must be a list of values, got {values!r}")

    @property
    def unknown_classes(self) -> str:
        """What to do with classes of the data that a head lacks: ignore them if any dataset says so."""
        return IGNORE if any(part.unknown_classes == IGNORE for part in self.data) else REFUSE

    def to_mapping(self) -> dict[str, Any]:
        """Return plain tables, for JSON and TOML; the inverse of ``from_mapping``."""
        table: dict[str, Any] = {
            "backbone": self.backbone.to_mapping(),
            "cut": self.cut,
            "bottleneck": self.bottleneck.to_mapping(),
            "codec": None if self.codec is None else self.codec.to_mapping(),
            "heads": [head.to_mapping() for head in self.heads],
            "input": self.input.to_mapping(),
            "data": [data.to_mapping() for data in self.data],
            "augment": dict(self.augment),
            "teacher": None if self.teacher is None else self.teacher.to_mapping(),
            "stages": [stage.to_mapping() for stage in self.stages],
            "seed": self.seed,
            "sweep": dict(self.sweep),
        }
        return {key: value for key, value in table.items() if value is not None}

    def points(self) -> Iterator[tuple[str, Recipe]]:
        """Yield every point of the sweep as (label, recipe); without a sweep, the recipe and an empty label.

        A key is a path (``bottleneck.channels``), or a key of a stage (``rate_lambda``) that is set in
        every stage.
        """
        table = {key: value for key, value in self.to_mapping().items() if key != "sweep"}
        for values in itertools.product(*self.sweep.values()):
            overridden = copy.deepcopy(table)
            for key, value in zip(self.sweep, values, strict=True):
                if key in Stage.__dataclass_fields__:
                    for index in range(len(self.stages)):
                        set_path(overridden, f"stages.{index}.{key}", value)
                else:
                    set_path(overridden, key, value)
            label = ",".join(f"{key}={value}" for key, value in zip(self.sweep, values, strict=True))
            yield label, Recipe.from_mapping(overridden)


def _expand(table: dict[str, Any]) -> dict[str, Any]:
    """Expand short forms and the default bottleneck, so that overrides can address them."""
    table = {"bottleneck": "fp", **table}
    if isinstance(table.get("heads"), str):
        table["heads"] = table["heads"].split(",")
    return {**table, **{key: listed(table.get(key, [])) for key in ("data", "stages")}}


def _dotted(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested tables as dotted paths: TOML reads ``bottleneck.channels = [8, 16]`` as a table."""
    paths: dict[str, Any] = {}
    for key, value in table.items():
        inner = _dotted(value) if isinstance(value, Mapping) and value else {"": value}
        paths.update({f"{key}.{rest}" if rest else key: item for rest, item in inner.items()})
    return paths
