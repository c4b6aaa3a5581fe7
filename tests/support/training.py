"""``train`` and ``train_late_head`` with the options as keywords."""

from dataclasses import fields
from typing import Any

from splitreg import training
from splitreg.training import LateResult, TrainOptions, TrainResult

_OPTIONS = tuple(field.name for field in fields(TrainOptions))


def _split(keywords: dict[str, Any]) -> dict[str, Any]:
    options = TrainOptions(**{name: keywords.pop(name) for name in _OPTIONS if name in keywords})
    return {"options": options, **keywords}


def train(recipe: Any, output: Any, **keywords: Any) -> TrainResult:
    return training.train(recipe, output, **_split(keywords))


def train_late_head(model: Any, recipe: Any, head: str, output: Any, **keywords: Any) -> LateResult:
    return training.train_late_head(model, recipe, head, output, **_split(keywords))
