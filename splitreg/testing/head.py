"""Conformance suite of heads."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from splitreg.assembly.labels import LABELLED
from splitreg.imaging import Geometry
from splitreg.interfaces import FeatureSpec, Head
from splitreg.predictions import GenericPrediction
from splitreg.registry import discover
from splitreg.tasks import Prediction, Target
from splitreg.testing.suite import Suite, expect, expect_report, skip
from splitreg.testing.targets import BorrowedTargets, borrow_targets, empty_target, some_target
from splitreg.testing.without_torch import import_on_device
from splitreg.wire import pack, unpack

_STRIDES = (4, 8, 16, 32)


class HeadSuite(Suite):
    """Losses, predictions, metrics and drawings.

    For a head with a new task the targets are those of an installed dataset, of the head's own package if it
    has one; or override ``make_target`` (and ``make_empty_target``).

    Attributes:
        size: (height, width) of the network's input.
        labels: class names; not used for a task without classes, or with targets of a dataset.
        root: folder of the dataset whose targets are used for a new task.
        channels: of all features; None: another number per stride.
    """

    kind: ClassVar[str] = "head"
    interface: ClassVar[type[Any]] = Head
    leading: ClassVar[int] = 2
    size: ClassVar[tuple[int, int]] = (64, 96)
    labels: ClassVar[tuple[str, ...]] = ("cat", "dog", "cow")
    root: ClassVar[str | None] = None
    channels: ClassVar[int | None] = None

    def make_target(self, seed: int) -> Target:
        """Return a target that is not empty."""
        target = some_target(self.load().task, len(self.labels), self.size, seed)
        if target is not None:
            return target
        targets = self._borrowed.targets
        expect(
            targets,
            f"nothing could be checked with targets: the task {self.load().task!r} is new, and no installed dataset "
            "has a target of it; add a dataset, give its folder with --root, or override HeadSuite.make_target",
        )
        return targets[seed % len(targets)]

    @functools.cached_property
    def _borrowed(self) -> BorrowedTargets:
        """Targets of an installed dataset, for a task that splitreg does not know."""
        registry, (spec, _) = self.registry or discover(), self.resolve()
        own = registry[self.kind][spec.name].package
        return borrow_targets(self.load().task, self.size, registry, own, self.root)

    def make_empty_target(self) -> Target | None:
        """Return a target in which nothing is known or present; None if the task has no empty targets."""
        return empty_target(self.load().task, len(self.labels), self.size)

    def make(self, available: Sequence[int] = _STRIDES) -> Head:
        """Return a head for a body with these strides; always with the same weights."""
        torch.manual_seed(0)
        cls = self.load()
        needs = tuple(cls.select(available))
        features = {stride: FeatureSpec(channels=self.channels or 8 + stride, stride=stride) for stride in needs}
        labelled = cls.task in LABELLED or some_target(cls.task, 1, self.size, 0) is None
        labels = self.labels if labelled else ()
        if some_target(cls.task, 1, self.size, 0) is None and type(self).make_target is HeadSuite.make_target:
            labels = self._borrowed.labels if self._borrowed.targets else labels
        head: Head = cls(features, labels, **self.options)
        head.needs = needs
        return head

    def features(self, head: Head, batch: int = 2, device: str = "cpu") -> dict[int, Tensor]:
        """Return input features; always the same."""
        features = {}
        for stride in head.needs:
            generator = torch.Generator().manual_seed(stride)
            size = (-(-side // stride) for side in self.size)
            features[stride] = torch.randn(batch, self.channels or 8 + stride, *size, generator=generator).to(device)
        return features

    def predictions(self, batch: int = 2) -> list[Prediction]:
        """Return predictions of the untrained head."""
        head = self.make().eval()
        with torch.no_grad():
            predictions: list[Prediction] = head.predict(head(self.features(head, batch), self.size))
        return predictions

    def test_class_attributes(self) -> None:
        """The class has ``task``, ``primary`` and ``lower_is_better``."""
        cls = self.load()
        expect(cls.task and isinstance(cls.task, str), "task must be a name")
        expect(cls.primary and isinstance(cls.primary, str), "primary must be the name of a metric")
        expect(isinstance(cls.lower_is_better, bool), "lower_is_better must be True or False")

    def test_any_strides(self) -> None:
        """It selects strides from any that a body may have, and runs on them."""
        for available in ((4, 8, 16, 32), (2, 4, 8, 16, 32), (8, 16, 32), (16,), (32,), (4,)):
            selected = tuple(self.load().select(available))
            expect(selected, f"select{available} returns no stride")
            head = self.make(available).eval()
            with torch.no_grad():
                predictions = head.predict(head(self.features(head), self.size))
            expect(
                len(predictions) == 2, f"with strides {available} there are {len(predictions)} predictions for 2 images"
            )

    def test_meta_device(self) -> None:
        """It can be built and run on the meta device, where a plan builds it."""
        with torch.device("meta"):
            head = self.make().eval()
            with torch.no_grad():
                head(self.features(head, device="meta"), self.size)

    def test_loss_and_gradients(self) -> None:
        """The loss is a dict of finite scalars, with finite gradients to features and parameters."""
        head = self.make().train()
        features = {stride: feature.requires_grad_() for stride, feature in self.features(head).items()}
        parts = head.loss(head(features, self.size), [self.make_target(0), self.make_target(1)])
        expect(isinstance(parts, dict) and parts, "loss must return a dict of its parts")
        for name, part in parts.items():
            valid = isinstance(part, Tensor) and part.ndim == 0 and bool(torch.isfinite(part))
            expect(valid, f"part {name!r} of the loss must be a finite scalar, got {part}")
        total = sum(parts.values(), torch.zeros(()))
        expect(total.requires_grad, "the loss has no gradient")
        total.backward()  # type: ignore[no-untyped-call]
        reached = [
            f.grad is not None and bool(torch.isfinite(f.grad).all() and f.grad.any()) for f in features.values()
        ]
        expect(any(reached), "no gradient reaches the features")
        for name, parameter in head.named_parameters():
            valid = parameter.grad is None or bool(torch.isfinite(parameter.grad).all())
            expect(valid, f"the gradient of {name} is not finite")

    def test_loss_of_empty_targets(self) -> None:
        """Targets in which nothing is known or present give a finite loss and gradient."""
        empty = self.make_empty_target()
        if empty is None:
            skip("this task has no empty targets")
            return
        for targets in ([empty, empty], [self.make_target(0), empty]):
            head = self.make().train()
            total = sum(head.loss(head(self.features(head), self.size), targets).values(), torch.zeros(()))
            expect(torch.isfinite(total), f"the loss is {total.item()}")
            if total.requires_grad:
                total.backward()  # type: ignore[no-untyped-call]
            valid = all(p.grad is None or torch.isfinite(p.grad).all() for p in head.parameters())
            expect(valid, "a gradient is not finite")

    def test_predictions(self) -> None:
        """There is one ``Prediction`` per image, which does not depend on the rest of the batch."""
        together = self.predictions()
        expect(len(together) == 2, f"there are {len(together)} predictions for 2 images")
        expect(
            all(isinstance(p, Prediction) for p in together), "predictions must be of type splitreg.tasks.Prediction"
        )
        head = self.make().eval()
        with torch.no_grad():
            first = {s: f[:1] for s, f in self.features(head).items()}
            alone = head.predict(head(first, self.size))[0]
        for name, array in together[0].arrays().items():
            other = alone.arrays()[name]
            expect(array.shape == other.shape, f"the shape of {name} depends on the rest of the batch")
            if np.issubdtype(array.dtype, np.floating):
                expect(np.allclose(array, other, rtol=1e-3, atol=1e-3), f"{name} depends on the rest of the batch")

    def test_autocast(self) -> None:
        """Under autocast to bfloat16 predictions are finite."""
        head = self.make().eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            predictions = head.predict(head(self.features(head), self.size))
        for prediction in predictions:
            for name, array in prediction.arrays().items():
                valid = not np.issubdtype(array.dtype, np.floating) or bool(np.isfinite(array).all())
                expect(valid, f"{name} is not finite under autocast")

    def test_restore_draw_and_json(self) -> None:
        """Predictions and truth can be restored to the original image, drawn, and serialised."""
        original = (100, 75)
        image = np.zeros((*original, 3), np.uint8)
        truth = [self.make().truth(self.make_target(0))]
        for mode in ("letterbox", "resize"):
            geometry = Geometry(original=original, coded=self.size, mode=mode)
            for prediction in (*self.predictions(), *truth):
                restored = prediction.restore(geometry)
                expect(type(restored) is type(prediction), "restore must return its own type")
                drawn = restored.draw(image)
                valid = drawn.dtype == np.uint8 and drawn.ndim == 3 and drawn.shape[2] == 3
                expect(valid, f"draw must return (H, W, 3) uint8, got {drawn.shape} {drawn.dtype}")
                expect(not image.any(), "draw changes its argument")
                json.dumps(restored.to_json(), allow_nan=False)
                arrays = restored.arrays()
                expect(
                    arrays and all(isinstance(a, np.ndarray) for a in arrays.values()), "arrays must be numpy arrays"
                )

    def test_predictions_travel(self) -> None:
        """A client without torch rebuilds a prediction of the plugin's own type from an answer."""
        prediction = self.predictions()[0]
        received = unpack(pack([{"head": prediction}]))[0]["head"]
        if isinstance(received, GenericPrediction):
            expect(not prediction.type_name, f"a client cannot rebuild the prediction: {received.note}")
            self.remark("clients receive its predictions as plain data: set type_name and add an entry point")
            return
        expect(type(received) is type(prediction), f"a client receives {type(received).__name__}")
        expect(received.to_json() == prediction.to_json(), "to_json differs on the client: see Prediction.fields")
        for name, array in prediction.arrays().items():
            expect(np.array_equal(array, received.arrays()[name], equal_nan=True), f"{name} differs on the client")
        expect_report(
            import_on_device(type(prediction).__module__), "a client without torch cannot read the prediction"
        )

    def test_metric(self) -> None:
        """The metric returns floats by name, with ``primary``; the truth scores best."""
        head, targets = self.make(), [self.make_target(0), self.make_target(1)]
        scores = []
        for predictions in ([head.truth(target) for target in targets], self.predictions()):
            metric = head.metric()
            metric.update(predictions, targets)
            values = metric.compute()
            expect(head.primary in values, f"compute returns {sorted(values)}, primary is {head.primary!r}")
            expect(all(isinstance(v, float) for v in values.values()), "compute must return floats")
            scores.append(-values[head.primary] if head.lower_is_better else values[head.primary])
        perfect, untrained = scores
        expect(not math.isnan(perfect), f"{head.primary} of the truth is NaN")
        expect(perfect >= untrained, f"{head.primary} of an untrained head is better than that of the truth")

    def test_metric_of_empty_targets(self) -> None:
        """A metric of empty targets computes without an error."""
        head, empty = self.make(), self.make_empty_target()
        if empty is None:
            skip("this task has no empty targets")
            return
        metric = head.metric()
        metric.update(self.predictions(), [empty, empty])
        expect(head.primary in metric.compute(), f"{head.primary} is missing for empty targets")

    def test_state_dict(self) -> None:
        """A new head with the same state dict has the same predictions."""
        head, fresh = self.make().eval(), self.make().eval()
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.mul_(1.01)
        fresh.load_state_dict(head.state_dict())
        with torch.no_grad():
            first, second = (h.predict(h(self.features(h), self.size))[0].arrays() for h in (head, fresh))
        for name, array in first.items():
            same = array.shape == second[name].shape and array.tobytes() == second[name].tobytes()
            expect(same, f"the state dict is incomplete: {name} differs")
