"""The recipe: what is asked, as data. TOML in, frozen dataclasses out, unknown keys refused with near names (no torch).

>>> recipe = Recipe.from_mapping({"backbone": "resnet50", "heads": ["det", {"name": "cls", "as": "kind"}]})
>>> [head.name for head in recipe.heads]
['det', 'kind']
>>> Recipe.from_mapping({"backbone": "resnet50", "heads": ["det"], "bottelneck": "fp"})
Traceback (most recent call last):
    ...
splitreg.errors.RecipeError: the recipe has no key 'bottelneck'. Did you mean 'bottleneck'?
"""

from __future__ import annotations

import copy
import itertools
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from splitreg.errors import RecipeError
from splitreg.overrides import apply_overrides, set_path
from splitreg.parsing import is_int, listed, name_list, named, only, typed
from splitreg.zoo import find_recipe

Options = Mapping[str, Any]
#: Of sums and products, in training and in serving; the first is single precision.
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")


def check_precision(value: str, where: str = "") -> None:
    """Refuse what is none of ``PRECISIONS``.

    Raises:
        RecipeError: it is none.
    """
    if value not in PRECISIONS:
        raise RecipeError(f"{where}precision must be one of {', '.join(PRECISIONS)}; got {value!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A plugin by name, with its options: ``"fp"`` or ``{ name = "fp", channels = 24 }``."""

    name: str
    options: Options = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Read a name or a table with ``name``."""
        table = named(value, where)
        return cls(name=table.pop("name"), options=table)

    def to_mapping(self) -> dict[str, Any]:
        """Return the table that ``parse`` reads."""
        return {"name": self.name, **self.options}


@dataclass(frozen=True, slots=True, kw_only=True)
class BottleneckPart(Part):
    """The bottleneck, and whether it reads the ``"image"`` or the ``"feature"`` at the cut (None: as it prefers)."""

    source: str | None = None

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Read a name or a table; ``from`` says what it reads."""
        table = named(value, where)
        source = table.pop("from", None)
        if source not in (None, "image", "feature"):
            raise RecipeError(f"{where}: from must be 'image' or 'feature', got {source!r}")
        return cls(name=table.pop("name"), source=source, options=table)

    def to_mapping(self) -> dict[str, Any]:
        """Return the table that ``parse`` reads."""
        return {"name": self.name, **({"from": self.source} if self.source else {}), **self.options}


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPart:
    """A head: ``plugin`` under its own ``name`` (``as``), trained by ``target`` (default: by its task).

    ``labels`` are class names and override the dataset's; a number n stands for n nameless classes.
    """

    name: str
    plugin: str
    target: str | None = None
    labels: tuple[str, ...] | None = None
    options: Options = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Read a name or a table with ``name``, ``as``, ``target``, ``labels`` and options."""
        table = named(value, where)
        plugin = table.pop("name")
        name = table.pop("as", plugin)
        if not isinstance(name, str) or not name or not name.replace("-", "").replace("_", "").isalnum():
            raise RecipeError(f"{where}: as must be letters, digits, hyphens and underscores, got {name!r}")
        labels = table.pop("labels", None)
        if isinstance(labels, int) and not isinstance(labels, bool) and labels > 0:
            labels = [f"class {index}" for index in range(labels)]
        if labels is not None and not (isinstance(labels, list | tuple) and all(isinstance(x, str) for x in labels)):
            raise RecipeError(f"{where}: labels must be a list of names or their number, got {labels!r}")
        return cls(
            name=name, plugin=plugin, options=table,
            target=typed(table.pop("target", None), (str, type(None)), f"{where}: target"),
            labels=None if labels is None else tuple(labels),
        )  # fmt: skip

    def to_mapping(self) -> dict[str, Any]:
        """Return the table that ``parse`` reads."""
        table: dict[str, Any] = {"name": self.plugin, "as": self.name}
        if self.target is not None:
            table["target"] = self.target
        if self.labels is not None:
            table["labels"] = list(self.labels)
        return {**table, **self.options}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataPart(Part):
    """A dataset: where it lies and which splits train and validate."""

    root: str | None = None
    train: str = "train"
    val: str = "val"

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Read a name or a table with ``root``, ``train``, ``val`` and options."""
        table = named(value, where)
        root = typed(table.pop("root", None), (str, type(None)), f"{where}: root")
        train, val = (typed(table.pop(key, key), (str,), f"{where}: {key}") for key in ("train", "val"))
        return cls(name=table.pop("name"), root=root, train=train, val=val, options=table)

    def to_mapping(self) -> dict[str, Any]:
        """Return the table that ``parse`` reads."""
        root = {} if self.root is None else {"root": self.root}
        return {"name": self.name, **root, "train": self.train, "val": self.val, **self.options}


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """The network's input: ``size`` [height, width], ``mode`` ``"letterbox"`` or ``"resize"``."""

    size: tuple[int, int] = (224, 224)
    mode: str = "letterbox"

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Read a table."""
        table = only(value, ("size", "mode"), where)
        size = table.get("size", [224, 224])
        if isinstance(size, int) and not isinstance(size, bool):
            size = [size, size]
        if not (isinstance(size, list | tuple) and len(size) == 2 and all(is_int(s) and 1 <= s <= 8192 for s in size)):
            raise RecipeError(f"{where}: size must be [height, width], each 1 to 8192; got {size!r}")
        mode = table.get("mode", "letterbox")
        if mode not in ("letterbox", "resize"):
            raise RecipeError(f"{where}: mode must be 'letterbox' or 'resize', got {mode!r}")
        return cls(size=(size[0], size[1]), mode=mode)

    def to_mapping(self) -> dict[str, Any]:
        """Return the table that ``parse`` reads."""
        return {"size": list(self.size), "mode": self.mode}


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherPart:
    """Whom the model learns from: a trained model at ``bundle``, or a ``backbone`` with its options.

    ``start`` names parts (``body``, ``heads``, ...) that begin with the bundle's weights.
    """

    bundle: str | None = None
    start: tuple[str, ...] = ()
    backbone: Part | None = None

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Read a table with ``bundle``, or with ``backbone`` and its options."""
        table = dict(typed(value, (Mapping,), where))
        if ("bundle" in table) == ("backbone" in table):
            raise RecipeError(f'{where} must be {{ bundle = "PATH" }} or {{ backbone = "resnet50" }}, got {value!r}')
        if "bundle" in table:
            table = only(table, ("bundle", "start"), where)
            start = name_list(table.get("start", []), f"{where}: start")
            return cls(bundle=typed(table["bundle"], (str,), f"{where}: bundle"), start=start)
        name = typed(table.pop("backbone"), (str,), f"{where}: backbone")
        return cls(backbone=Part(name=name, options=table))

    def to_mapping(self) -> dict[str, Any]:
        """Return the table that ``parse`` reads."""
        if self.backbone is None:
            return {"bundle": self.bundle, "start": list(self.start)}
        return {"backbone": self.backbone.name, **self.backbone.options}

    def portable(self) -> Self:
        """Return it without the folders that its files lie in, which mean nothing elsewhere."""
        if self.backbone is None:
            return replace(self, bundle=Path(self.bundle or "").name)
        weights = self.backbone.options.get("pretrained")
        own = {"pretrained": Path(weights).name} if isinstance(weights, str) else {}
        return replace(self, backbone=replace(self.backbone, options={**self.backbone.options, **own}))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of training.

    Args:
        epochs: passes over the data.
        train: what learns: ``all``, ``edge``, ``server``, ``heads``, ``prefix``, ``encoder``, ``decoder``, ``prior``,
            ``body`` or ``heads.NAME``.
        freeze: what does not, taken off ``train``; frozen parts run in eval mode.
        objectives: how the heads' losses are combined, and extra terms.
        rate_lambda: weight of the rate in bits per pixel of the network's input.
        rate_warmup: epochs over which ``rate_lambda`` rises from 0.
        optimizer: ``adamw``, ``adam`` or ``sgd`` with torch's options.
        schedule: ``one-cycle``, ``cosine``, ``multistep``, ``poly`` or ``constant``.
        batch_size: images a step, over all processes.
        clip: largest norm of the gradient; 0 does not clip.
        precision: ``32-true``, ``bf16-mixed`` or ``16-mixed``.
        average: decay of an exponential moving average of the weights, which replaces them at the end; 0: none.
    """

    name: str = "joint"
    epochs: int = 1
    train: tuple[str, ...] = ("all",)
    freeze: tuple[str, ...] = ()
    objectives: tuple[Part, ...] = (Part(name="sum"),)
    rate_lambda: float = 0.0
    rate_warmup: float = 0.0
    optimizer: Part = Part(name="adamw", options={"lr": 1e-3})
    schedule: Part = Part(name="one-cycle")
    batch_size: int = 16
    clip: float = 0.0
    precision: str = "32-true"
    average: float = 0.0

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Read a table."""
        table = only(value, cls.__dataclass_fields__, where)
        found: dict[str, Any] = {}
        for key, item in table.items():
            place = f"{where}: {key}"
            if key in ("train", "freeze"):
                found[key] = name_list(item, place)
            elif key == "objectives":
                found[key] = tuple(Part.parse(i, place) for i in listed(item))
            elif key in ("optimizer", "schedule"):  # a table alone changes options of the default
                usual = cls.__dataclass_fields__[key].default.name
                found[key] = Part.parse({"name": usual, **item} if isinstance(item, Mapping) else item, place)
            elif key in ("epochs", "batch_size"):
                found[key] = typed(item, (int,), place)
                if found[key] < 1:
                    raise RecipeError(f"{place} must be at least 1, got {item}")
            elif key in ("name", "precision"):
                found[key] = typed(item, (str,), place)
            else:
                found[key] = float(typed(item, (int, float), place))
                if not 0 <= found[key] < float("inf"):
                    raise RecipeError(f"{place} must be zero or more, got {item}")
        stage = cls(**found)
        check_precision(stage.precision, f"{where}: ")
        if stage.average >= 1:
            raise RecipeError(f"{where}: average must be below 1, got {stage.average}")
        return stage

    def to_mapping(self) -> dict[str, Any]:
        """Return the table that ``parse`` reads."""
        table: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        table.update(
            train=list(self.train), freeze=list(self.freeze), objectives=[o.to_mapping() for o in self.objectives],
            optimizer=self.optimizer.to_mapping(), schedule=self.schedule.to_mapping(),
        )  # fmt: skip
        return table


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything that a model and its training are made from. See ``docs/recipes.md`` for the keys."""

    backbone: Part
    heads: tuple[HeadPart, ...]
    bottleneck: BottleneckPart = BottleneckPart(name="fp")
    codec: Part | None = None
    cut: str | None = None
    input: Input = Input()
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
            path: the file; or a recipe of the zoo, ``zoo:recipes/camvid-small`` or by its name alone.
            overrides: ``"bottleneck.channels=24"`` and the like; values are TOML, else plain strings.

        Raises:
            RecipeError: no such file, not TOML, or a key or value that is not one.
        """
        try:
            table = tomllib.loads(find_recipe(path).read_text(encoding="utf-8"))
        except OSError as cause:
            raise RecipeError(f"cannot read the recipe {path}: {cause.strerror or cause}") from cause
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as cause:
            raise RecipeError(f"{path} is not TOML: {cause}") from cause
        return cls.from_mapping(table, overrides)

    @classmethod
    def from_mapping(cls, table: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
        """Read the tables of a recipe; the inverse of ``to_mapping``."""
        table = apply_overrides(_spelt_out(copy.deepcopy(dict(table))), overrides)
        table = only(table, cls.__dataclass_fields__, "the recipe")
        for key in ("backbone", "heads"):
            if key not in table:
                raise RecipeError(f"the recipe has no {key}; say for instance " + _EXAMPLE[key])
        heads = _spelt_out({"heads": table["heads"]})["heads"]  # an override may have set it to "det,seg"
        if not isinstance(heads, list | tuple) or not heads:
            raise RecipeError("heads must be a list of at least one head; say for instance " + _EXAMPLE["heads"])
        data = table.get("data", [])
        stages = table.get("stages", [])
        codec, teacher = table.get("codec"), table.get("teacher")
        recipe = cls(
            backbone=Part.parse(table["backbone"], "backbone"),
            heads=tuple(HeadPart.parse(head, f"heads[{i}]") for i, head in enumerate(heads)),
            bottleneck=BottleneckPart.parse(table["bottleneck"], "bottleneck"),
            codec=None if codec is None else Part.parse(codec, "codec"),
            cut=typed(table.get("cut"), (str, type(None)), "cut"),
            input=Input.parse(table.get("input", {}), "input"),
            data=tuple(DataPart.parse(d, f"data[{i}]") for i, d in enumerate(listed(data))),
            augment=dict(typed(table.get("augment", {}), (Mapping,), "augment")),
            teacher=None if teacher is None else TeacherPart.parse(teacher, "teacher"),
            stages=tuple(Stage.parse(s, f"stages[{i}]") for i, s in enumerate(listed(stages))),
            seed=typed(table.get("seed", 0), (int,), "seed"),
            sweep=_paths(typed(table.get("sweep", {}), (Mapping,), "sweep")),
        )  # fmt: skip
        names = [head.name for head in recipe.heads]
        for name in names:
            if names.count(name) > 1:
                raise RecipeError(f"two heads are named {name!r}; give one another name: {{ name = ..., as = ... }}")
        if not 0 <= recipe.seed < 2**63:
            raise RecipeError(f"seed must be 0 to 2**63 - 1, got {recipe.seed}")
        for key, values in recipe.sweep.items():
            if not isinstance(values, list | tuple) or not values:
                raise RecipeError(f"sweep.{key} must be a list of values, got {values!r}")
        return recipe

    def to_mapping(self) -> dict[str, Any]:
        """Return plain tables (JSON and TOML can hold them) from which ``from_mapping`` makes the same recipe."""
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
        """Yield every point of the sweep as (label, recipe); a recipe without one yields itself with an empty label.

        A key is a path (``bottleneck.channels``) or a stage's own (``rate_lambda``: in every stage).
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


_EXAMPLE = {"backbone": 'backbone = "resnet50"', "heads": 'heads = ["det", "seg"]'}


def _spelt_out(table: dict[str, Any]) -> dict[str, Any]:
    """Write short forms and the default bottleneck out, so that overrides find their places."""
    table = {"bottleneck": "fp", **table}
    if isinstance(table.get("heads"), str):
        table["heads"] = table["heads"].split(",")
    return {**table, **{key: listed(table.get(key, [])) for key in ("data", "stages")}}


def _paths(table: Mapping[str, Any]) -> dict[str, Any]:
    """Tables within tables as dotted paths: TOML reads ``bottleneck.channels = [8, 16]`` as a table."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        inner = _paths(value) if isinstance(value, Mapping) and value else {"": value}
        found.update({f"{key}.{rest}" if rest else key: item for rest, item in inner.items()})
    return found
