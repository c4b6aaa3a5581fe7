"""The parts of a recipe: plugins by name with their options, the input and the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from splitreg.errors import RecipeError
from splitreg.parsing import is_int, name_list, named, only, typed

if TYPE_CHECKING:
    from typing import Self

Options = Mapping[str, Any]
_T = TypeVar("_T")

REFUSE, IGNORE = "refuse", "ignore"
#: What to do with classes of a dataset that a head lacks.
UNKNOWN_CLASSES = (REFUSE, IGNORE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A plugin and its options: ``"fp"`` or ``{ name = "fp", channels = 24 }``."""

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
    """The bottleneck; ``source`` is ``"image"``, ``"feature"`` (at the cut) or None (its default)."""

    source: str | None = None

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Read a name or a table; its key ``from`` is the source."""
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
    """A head.

    Args:
        name: name in the model (key ``as``).
        plugin: name of the plugin (key ``name``).
        target: name of the dataset's target that trains it; the one of its task by default.
        labels: class names, which override those of the dataset; a number n means n unnamed classes.
        options: options of the plugin.
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
            raise RecipeError(f"{where}: labels must be a list of names, or a number, got {labels!r}")
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
    """A dataset.

    Args:
        root: its folder.
        train: split for training.
        val: split for validation.
        unknown_classes: ``"refuse"`` or ``"ignore"`` its classes that a head lacks.
        classes: class -> the dataset's classes that it stands for; empty: the dataset's own.
        balance: 0: every image once per epoch; 1: images of a class as often as the class is rare.
        targets: name of a target in the dataset -> its name in the recipe; an empty name leaves it out.
        share: part of an epoch that comes from this dataset, relative to the others'; None: all its images.
    """

    root: str | None = None
    train: str = "train"
    val: str = "val"
    unknown_classes: str = REFUSE
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    balance: float = 0.0
    targets: Mapping[str, str] = field(default_factory=dict)
    share: float | None = None

    @classmethod
    def parse(cls, value: Any, where: str) -> Self:
        """Read a name or a table with the keys of this class and the dataset's options."""
        table = named(value, where)
        targets = typed(table.pop("targets", {}), (Mapping,), f"{where}: targets")
        if not all(isinstance(name, str) for name in targets.values()):
            raise RecipeError(f"{where}: targets must map names to names, got {targets!r}")
        share = typed(table.pop("share", None), (int, float, type(None)), f"{where}: share")
        if share is not None and (isinstance(share, bool) or not 0 < share < float("inf")):
            raise RecipeError(f"{where}: share must be above 0, got {share!r}")
        root = typed(table.pop("root", None), (str, type(None)), f"{where}: root")
        train, val = (typed(table.pop(key, key), (str,), f"{where}: {key}") for key in ("train", "val"))
        unknown = table.pop("unknown_classes", REFUSE)
        if unknown not in UNKNOWN_CLASSES:
            raise RecipeError(f"{where}: unknown_classes must be {' or '.join(UNKNOWN_CLASSES)}, got {unknown!r}")
        classes = read_classes(table, where)
        balance = typed(table.pop("balance", 0.0), (int, float), f"{where}: balance")
        if not 0 <= balance <= 1:
            raise RecipeError(f"{where}: balance must be 0 to 1, got {balance}")
        return cls(
            name=table.pop("name"), root=root, train=train, val=val, unknown_classes=unknown, classes=classes,
            targets=dict(targets), balance=float(balance), share=None if share is None else float(share), options=table,
        )  # fmt: skip

    def to_mapping(self) -> dict[str, Any]:
        """Return the table that ``parse`` reads."""
        root = {} if self.root is None else {"root": self.root}
        unknown = {} if self.unknown_classes == REFUSE else {"unknown_classes": self.unknown_classes}
        chosen: dict[str, Any] = (
            {"classes": {n: list(olds) for n, olds in self.classes.items()}} if self.classes else {}
        )
        chosen |= {"balance": self.balance} if self.balance else {}
        chosen |= {} if self.share is None else {"share": self.share}
        chosen |= {"targets": dict(self.targets)} if self.targets else {}
        return {"name": self.name, **root, "train": self.train, "val": self.val, **unknown, **chosen, **self.options}

    def renamed(self, values: Mapping[str, _T]) -> dict[str, _T]:
        """Return the dataset's values by target, under the names of the recipe."""
        names = {name: self.targets.get(name, name) for name in values}
        return {name: values[original] for original, name in names.items() if name}


def read_classes(table: dict[str, Any], where: str) -> dict[str, tuple[str, ...]]:
    """Take ``classes`` out of a dataset's table: a list chooses classes, a table also renames and merges them.

    A string is left there: it is an option of some datasets.

    Raises:
        RecipeError: not names, none at all, or a class of the dataset twice.

    >>> read_classes({"classes": {"vehicle": ["car", "bus"], "person": "person"}}, "data")
    {'vehicle': ('car', 'bus'), 'person': ('person',)}
    """
    if isinstance(table.get("classes", ""), str):
        return {}
    value = table.pop("classes")
    where = f"{where}: classes"
    pairs = value.items() if isinstance(value, Mapping) else [(name, name) for name in name_list(value, where)]
    classes = {name: name_list(olds, f"{where}.{name}") for name, olds in pairs}
    names = [old for name, olds in pairs for old in name_list(olds, where)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names or not all(classes.values()):
        problem = f"{', '.join(twice)} twice" if twice else f"no class in {value!r}"
        raise RecipeError(f'{where}: {problem}; name each class once: {{ vehicle = ["car", "bus"] }}')
    return classes


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
    """The teacher: a trained model in ``bundle``, or a ``backbone`` with its options.

    ``start`` lists parts (``body``, ``heads``, ...) that are initialised with the bundle's weights.
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
        """Return it without folders, which other machines do not have."""
        if self.backbone is None:
            return replace(self, bundle=Path(self.bundle or "").name)
        weights = self.backbone.options.get("pretrained")
        own = {"pretrained": Path(weights).name} if isinstance(weights, str) else {}
        return replace(self, backbone=replace(self.backbone, options={**self.backbone.options, **own}))
