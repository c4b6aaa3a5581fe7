"""``Run``: what a training consists of before its first step."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path

from splitreg.assembly import Trainable
from splitreg.data.classes import ClassMapping, match_heads
from splitreg.data.loading import Source
from splitreg.recipe import Recipe
from splitreg.registry import Registry
from splitreg.training.data import DataLoaders
from splitreg.training.hooks import Hooks
from splitreg.training.teacher import Teacher


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run consists of, beside its options.

    Args:
        model: the model to train.
        recipe: resolved.
        folder: folder of the run.
        loaders: training and validation data.
        registry: for the objectives.
        teacher: for objectives that compare with one.
        advice: what to know before the first step, one sentence each.
        base: digest of weights that the model needs but does not contain; a run is resumed only with the same.
        hooks: callbacks, and an own optimiser or schedule.
    """

    model: Trainable
    recipe: Recipe
    folder: Path
    loaders: DataLoaders
    registry: Registry
    teacher: Teacher | None = None
    advice: tuple[str, ...] = ()
    base: str = ""
    hooks: Hooks = field(default_factory=Hooks)

    @functools.cached_property
    def train_classes(self) -> dict[str, ClassMapping]:
        """Head -> classes of the training data, matched by name."""
        return self._match(self.loaders.datasets.train)

    @functools.cached_property
    def val_classes(self) -> dict[str, ClassMapping]:
        """Head -> classes of the validation data, matched by name."""
        return self._match(self.loaders.datasets.val or self.loaders.datasets.train)

    def _match(self, source: Source) -> dict[str, ClassMapping]:
        heads = [head for head in self.model.plan.heads if head.name in self.model.heads]
        return match_heads(heads, source.targets, self.recipe.unknown_classes)
