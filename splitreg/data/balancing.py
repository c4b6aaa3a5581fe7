"""Balanced sampling: images of rare classes come more often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from splitreg.data.loading import Source
from splitreg.data.wrapper import DatasetWrapper
from splitreg.specs import TargetSpec
from splitreg.tasks import IGNORE, BoxTarget, ClassTarget, MaskTarget, MultiLabelTarget, Sample, Target


class Balanced(DatasetWrapper):
    """A dataset whose epochs have as many samples as it has, but repeat images of rare classes.

    An image is drawn in proportion to ``max(1 / f) ** power`` over its classes, where f is the part of the images
    that have the class. Images without any class count as one more class. ``power`` 0.5 is the repeat factor of
    LVIS (Gupta et al. 2019, arXiv:1908.03195) without a threshold; 1 gives every class the same frequency in a set
    with one class per image. Every image is read once, before the first epoch.

    Args:
        dataset: the dataset.
        power: 0 to 1.
    """

    def __init__(self, dataset: Source, power: float) -> None:
        super().__init__(dataset)
        self.power = power
        self.targets: Mapping[str, TargetSpec] = dataset.targets
        self._weights: NDArray[np.float64] | None = None

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = self.dataset[index]
        return sample

    @property
    def weights(self) -> NDArray[np.float64]:
        """(N,) weight of each sample, of sum N."""
        if self._weights is None:
            self._weights = image_weights(
                [classes_of(self.dataset[index]) for index in range(len(self.dataset))], self.power
            )
        return self._weights

    def order(self, generator: torch.Generator, count: int | None = None) -> Tensor:
        """Return the (count,) indexes of one shuffled epoch.

        An image of weight w comes floor(w) or ceil(w) times if ``count`` is the size of the dataset.
        """
        count = len(self) if count is None else count
        first = torch.randperm(len(self), generator=generator)
        ends = np.cumsum(self.weights[first.numpy()])
        points = (float(torch.rand((), generator=generator)) + np.arange(count)) * (ends[-1] / max(1, count))
        drawn = first[torch.from_numpy(np.searchsorted(ends, points, side="right").clip(max=len(self) - 1))]
        return drawn[torch.randperm(count, generator=generator)]


def image_weights(classes: list[frozenset[Any]], power: float) -> NDArray[np.float64]:
    """Return the weight of each image, of mean 1.

    Args:
        classes: the classes of each image.
        power: exponent of the inverse frequency.

    >>> image_weights([frozenset("a"), frozenset("a"), frozenset("a"), frozenset("b")], 1.0).round(2).tolist()
    [0.67, 0.67, 0.67, 2.0]
    """
    groups = [group or frozenset([None]) for group in classes]
    counts = Counter(name for group in groups for name in group)
    raw = np.array([max(len(groups) / counts[name] for name in group) ** power for group in groups])
    weights: NDArray[np.float64] = raw / raw.mean()
    return weights


def classes_of(sample: Sample) -> frozenset[tuple[str, int]]:
    """Return (target, class) of everything that a sample shows."""
    return frozenset(
        (name, index) for name, target in sample.targets.items() if target is not None for index in _indexes(target)
    )


def _indexes(target: Target) -> list[int]:
    if isinstance(target, ClassTarget):
        return [target.index]
    if isinstance(target, BoxTarget):
        return sorted(set(target.labels.tolist()))
    if isinstance(target, MultiLabelTarget):
        return (target.present == 1).nonzero().flatten().tolist()
    if isinstance(target, MaskTarget):
        return [int(index) for index in np.unique(target.mask.numpy()) if index != IGNORE]
    return []
