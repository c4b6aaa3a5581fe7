"""Confidence intervals of metrics: a percentile bootstrap over images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics.utilities import dim_zero_sum

from splitreg.assembly import SplitModel
from splitreg.data.classes import ClassMapping
from splitreg.evaluation.packets import Observed, metric_of
from splitreg.tasks import Prediction, Target

#: Number of resamples; the ends of a 95 % interval then rest on 5 values each.
RESAMPLES = 200
#: Share of the resamples inside an interval.
CONFIDENCE = 0.95

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Interval of one metric of one head.

    Args:
        low: lower end; NaN if the metric could be measured in no resample.
        high: upper end.
        values: (R,) the metric of each resample. Resample r has the same images in every
            evaluation of the same images, so that two evaluations can be compared in pairs.
    """

    low: float
    high: float
    values: Floats

    @classmethod
    def of(cls, values: Floats) -> Interval:
        """Return the percentile interval of some resamples."""
        finite = values[np.isfinite(values)]
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(finite, [tail, 1 - tail]) if len(finite) else (np.nan, np.nan)
        return cls(low=float(low), high=float(high), values=values)


class Bootstrap:
    """Collects images of an evaluation: pass ``add`` as ``EvalOptions.observer``.

    The images are drawn with replacement, and every metric is computed again from its own state, so
    that the interval is that of the metric of the whole dataset, such as mAP, and not of a mean of
    values per image. Source: Efron 1979, doi:10.1214/aos/1176344552.

    Args:
        model: gives the heads' metrics.
        classes: head -> its classes of the dataset, see ``match_heads``.
        resamples: number of resamples.
        seed: of the draws.
    """

    def __init__(
        self,
        model: SplitModel,
        classes: Mapping[str, ClassMapping],
        *,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> None:
        self._model, self._classes = model, classes
        self._resamples, self._seed = resamples, seed
        self._images = 0
        self._states: dict[str, _States] = {}

    def add(self, observed: Observed) -> None:
        """Add one image."""
        for name, target in observed.targets.items():
            if name not in self._states:
                self._states[name] = _States(lambda name=name: self._metric(name))
            self._states[name].add(self._images, observed.predictions[name], target)
        self._images += 1

    def intervals(self) -> dict[str, dict[str, Interval]]:
        """Return head -> metric -> interval, for the heads with targets."""
        draws = np.random.default_rng(self._seed).integers(self._images, size=(self._resamples, self._images))
        result = {}
        for head, states in self._states.items():
            rows = list(states.compute(draws))
            result[head] = {name: Interval.of(np.array([row[name] for row in rows], np.float64)) for name in rows[0]}
        return result

    def _metric(self, head: str) -> Any:
        return metric_of(self._model.head(head), self._classes.get(head))


class _States:
    """The metric's state of each image, or the pairs themselves if its states cannot be added.

    Args:
        metric: returns a new metric of the head.
    """

    def __init__(self, metric: Any) -> None:
        self._metric = metric
        one = metric()
        self._names: dict[str, bool] = {}  # state -> is a list
        for name, default in one._defaults.items():
            if isinstance(default, list) or one._reductions[name] is dim_zero_sum:
                self._names[name] = isinstance(default, list)
            else:
                self._names = {}
                break
        self._places: list[int] = []
        self._rows: list[dict[str, Any]] = []
        self._pairs: list[tuple[Prediction, Target]] = []

    def add(self, image: int, prediction: Prediction, target: Target) -> None:
        """Add one image by its number in the evaluation."""
        self._places.append(image)
        if not self._names:
            self._pairs.append((prediction, target))
            return
        metric = self._metric()
        metric.update([prediction], [target])
        self._rows.append({name: getattr(metric, name) for name in self._names})

    def compute(self, draws: NDArray[np.int64]) -> Iterator[dict[str, float]]:
        """Yield the metric of each resample; ``draws`` (R, N) are numbers of images."""
        places = {image: row for row, image in enumerate(self._places)}
        for draw in draws:
            rows = [places[image] for image in draw.tolist() if image in places]
            metric = self._metric()
            if self._names:
                self._fill(metric, rows)
            elif rows:
                metric.update([self._pairs[i][0] for i in rows], [self._pairs[i][1] for i in rows])
            yield {name: float(value) for name, value in metric.compute().items()}

    def _fill(self, metric: Any, rows: Sequence[int]) -> None:
        counts = np.bincount(np.array(rows, np.int64), minlength=len(self._rows))
        for name, is_list in self._names.items():
            if is_list:
                setattr(metric, name, [item for row in rows for item in self._rows[row][name]])
            else:
                setattr(metric, name, self._sum(name, counts, getattr(metric, name)))
        metric._update_count = max(1, len(rows))  # otherwise compute() warns of a metric without data

    def _sum(self, name: str, counts: NDArray[np.int64], default: Tensor) -> Tensor:
        used = [(int(count), row[name]) for count, row in zip(counts, self._rows, strict=True) if count]
        total = torch.zeros_like(default)
        for count, state in used:
            total = total + count * state
        return total
