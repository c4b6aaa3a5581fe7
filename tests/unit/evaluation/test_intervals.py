"""Bootstrap intervals: those of the metric itself, from its states or from the predictions."""

import numpy as np
import pytest
import torch
from torchmetrics.utilities import dim_zero_sum

from splitreg.evaluation.intervals import Bootstrap, Interval, _States
from splitreg.evaluation.metrics import Accuracy, LabelPrecision, MeanIoU
from splitreg.evaluation.packets import Observed
from splitreg.predictions import Classification, MultiLabel, Segmentation
from splitreg.tasks import ClassTarget, MaskTarget, MultiLabelTarget

NAMES = ("a", "b", "c")


def images(task, count=12):
    rng = np.random.default_rng(1)
    for _ in range(count):
        if task == "cls":
            yield (
                Classification(probabilities=rng.dirichlet([1, 1, 1]).astype(np.float32), names=NAMES),
                ClassTarget(index=int(rng.integers(3))),
            )
        elif task == "seg":
            mask = rng.integers(0, 3, (4, 4)).astype(np.uint8)
            yield (
                Segmentation(mask=rng.integers(0, 3, (4, 4)).astype(np.uint8), names=NAMES),
                MaskTarget(mask=torch.from_numpy(mask)),
            )
        else:
            present = torch.from_numpy(rng.integers(0, 2, 3).astype(np.float32))
            yield (
                MultiLabel(probabilities=rng.random(3).astype(np.float32), names=NAMES),
                MultiLabelTarget(present=present),
            )


@pytest.mark.parametrize(
    ("task", "metric"), [("cls", Accuracy), ("seg", lambda: MeanIoU(3)), ("labels", LabelPrecision)]
)
def test_states_give_what_the_metric_gives_on_the_drawn_images(task, metric):
    pairs = list(images(task))
    states = _States(metric)
    for number, pair in enumerate(pairs):
        states.add(number, *pair)
    draws = np.random.default_rng(0).integers(len(pairs), size=(5, len(pairs)))
    for draw, row in zip(draws, states.compute(draws), strict=True):
        expected = metric()
        expected.update([pairs[i][0] for i in draw], [pairs[i][1] for i in draw])
        assert row == pytest.approx(expected.compute())


def test_states_that_cannot_be_added_are_computed_from_predictions():
    class Odd(Accuracy):
        def __init__(self):
            super().__init__()
            self._reductions["top1"] = None

    assert Accuracy()._reductions["top1"] is dim_zero_sum
    pairs = list(images("cls", 4))
    states = _States(Odd)
    for number, pair in enumerate(pairs):
        states.add(number, *pair)
    (row,) = states.compute(np.array([[0, 0, 1, 2]]))
    expected = Accuracy()
    expected.update([pairs[i][0] for i in (0, 0, 1, 2)], [pairs[i][1] for i in (0, 0, 1, 2)])
    assert row == pytest.approx(expected.compute())


def test_two_evaluations_draw_the_same_images():
    class Model:
        def head(self, name):
            return type("Head", (), {"metric": staticmethod(Accuracy)})()

    pairs = list(images("cls", 30))
    results = []
    for _ in range(2):
        bootstrap = Bootstrap(Model(), {}, resamples=50)
        for number, (prediction, target) in enumerate(pairs):
            bootstrap.add(Observed(index=number, packet_bytes=1, predictions={"c": prediction}, targets={"c": target}))
        results.append(bootstrap.intervals()["c"]["top1"])
    assert np.array_equal(results[0].values, results[1].values) and results[0].low < results[0].high


def test_an_interval_without_a_finite_value():
    interval = Interval.of(np.array([np.nan, np.nan]))
    assert np.isnan(interval.low) and np.isnan(interval.high)
