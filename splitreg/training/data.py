"""Datasets and data loaders of a recipe."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from splitreg.data.augmentations import with_preset
from splitreg.data.balancing import Balanced
from splitreg.data.loading import Batch, Loader, LoaderOptions, Mixture, Source
from splitreg.data.selection import open_dataset
from splitreg.data.transforms import Augment
from splitreg.errors import DataError, RecipeError, TrainingError
from splitreg.imaging import Preprocess
from splitreg.parsing import check_options, check_types, keyword_options
from splitreg.recipe import DataPart, Recipe
from splitreg.registry import Registry, discover
from splitreg.tasks import Sample
from splitreg.training import devices

#: Fraction of the training images that is held out where a dataset has no validation split.
HOLD_OUT = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Datasets:
    """Datasets of a run; without ``val`` there is no validation."""

    train: Source
    val: Source | None = None


def open_datasets(recipe: Recipe, registry: Registry | None = None) -> Datasets:
    """Open the datasets of a recipe, for training and validation.

    Raises:
        TrainingError: the recipe has no dataset.
        DataError: a folder or a split is missing.
    """
    if not recipe.data:
        raise TrainingError('the recipe has no dataset to train on; add for instance data = ["scenes"]')
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
        open_dataset(part, part.val, registry)
    except DataError:
        return False
    return True


def open_split(recipe: Recipe, split: str, registry: Registry | None = None) -> Source:
    """Open the datasets of a recipe for ``"train"`` or ``"val"``; each has its own split for that.

    Classes are chosen as the recipe says, and the images of ``"train"`` are balanced.

    Raises:
        RecipeError: a dataset does not have an option, or refuses a value.
        DataError: a folder or a split is missing.
    """
    registry = registry or discover()
    sources: list[Source] = [open_dataset(part, getattr(part, split), registry) for part in recipe.data]
    shares: list[float] | None = None
    if split == "train":
        pairs = zip(sources, recipe.data, strict=True)
        sources = [Balanced(source, part.balance) if part.balance else source for source, part in pairs]
        shares = [part.share for part in recipe.data if part.share is not None] or None
    return sources[0] if len(sources) == 1 else Mixture(sources, shares)


class Batches(Protocol):
    """The interface of ``Loader`` that the loop needs. A batch depends only on (seed, epoch, number)."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number ``start`` on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class DataLoaders:
    """Data loaders of a recipe.

    Args:
        recipe: gives the seed, the augmentation and the targets of the heads.
        datasets: the datasets.
        preprocess: the network's input.
        workers: data loading processes.
        augmented: augment training images as the recipe says.
        augment: replaces the augmentation of the recipe.
        change: applied to each batch, e.g. to replace images by cached latents; gets the batch, and whether
            it is for training.
    """

    recipe: Recipe
    datasets: Datasets
    preprocess: Preprocess
    workers: int = 0
    augmented: bool = True
    change: Callable[[Batch, bool], Batch] | None = None
    augment: Callable[[Sample], Sample] | None = None

    def train(self, batch_size: int) -> Batches:
        """Return shuffled batches; ``batch_size`` is the number of images over all processes.

        Raises:
            RecipeError: the batch cannot be shared evenly, or an invalid augmentation.
        """
        world = devices.world_size()
        if batch_size % world:
            raise RecipeError(
                f"batch_size {batch_size} cannot be shared by {world} processes; use a multiple of {world}"
            )
        options = LoaderOptions(
            batch_size=batch_size // world, seed=self.recipe.seed, workers=self.workers, drop_last=True,
            augment=(self.augment or augmentation(self.recipe.augment)) if self.augmented else None, targets=self._targets,
            rank=devices.rank(), world_size=world,
        )  # fmt: skip
        return self._loader(self.datasets.train, options, True)

    def val(self, batch_size: int) -> Batches | None:
        """Return the batches of the validation set in order, the same on every process; None without one."""
        if self.datasets.val is None:
            return None
        options = LoaderOptions(
            batch_size=batch_size, shuffle=False, workers=self.workers, targets=self._targets
        )  # fmt: skip
        return self._loader(self.datasets.val, options, False)

    @property
    def mixed(self) -> bool:
        """Whether images are augmented as the recipe says, with mosaic and mix-up."""
        return self.augmented and self.augment is None

    @property
    def _targets(self) -> frozenset[str]:
        return frozenset(head.target for head in self.recipe.heads if head.target is not None)

    def _loader(self, source: Source, options: LoaderOptions, training: bool) -> Batches:
        loader = Loader(source, self.preprocess, options)
        return loader if self.change is None else _Changed(loader, self.change, training)


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
    """Build the augmentation of a recipe.

    Raises:
        RecipeError: an unknown option, or a value out of range.
    """
    check_options(options, ["preset", *keyword_options(Augment)], "augment")
    check_types(Augment, options, "augment")
    try:
        return Augment(**with_preset(options))
    except (TypeError, ValueError) as cause:
        raise RecipeError(f"augment: {cause}") from cause
