"""Datasets of a recipe: opened with the classes that the recipe chooses, renames and merges.

Every place that opens or describes a dataset of a recipe uses ``open_dataset`` and ``describe_dataset``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from splitreg.data.classes import match_names
from splitreg.data.wrapper import DatasetWrapper
from splitreg.errors import RecipeError, suggest
from splitreg.recipe import DataPart
from splitreg.registry import Registry
from splitreg.specs import TargetSpec
from splitreg.tasks import SEGMENTATION, Sample

#: First class of a segmentation that stays, and takes the pixels of classes that were not chosen.
BACKGROUND = "background"

Classes = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The classes of one target after a choice.

    Args:
        labels: new class names.
        indexes: for each old class the index of the new one; None: left out.
    """

    labels: tuple[str, ...]
    indexes: tuple[int | None, ...]


class Selected(DatasetWrapper):
    """A dataset with other classes; everything else is the dataset's.

    Args:
        dataset: the dataset.
        classes: new class -> old classes; see ``select``.

    Raises:
        RecipeError: an old class that no target has.
    """

    def __init__(self, dataset: Any, classes: Classes) -> None:
        super().__init__(dataset)
        self.selections = select(dataset.targets, classes)
        self.targets: Mapping[str, TargetSpec] = _described(dataset.targets, self.selections)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = self.dataset[index]
        targets = dict(sample.targets)
        for name, selection in self.selections.items():
            target = targets.get(name)
            if target is not None:
                targets[name] = target.relabel(selection.indexes, len(selection.labels))
        return replace(sample, targets=targets)


class Renamed:
    """A dataset whose targets have other names.

    Args:
        dataset: the dataset.
        rename: values by target name -> the same under other names; it may leave some out.
    """

    def __init__(self, dataset: Any, rename: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        self.dataset, self._rename = dataset, rename
        self.targets: Mapping[str, TargetSpec] = rename(dataset.targets)
        self.clips = getattr(dataset, "clips", ())

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = self.dataset[index]
        return replace(sample, targets=self._rename(sample.targets))


def select(targets: Mapping[str, TargetSpec], classes: Classes) -> dict[str, Selection]:
    """Choose, rename and merge the classes of a dataset's targets.

    A target that has none of the classes stays as it is. Objects of a class that is left out are dropped, images of
    such a class have no target, and its pixels are unknown; in a segmentation with a ``background`` that was not
    chosen, that class stays the first one, and takes them.

    Args:
        targets: target name -> task and labels.
        classes: new class -> old classes.

    Returns:
        Target name -> its choice.

    Raises:
        RecipeError: an old class that no target has.
    """
    olds = [old for group in classes.values() for old in group]
    places = {name: dict(zip(olds, match_names(spec.labels, olds), strict=True)) for name, spec in targets.items()}
    missing = [old for old in olds if all(place[old] is None for place in places.values())]
    if missing:
        known = list(dict.fromkeys(label for spec in targets.values() for label in spec.labels))
        raise RecipeError(
            f"classes: the dataset has no class {missing[0]!r}.{suggest(missing[0], known)} It has {', '.join(known)}"
        )
    return {
        name: _choice(targets[name], classes, place)
        for name, place in places.items()
        if any(index is not None for index in place.values())
    }


def _choice(spec: TargetSpec, classes: Classes, places: Mapping[str, int | None]) -> Selection:
    groups = {new: [index for old in group if (index := places[old]) is not None] for new, group in classes.items()}
    chosen = {new: group for new, group in groups.items() if group}
    first = next(iter(spec.labels), "")
    keeps = (
        spec.task == SEGMENTATION
        and first.casefold() == BACKGROUND
        and all(0 not in group for group in chosen.values())
    )
    indexes: list[int | None] = [0 if keeps else None] * len(spec.labels)
    for number, group in enumerate(chosen.values()):
        for old in group:
            indexes[old] = number + keeps
    return Selection(labels=((first,) if keeps else ()) + tuple(chosen), indexes=tuple(indexes))


def _described(targets: Mapping[str, TargetSpec], selections: Mapping[str, Selection]) -> dict[str, TargetSpec]:
    return {
        name: replace(spec, labels=selections[name].labels) if name in selections else spec
        for name, spec in targets.items()
    }


def describe_dataset(part: DataPart, registry: Registry) -> Mapping[str, TargetSpec]:
    """Return target name -> task and labels of a dataset of a recipe.

    Raises:
        RecipeError: an unknown option, a class that no target has, or no such target to rename.
        DataError: the folder has another layout.
    """
    component = registry.component("dataset", part.name)
    component.check_options(part.options)
    targets: Mapping[str, TargetSpec] = component.cls.describe(part.root, **part.options)
    for name in part.targets.keys() - targets.keys():
        raise RecipeError(
            f"there is no target {name!r} to rename.{suggest(name, targets)} Available: {', '.join(targets)}"
        )
    if part.classes:
        targets = _described(targets, select(targets, part.classes))
    return part.renamed(targets)


def open_dataset(part: DataPart, split: str, registry: Registry) -> Any:
    """Open a dataset of a recipe.

    Args:
        part: name, root, options, classes and names of targets.
        split: split of the dataset.
        registry: the installed plugins.

    Raises:
        RecipeError: an unknown option or value, or a class that no target has.
        DataError: a folder or a split is missing.
    """
    dataset = registry.create("dataset", part.name, part.root, split, options=part.options)
    if part.classes:
        dataset = Selected(dataset, part.classes)
    return Renamed(dataset, part.renamed) if part.targets else dataset
