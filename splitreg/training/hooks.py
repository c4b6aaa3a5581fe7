"""Callbacks, and an own optimiser, schedule or augmentation, in the Python API of training.

A recipe stays plain data; what is code is passed to ``train``::

    class Printer(Callback):
        def on_epoch(self, state, line):
            print(state.stage, line["train"]["loss"])

    hooks = Hooks(callbacks=(Printer(),), optimizer=functools.partial(torch.optim.NAdam, lr=1e-3))
    train(recipe, "runs/first", options=TrainOptions(hooks=hooks))
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from splitreg.assembly import Trainable
from splitreg.components import import_object
from splitreg.errors import RecipeError, suggest
from splitreg.registry import extensions, load_extension
from splitreg.tasks import Sample

OptimizerFactory = Callable[[list[Parameter]], Optimizer]
ScheduleFunction = Callable[[int, int, int], float]
Augmentation = Callable[[Sample], Sample]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainState:
    """What a callback may read.

    Args:
        model: the model in training; its weights may be read at any time.
        folder: folder of the run.
        stage: name of the stage; empty before the first and after the last one.
        epoch: number of the epoch in the stage, from 0.
        step: steps of the whole run so far.
        lr: learning rate of the last step; 0 before the first.
        rank: number of this process; 0 without ``torchrun``.
    """

    model: Trainable
    folder: Path
    stage: str
    epoch: int
    step: int
    lr: float
    rank: int


class Callback:
    """Called while a model is trained; override what is needed.

    Contract:

    - The order is ``on_start``, then per step ``on_step``, after each epoch ``on_epoch``, then ``on_end``.
    - Callbacks are called in the order of ``Hooks.callbacks``, on every process (see ``TrainState.rank``).
    - They read. One that changes weights or random state makes a resumed run differ from one that was
      not interrupted.
    - Whatever a callback raises ends the run like an error in training; the checkpoints stay, and
      ``on_end`` is still called. To end a run on purpose, raise ``TrainingError``.
    - A callback has no state in checkpoints. When a run is resumed, ``on_start`` is called with
      ``state.step > 0``.
    """

    def on_start(self, state: TrainState) -> None:
        """Before the first step of this call of ``train``."""

    def on_step(self, state: TrainState, losses: Mapping[str, Tensor]) -> None:
        """After a step of the optimiser.

        Args:
            state: the state after the step.
            losses: ``loss``, ``bits`` and their parts, detached and on the model's device. Reading a number
                (``.item()``) waits for the device.
        """

    def on_epoch(self, state: TrainState, line: Mapping[str, Any]) -> None:
        """After an epoch and its validation, before its checkpoint.

        Args:
            state: the state after the epoch.
            line: the epoch's line of ``log.jsonl``: ``train``, ``val`` if it was validated, ``seconds``, ...
        """

    def on_end(self, state: TrainState, error: BaseException | None) -> None:
        """Once at the end of this call of ``train``.

        Args:
            state: the last state.
            error: why it ended early; ``TrainingInterrupted`` after a signal; None if it is complete.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Code that a recipe cannot hold. It applies to all stages and replaces what the recipe says.

    ``optimizer``, ``schedule`` and ``augment`` may be a callable, the name of an entry point
    ``splitreg.optimizer``, ``splitreg.schedule`` or ``splitreg.augmentation``, or an import path
    ``"package.module:name"``. A run must be resumed with the same three.

    Args:
        callbacks: called while the model is trained.
        optimizer: from the list of parameters to the optimiser; the schedule scales the ``lr`` of its
            groups.
        schedule: from step, steps of the stage and steps per epoch to the factor on ``lr``.
        augment: from a ``Sample`` to a changed one, before it is resized; must take random numbers from
            torch's generator only.
    """

    callbacks: tuple[Callback, ...] = ()
    optimizer: OptimizerFactory | str | None = None
    schedule: ScheduleFunction | str | None = None
    augment: Augmentation | str | None = None

    def identity(self) -> dict[str, str]:
        """Return what is set, by name, for checkpoints."""
        values = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "callbacks"}
        return {name: _name(value) for name, value in values.items() if value is not None}

    def find_optimizer(self) -> OptimizerFactory | None:
        """Return the callable for ``optimizer``; see ``find``."""
        return find(self.optimizer, "optimizer")

    def find_schedule(self) -> ScheduleFunction | None:
        """Return the callable for ``schedule``; see ``find``."""
        return find(self.schedule, "schedule")

    def find_augment(self) -> Augmentation | None:
        """Return the callable for ``augment``; see ``find``."""
        return find(self.augment, "augmentation")


def find(value: _T | str | None, group: str) -> _T | None:
    """Return the object that is given itself, by the name of an entry point, or by an import path.

    Raises:
        RecipeError: no entry point of that name, or the object cannot be called.
        BrokenComponent: the import fails.
    """
    result: Any = value
    if isinstance(value, str) and ":" in value:
        result = import_object(value, f"{group} {value}")
    elif isinstance(value, str):
        known = extensions(group)
        if value not in known:
            raise RecipeError(
                f"no {group} {value!r} is declared by an installed package.{suggest(value, known)} Available: "
                f"{', '.join(known) or 'none'}; or give an import path 'package.module:name'"
            )
        result = load_extension(known[value])
    if result is not None and not callable(result):
        raise RecipeError(f"the {group} {_name(value)} cannot be called")
    return result  # type: ignore[no-any-return]


def _name(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, functools.partial):
        arguments = [*map(repr, value.args), *(f"{name}={item!r}" for name, item in value.keywords.items())]
        return f"{_name(value.func)}({', '.join(arguments)})"
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"
