"""What every head must do."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, ClassVar
from unittest import SkipTest

import numpy as np
import torch
from torch import Tensor

from splitreg.assembly.labels import LABELLED
from splitreg.imaging import Geometry
from splitreg.interfaces import FeatureSpec, Head
from splitreg.tasks import Prediction, Target
from splitreg.testing.suite import Suite, expect, skip
from splitreg.testing.targets import empty_target, some_target

_STRIDES = (4, 8, 16, 32)


class HeadSuite(Suite):
    """Losses, predictions, metrics and pictures.

    A head with a task of its own overrides ``make_target`` (and ``make_empty_target``).

    Attributes:
        size: (height, width) of the network's input.
        labels: class names; none are given to a task that has none.
    """

    kind: ClassVar[str] = "head"
    interface: ClassVar[type[Any]] = Head
    leading: ClassVar[int] = 2
    size: ClassVar[tuple[int, int]] = (64, 96)
    labels: ClassVar[tuple[str, ...]] = ("cat", "dog", "cow")

    def make_target(self, seed: int) -> Target:
        """Return a target with something in it."""
        target = some_target(self.load().task, len(self.labels), self.size, seed)
        if target is None:
            raise SkipTest(f"the task {self.load().task!r} is the plugin's own: override HeadSuite.make_target")
        return target

    def make_empty_target(self) -> Target | None:
        """Return a target in which nothing is known or present, or None where there is no such thing."""
        return empty_target(self.load().task, len(self.labels), self.size)

    def make(self, available: Sequence[int] = _STRIDES) -> Head:
        """Return one for a body that offers these strides; always the same weights."""
        torch.manual_seed(0)
        made = self.load()
        needs = tuple(made.select(available))
        features = {stride: FeatureSpec(channels=8 + stride, stride=stride) for stride in needs}
        labelled = made.task in LABELLED or some_target(made.task, 1, self.size, 0) is None
        head: Head = made(features, self.labels if labelled else (), **self.options)
        head.needs = needs
        return head

    def features(self, head: Head, batch: int = 2, device: str = "cpu") -> dict[int, Tensor]:
        """Return what it reads, always the same."""
        found = {}
        for stride in head.needs:
            generator = torch.Generator().manual_seed(stride)
            size = (-(-side // stride) for side in self.size)
            found[stride] = torch.randn(batch, 8 + stride, *size, generator=generator).to(device)
        return found

    def predictions(self, batch: int = 2) -> list[Prediction]:
        """Return its predictions, untrained."""
        head = self.make().eval()
        with torch.no_grad():
            found: list[Prediction] = head.predict(head(self.features(head, batch), self.size))
        return found

    def test_names(self) -> None:
        """Task, primary metric and its direction are stated on the class."""
        made = self.load()
        expect(made.task and isinstance(made.task, str), "task is empty")
        expect(made.primary and isinstance(made.primary, str), "primary, the metric that sums it up, is empty")
        expect(isinstance(made.lower_is_better, bool), "lower_is_better must be True or False")

    def test_any_body(self) -> None:
        """It chooses strides from whatever a body offers, and runs on them."""
        for available in ((4, 8, 16, 32), (2, 4, 8, 16, 32), (8, 16, 32), (16,), (32,), (4,)):
            chosen = tuple(self.load().select(available))
            expect(chosen, f"select{available} chooses nothing")
            head = self.make(available).eval()
            with torch.no_grad():
                found = head.predict(head(self.features(head), self.size))
            expect(len(found) == 2, f"with strides {available} it predicts {len(found)} times for 2 images")

    def test_plan_without_weights(self) -> None:
        """It can be built and run on the meta device."""
        with torch.device("meta"):
            head = self.make().eval()
            with torch.no_grad():
                head(self.features(head, device="meta"), self.size)

    def test_loss_trains(self) -> None:
        """The loss is finite scalars by name, with gradients to the features and to every parameter it trains."""
        head = self.make().train()
        features = {stride: feature.requires_grad_() for stride, feature in self.features(head).items()}
        parts = head.loss(head(features, self.size), [self.make_target(0), self.make_target(1)])
        expect(isinstance(parts, dict) and parts, "loss must return a dict of its parts")
        for name, part in parts.items():
            fine = isinstance(part, Tensor) and part.ndim == 0 and bool(torch.isfinite(part))
            expect(fine, f"part {name!r} of the loss must be a finite scalar, got {part}")
        total = sum(parts.values(), torch.zeros(()))
        expect(total.requires_grad, "the loss has no gradient")
        total.backward()  # type: ignore[no-untyped-call]
        reached = [
            f.grad is not None and bool(torch.isfinite(f.grad).all() and f.grad.any()) for f in features.values()
        ]
        expect(any(reached), "no gradient reaches the features")
        for name, parameter in head.named_parameters():
            fine = parameter.grad is None or bool(torch.isfinite(parameter.grad).all())
            expect(fine, f"the gradient of {name} is not finite")

    def test_loss_of_nothing(self) -> None:
        """Targets in which nothing is known or present give a finite loss that can be trained on."""
        empty = self.make_empty_target()
        if empty is None:
            skip("a target of this task is never empty")
            return
        for targets in ([empty, empty], [self.make_target(0), empty]):
            head = self.make().train()
            total = sum(head.loss(head(self.features(head), self.size), targets).values(), torch.zeros(()))
            expect(torch.isfinite(total), f"the loss is {total.item()}")
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
            fine = all(p.grad is None or torch.isfinite(p.grad).all() for p in head.parameters())
            expect(fine, "a gradient is not finite")

    def test_predictions(self) -> None:
        """One typed prediction an image; the same alone and in a batch."""
        together = self.predictions()
        expect(len(together) == 2, f"it predicts {len(together)} times for 2 images")
        expect(all(isinstance(p, Prediction) for p in together), "predictions must be splitreg.tasks.Prediction")
        head = self.make().eval()
        with torch.no_grad():
            first = {s: f[:1] for s, f in self.features(head).items()}
            alone = head.predict(head(first, self.size))[0]
        for name, array in together[0].arrays().items():
            other = alone.arrays()[name]
            expect(array.shape == other.shape, f"{name} has another shape when the image is alone in its batch")
            if np.issubdtype(array.dtype, np.floating):
                expect(np.allclose(array, other, rtol=1e-3, atol=1e-3), f"{name} depends on the rest of the batch")

    def test_half_precision(self) -> None:
        """Under autocast to bfloat16 it predicts plain floats, about the same."""
        head = self.make().eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found = head.predict(head(self.features(head), self.size))
        for one in found:
            for name, array in one.arrays().items():
                fine = not np.issubdtype(array.dtype, np.floating) or bool(np.isfinite(array).all())
                expect(fine, f"{name} is not finite in half precision")

    def test_predictions_can_be_used(self) -> None:
        """They map back to the original image, draw on it, become JSON, and give exact arrays."""
        original = (100, 75)
        picture = np.zeros((*original, 3), np.uint8)
        truth = [self.make().truth(self.make_target(0))]
        for mode in ("letterbox", "resize"):
            geometry = Geometry(original=original, coded=self.size, mode=mode)
            for prediction in (*self.predictions(), *truth):
                restored = prediction.restore(geometry)
                expect(type(restored) is type(prediction), "restore must return its own type")
                drawn = restored.draw(picture)
                fine = drawn.dtype == np.uint8 and drawn.ndim == 3 and drawn.shape[2] == 3
                expect(fine, f"draw must return (H, W, 3) uint8, got {drawn.shape} {drawn.dtype}")
                expect(not picture.any(), "draw changes the picture that it is given")
                json.dumps(restored.to_json(), allow_nan=False)
                arrays = restored.arrays()
                expect(
                    arrays and all(isinstance(a, np.ndarray) for a in arrays.values()), "arrays must be numpy arrays"
                )

    def test_metric(self) -> None:
        """The metric gives floats by name, ``primary`` among them, and the truth beats an untrained head."""
        head, targets = self.make(), [self.make_target(0), self.make_target(1)]
        scores = []
        for predictions in ([head.truth(target) for target in targets], self.predictions()):
            metric = head.metric()
            metric.update(predictions, targets)
            values = metric.compute()
            expect(head.primary in values, f"compute gives {sorted(values)}, primary is {head.primary!r}")
            expect(all(isinstance(v, float) for v in values.values()), "compute must give floats")
            scores.append(-values[head.primary] if head.lower_is_better else values[head.primary])
        perfect, untrained = scores
        expect(not math.isnan(perfect), f"the truth has {head.primary} = NaN")
        expect(perfect >= untrained, f"an untrained head has a better {head.primary} than the truth")

    def test_metric_of_nothing(self) -> None:
        """A fresh metric and one that saw only empty targets compute without an error."""
        head, empty = self.make(), self.make_empty_target()
        if empty is None:
            skip("a target of this task is never empty")
            return
        metric = head.metric()
        metric.update(self.predictions(), [empty, empty])
        expect(head.primary in metric.compute(), f"{head.primary} is missing where nothing could be measured")

    def test_state_is_complete(self) -> None:
        """A fresh one with the same state gives the same predictions."""
        head, fresh = self.make().eval(), self.make().eval()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(1.01)
        fresh.load_state_dict(head.state_dict())
        with torch.no_grad():
            first, second = (h.predict(h(self.features(h), self.size))[0].arrays() for h in (head, fresh))
        for name, array in first.items():
            same = array.shape == second[name].shape and array.tobytes() == second[name].tobytes()
            expect(same, f"the state dict lacks something: {name} differs")
