"""Match the classes of a dataset with those of a head, by name.

Every place where predictions meet targets uses ``match_heads``: training, validation and evaluation. Teachers are
matched with ``match``. Classes are compared by index only where one side has numbers instead of names, such as
imported weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from splitreg.errors import DataError, suggest
from splitreg.recipe import REFUSE, UNKNOWN_CLASSES
from splitreg.specs import TargetSpec
from splitreg.tasks import Target

_NUMBER = re.compile(r"(?:class[ _-]?)?(\d+)", re.IGNORECASE)
_SEPARATORS = re.compile(r"[\s_-]+")
#: Number of names that a sentence lists.
_MAX_NAMES = 8


class LabelledHead(Protocol):
    """What matching reads of a planned head."""

    @property
    def name(self) -> str:
        """Name in the model."""
        ...

    @property
    def target(self) -> str:
        """Name of the dataset's target."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassMapping:
    """The classes of a dataset's target as classes of a head.

    Args:
        target: name of the target.
        labels: class names of the head.
        theirs: class names of the dataset.
        indexes: for each class of the dataset the index of the head's class, None where the head has none.
        by_number: matched by index, because one side has numbers instead of names.
    """

    target: str
    labels: tuple[str, ...] = ()
    theirs: tuple[str, ...] = ()
    indexes: tuple[int | None, ...] = ()
    by_number: bool = False

    @property
    def is_identity(self) -> bool:
        """Whether both have the same classes in the same order."""
        return self.indexes == tuple(range(len(self.labels)))

    @property
    def common(self) -> tuple[int, ...]:
        """Indexes of the head's classes that the dataset has."""
        return tuple(sorted(index for index in self.indexes if index is not None))

    @property
    def missing(self) -> tuple[str, ...]:
        """Classes of the head that the dataset lacks."""
        return tuple(label for index, label in enumerate(self.labels) if index not in self.indexes)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Classes of the dataset that the head lacks."""
        return tuple(label for label, index in zip(self.theirs, self.indexes, strict=True) if index is None)

    def apply(self, target: Target | None) -> Target | None:
        """Return a target with the head's class indexes; None if nothing of it is a class of the head.

        Raises:
            DataError: a target type of a plugin has no ``relabel``.
        """
        if target is None or self.is_identity:
            return target
        return target.relabel(self.indexes, len(self.labels))

    def __str__(self) -> str:
        """Return a sentence about the classes; an empty one if both sides have the same."""
        if self.by_number:
            return f"the {len(self.labels)} classes are matched by number, because one side has no names"
        notes = []
        if self.missing:
            notes.append(f"not in the dataset: {_names(self.missing)}")
        if self.unknown:
            notes.append(f"ignored, not in the model: {_names(self.unknown)}")
        if not notes:
            return ""
        common = [self.labels[index] for index in self.common]
        return (
            f"{len(common)} of {len(self.labels)} classes, matched by name: {_names(common)} ({'; '.join(notes)})"
        )  # fmt: skip


def match(labels: Sequence[str], theirs: Sequence[str]) -> tuple[tuple[int | None, ...], bool]:
    """Match class names: exactly, else ignoring case, spaces, hyphens and underscores.

    Args:
        labels: class names of a head.
        theirs: class names of the other side.

    Returns:
        For each of ``theirs`` an index into ``labels`` or None; and whether they were matched by number.

    >>> match(["cat", "traffic light"], ["traffic_light", "cat", "emu"])
    ((1, 0, None), False)
    >>> match(["class 0", "class 1"], ["cat", "emu"])
    ((0, 1), True)
    """
    numbered = _all_numbers(labels), _all_numbers(theirs)
    if numbered[0] != numbered[1] and len(labels) == len(theirs):
        return tuple(range(len(theirs))), True
    return match_names(labels, theirs), False


def match_names(labels: Sequence[str], theirs: Sequence[str]) -> tuple[int | None, ...]:
    """Match class names as ``match`` does, but never by number.

    >>> match_names(["class 0", "class 1"], ["cat", "class 0"])
    (None, 0)
    """
    exact = {label: index for index, label in enumerate(labels)}
    loose: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        loose.setdefault(_plain(label), []).append(index)
    indexes: list[int | None] = [exact.get(label) for label in theirs]
    used = {index for index in indexes if index is not None}
    for place, label in enumerate(theirs):
        if indexes[place] is None:
            near = [index for index in loose.get(_plain(label), []) if index not in used]
            if len(near) == 1:
                indexes[place] = near[0]
                used.add(near[0])
    return tuple(indexes)


def match_classes(head: str, labels: Sequence[str], target: str, theirs: Sequence[str], unknown: str) -> ClassMapping:
    """Match the classes of one target with those of a head.

    Args:
        head: name of the head, for messages.
        labels: its class names.
        target: name of the target.
        theirs: its class names.
        unknown: ``"refuse"`` or ``"ignore"`` classes that the head lacks.

    Raises:
        DataError: no class is common, or the dataset has classes that the head lacks.
    """
    if not labels or not theirs:  # a task without classes
        return ClassMapping(target=target)
    indexes, by_number = match(labels, theirs)
    mapping = ClassMapping(
        target=target, labels=tuple(labels), theirs=tuple(theirs), indexes=indexes, by_number=by_number
    )
    if not mapping.common:
        raise DataError(
            f"no class of target {target!r} is a class of head {head!r}: the dataset has {_names(theirs)}; the model "
            f"has {_names(labels)}. Use a dataset with the classes of the model"
        )
    if mapping.unknown and unknown == REFUSE:
        hint = suggest(mapping.unknown[0], mapping.missing)
        raise DataError(
            f"the dataset's classes differ from those of head {head!r}: target {target!r} has "
            f"{_names(mapping.unknown)}, which the model lacks.{hint} The model has {_names(labels)}. Set "
            f"unknown_classes to ignore (--unknown-classes ignore) to leave out their labels"
        )
    return mapping


def match_heads(
    heads: Iterable[LabelledHead], targets: Mapping[str, TargetSpec], unknown: str = REFUSE
) -> dict[str, ClassMapping]:
    """Match the classes of a dataset with those of each head.

    Args:
        heads: planned heads.
        targets: target name -> task and labels of the dataset.
        unknown: what to do with classes that a head lacks: ``"refuse"`` or ``"ignore"``.

    Returns:
        Head -> mapping; that of a head without a target in the dataset leaves targets as they are.

    Raises:
        DataError: see ``match_classes``; or ``unknown`` is neither.
    """
    if unknown not in UNKNOWN_CLASSES:
        raise DataError(f"unknown_classes must be {' or '.join(UNKNOWN_CLASSES)}, got {unknown!r}")
    return {
        head.name: match_classes(
            head.name, head.labels, head.target,
            targets[head.target].labels if head.target in targets else (), unknown,
        )
        for head in heads
    }  # fmt: skip


def _all_numbers(labels: Sequence[str]) -> bool:
    return all(_NUMBER.fullmatch(label.strip()) for label in labels)


def _plain(label: str) -> str:
    number = _NUMBER.fullmatch(label.strip())
    return str(int(number[1])) if number else _SEPARATORS.sub(" ", label.strip()).casefold()


def _names(labels: Sequence[str]) -> str:
    rest = len(labels) - _MAX_NAMES
    return ", ".join(labels[:_MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")
