"""A recipe's datasets as batches for the loop."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from splitreg.data.loading import Batch, Loader, Mixture, Source
from splitreg.data.transforms import Augment
from splitreg.errors import DataError, RecipeError, TrainingError, suggest
from splitreg.imaging import Preprocess
from splitreg.recipe import DataPart, Recipe
from splitreg.registry import Registry, discover
from splitreg.tasks import Target
from splitreg.training import devices
from splitreg.training.step import Work

#: Fraction of the training images that is held out where a dataset has no validation split.
HOLD_OUT = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Datasets:
    """What a run reads; without ``val`` nothing is validated."""

    train: Source
    val: Source | None = None


def open_datasets(recipe: Recipe, registry: Registry | None = None) -> Datasets:
    """Open the datasets of a recipe, for training and validation.

    Raises:
        TrainingError: the recipe names none.
        DataError: a folder or a split is not there.
    """
    if not recipe.data:
        raise TrainingError('the recipe names no dataset to train on; say for instance data = ["scenes"]')
    recipe = hold_out_validation(recipe, registry)
    return Datasets(train=open_split(recipe, "train", registry), val=open_split(recipe, "val", registry))


def hold_out_validation(recipe: Recipe, registry: Registry | None = None) -> Recipe:
    """Set ``hold_out`` for datasets that have ``train`` but no ``val``, with a warning.

    Only where the recipe says nothing else: it names neither another split to validate on nor ``hold_out``, and the
    dataset has that option.
    """
    registry = registry or discover()
    parts = []
    for part in recipe.data:
        if part.val == "val" and "hold_out" not in part.options and _has_hold_out(part, registry):
            held = replace(part, options={**part.options, "hold_out": HOLD_OUT})
            if not _opens(part, registry) and _opens(held, registry):
                warnings.warn(
                    f"dataset {part.name!r} has no split 'val': {HOLD_OUT:.0%} of its images for training are held out "
                    f"for validation (hold_out = {HOLD_OUT})",
                    stacklevel=3,
                )
                part = held
        parts.append(part)
    return replace(recipe, data=tuple(parts))


def _has_hold_out(part: DataPart, registry: Registry) -> bool:
    return "hold_out" in registry.component("dataset", part.name).parameters


def _opens(part: DataPart, registry: Registry) -> bool:
    try:
        registry.create("dataset", part.name, part.root, part.val, options=part.options)
    except DataError:
        return False
    return True


def open_split(recipe: Recipe, split: str, registry: Registry | None = None) -> Source:
    """Open one side of a recipe's datasets: ``"train"`` or ``"val"``, each dataset with the split it has for that.

    Raises:
        RecipeError: an option that a dataset does not have, or a value that it cannot take.
        DataError: a folder or a split is not there.
    """
    registry = registry or discover()
    found: list[Source] = []
    for part in recipe.data:
        found.append(registry.create("dataset", part.name, part.root, getattr(part, split), options=part.options))
    return found[0] if len(found) == 1 else Mixture(found)


class Batches(Protocol):
    """What the loop reads; ``Loader`` is one. Every batch depends on (seed, epoch, number) and nothing else."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number ``start`` on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DataLoaders:
    """A recipe's datasets as batches.

    Args:
        recipe: its seed and augmentation.
        datasets: what is read.
        preprocess: the network's input.
        workers: processes that load ahead.
        augmented: change the training images at random, as the recipe says.
        change: applied to each batch, e.g. to put cached latents in the place of images.
    """

    recipe: Recipe
    datasets: Datasets
    preprocess: Preprocess
    workers: int = 0
    augmented: bool = True
    change: Callable[[Batch, bool], Batch] | None = None

    def train(self, batch_size: int) -> Batches:
        """Shuffled batches; ``batch_size`` counts the images of all processes.

        Raises:
            RecipeError: the batch cannot be shared evenly, or an augmentation is not one.
        """
        world = devices.world_size()
        if batch_size % world:
            raise RecipeError(
                f"batch_size {batch_size} cannot be shared by {world} processes; take a multiple of {world}"
            )
        loader = Loader(
            self.datasets.train, self.preprocess, batch_size=batch_size // world, seed=self.recipe.seed,
            augment=augmentation(self.recipe.augment) if self.augmented else None, workers=self.workers,
            rank=devices.rank(), world_size=world, drop_last=True,
        )  # fmt: skip
        return loader if self.change is None else _Changed(loader, self.change, True)

    def val(self, batch_size: int) -> Batches | None:
        """All batches of the validation set in order, on every process alike; None without such a set."""
        if self.datasets.val is None:
            return None
        loader = Loader(
            self.datasets.val, self.preprocess, batch_size=batch_size, shuffle=False, workers=self.workers
        )  # fmt: skip
        return loader if self.change is None else _Changed(loader, self.change, False)


@dataclass(frozen=True, slots=True)
class _Changed:
    loader: Loader
    change: Callable[[Batch, bool], Batch]
    training: bool

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        return (self.change(batch, self.training) for batch in self.loader.epoch(epoch, start))


def augmentation(options: Mapping[str, Any]) -> Augment:
    """Build the recipe's augmentation.

    Raises:
        RecipeError: an option that is not one, or a value out of range.
    """
    known = list(inspect.signature(Augment).parameters)
    for option in options:
        if option not in known:
            raise RecipeError(f"augment has no option {option!r}.{suggest(option, known)} It has: {', '.join(known)}")
    try:
        return Augment(**options)
    except (TypeError, ValueError) as cause:
        raise RecipeError(f"augment: {cause}") from cause


def to_work(batch: Batch, targets: Mapping[str, str], device: torch.device) -> Work:
    """Give each head the targets that the batch has for it.

    Args:
        batch: of a loader.
        targets: head -> name of the target that trains it.
        device: of the model.
    """
    if device.type != "cpu":
        batch = batch.to(device)
    given: dict[str, list[Target]] = {}
    select: dict[str, torch.Tensor | None] = {}
    for head, name in targets.items():
        found = batch.targets.get(name, [])
        rows = [row for row, target in enumerate(found) if target is not None]
        given[head] = [target for target in found if target is not None]
        select[head] = None if len(rows) == len(batch) else torch.tensor(rows, dtype=torch.int64, device=device)
    return Work(batch.images, given, select)
