"""The best weights of a stage by a metric of the validation, and when to stop early."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from torch import Tensor

from splitreg.assembly import Trainable
from splitreg.errors import RecipeError, suggest
from splitreg.interfaces import Head
from splitreg.training.validation import Validation

#: Name of the mean of the heads' primary metrics.
AUTO = "auto"


@dataclass(slots=True, kw_only=True)
class Best:
    """The best epoch of a stage so far.

    Args:
        metric: ``"HEAD.METRIC"`` or ``AUTO``.
        score: of that epoch; larger is better.
        epoch: its number in the stage; -1: none yet.
        weights: the state of the model after it.
    """

    metric: str
    score: float = -math.inf
    epoch: int = -1
    weights: dict[str, Tensor] | None = None

    def update(self, model: Trainable, validation: Validation, epoch: int) -> bool:
        """Keep the weights if the validation is better than all before; returns whether it is.

        Args:
            model: with the weights that were validated.
            validation: its result.
            epoch: number of the epoch.
        """
        score = score_of(self.metric, model, validation)
        if not score > self.score:
            return False
        self.score, self.epoch = score, epoch
        self.weights = copy_of(model)
        return True

    def exhausted(self, epoch: int, patience: int) -> bool:
        """Whether the last ``patience`` epochs up to this one have brought nothing better."""
        return bool(patience) and self.epoch >= 0 and epoch - self.epoch >= patience

    def state_dict(self) -> dict[str, Any]:
        """Return what ``load_state_dict`` reads."""
        return {"score": self.score, "epoch": self.epoch, "weights": self.weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        self.score, self.epoch, self.weights = state["score"], state["epoch"], state["weights"]


def copy_of(model: Trainable) -> dict[str, Tensor]:
    """Return a copy of the state of a model."""
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


def check_best(metric: str, heads: Mapping[str, Head]) -> None:
    """Check the name of a metric before the first validation.

    Args:
        metric: ``"HEAD.METRIC"``, ``AUTO`` or empty.
        heads: name -> head, on any device.

    Raises:
        RecipeError: there is no such head, or it has no such metric. A metric whose names need data is not checked.
    """
    if metric in ("", AUTO):
        return
    head, dot, name = metric.partition(".")
    if head not in heads or not dot or not name:
        raise RecipeError(
            f'best must be "{AUTO}" or HEAD.METRIC, with a head of {", ".join(heads)}; got {metric!r}.'
            f"{suggest(head, heads)}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torchmetrics: there are no predictions
            names = list(heads[head].metric().compute())
    except Exception:  # a plugin's metric may need data
        return
    if name not in names:
        _refuse(metric, [f"{head}.{each}" for each in names])


def _refuse(metric: str, names: Sequence[str]) -> NoReturn:
    raise RecipeError(
        f"best = {metric!r} is no metric of the validation.{suggest(metric, names)} There are: {', '.join(names)}"
    )


def score_of(metric: str, model: Trainable, validation: Validation) -> float:
    """Return the value of a metric, negated where lower is better; NaN if it was not measured.

    Raises:
        RecipeError: no head has such a metric.
    """
    if metric == AUTO:
        return _mean(
            -value if model.head(name).lower_is_better else value
            for name, values in validation.metrics.items()
            if (value := values.get(model.head(name).primary)) is not None
        )
    head, _, name = metric.partition(".")
    names = [f"{head}.{key}" for head, values in validation.metrics.items() for key in values]
    if metric not in names:
        _refuse(metric, names)
    value = validation.metrics[head][name]
    return -value if name == model.head(head).primary and model.head(head).lower_is_better else value


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan
