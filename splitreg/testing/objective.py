"""Conformance suite of objectives."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from splitreg.errors import SplitregError
from splitreg.interfaces import Objective, StepContext, TeacherCapabilities
from splitreg.specs import FeatureSpec, TargetSpec
from splitreg.tasks import CLASSIFICATION, SEGMENTATION
from splitreg.testing.suite import Suite, expect

_HEADS = ("cls", "seg")


class ObjectiveSuite(Suite):
    """Finite terms with gradients, also if a batch lacks targets or a teacher."""

    kind: ClassVar[str] = "objective"
    interface: ClassVar[type[Any]] = Objective
    leading: ClassVar[int] = 1

    def make(self) -> Objective:
        """Return an objective for the heads ``cls`` and ``seg``."""
        torch.manual_seed(0)
        objective: Objective = self.load()(_HEADS, **self.options)
        return objective

    def context(
        self, heads: tuple[str, ...] = _HEADS, *, teacher: bool = True, progress: float = 0.5
    ) -> tuple[StepContext, list[Tensor]]:
        """Return the context of a training step, and the tensors that gradients may reach."""
        generator = torch.Generator().manual_seed(0)

        def leaf(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator).requires_grad_()

        shared = leaf(16)
        inputs = {4: leaf(2, 8, 16, 16), 8: leaf(2, 16, 8, 8)}
        features = {4: inputs[4].view_as(inputs[4]), 8: inputs[8] * shared[:, None, None]}
        parts = {head: (leaf(), leaf()) for head in heads}
        ways = {head: torch.randn(16, 8, 8, generator=generator) for head in _HEADS}  # conflicting gradients
        losses = {head: {"a": a + (features[8] * ways[head]).mean().square(), "b": b} for head, (a, b) in parts.items()}
        outputs = {"cls": leaf(2, 3), "seg": leaf(2, 5, 16, 16)}
        latent, rate = leaf(2, 6, 8, 8), leaf(2)
        context = StepContext(
            losses=losses,
            rate=rate * 1000 + 1,
            images=torch.rand(2, 3, 64, 64, generator=generator),
            features=features,
            teacher={s: torch.rand(f.shape, generator=generator) for s, f in features.items()} if teacher else None,
            progress=progress,
            outputs={head: outputs[head] for head in heads},
            teacher_outputs={h: torch.rand(outputs[h].shape, generator=generator) for h in heads if teacher},
            latent=latent,
            shared=[shared],
        )
        leaves = [rate, latent, shared, *inputs.values(), *(outputs[head] for head in heads)]
        return context, [*leaves, *(part for both in parts.values() for part in both)]

    def capabilities(self) -> TeacherCapabilities:
        """Return the capabilities of student and teacher in ``context``."""
        labels = {"cls": (CLASSIFICATION, 3), "seg": (SEGMENTATION, 5)}
        return TeacherCapabilities(
            features={s: FeatureSpec(channels=c, stride=s) for s, c in ((4, 8), (8, 16))},
            heads={h: TargetSpec(task=t, labels=tuple(f"class {i}" for i in range(n))) for h, (t, n) in labels.items()},
        )

    def test_terms_are_finite_scalars(self) -> None:
        """Each term is a finite scalar at the start, in the middle and at the end of a stage."""
        for progress in (0.0, 0.5, 1.0):
            terms = self.make()(self.context(progress=progress)[0])
            expect(isinstance(terms, dict), "forward must return a dict of terms")
            for name, term in terms.items():
                valid = isinstance(term, Tensor) and term.ndim == 0 and bool(torch.isfinite(term))
                expect(valid, f"term {name!r} must be a finite scalar, got {term}")

    def test_gradients(self) -> None:
        """The sum of the terms has finite gradients."""
        objective = self.make()
        context, leaves = self.context()
        total = sum(objective(context).values(), torch.zeros(()))
        expect(total.requires_grad, "no term depends on losses, rate or features")
        total.backward()
        reached = [leaf for leaf in (*leaves, *objective.parameters()) if leaf.grad is not None]
        expect(reached, "no gradient reaches losses, rate, features or its own parameters")
        for leaf in reached:
            expect(leaf.grad is not None and torch.isfinite(leaf.grad).all(), "a gradient is not finite")

    def test_batches_without_labels(self) -> None:
        """Terms are finite without some or all targets; without a teacher, an error is allowed."""
        for heads in (("cls",), ()):
            for name, term in self.make()(self.context(heads)[0]).items():
                expect(torch.isfinite(term), f"term {name!r} is not finite if the batch has targets only for {heads}")
        try:
            terms = self.make()(self.context(teacher=False)[0])
        except SplitregError:
            return
        expect(all(torch.isfinite(term) for term in terms.values()), "a term is not finite without a teacher")

    def test_problems(self) -> None:
        """``problems`` accepts what ``forward`` accepts, and describes in sentences what is missing."""
        expect(
            self.make().problems(self.capabilities(), self.capabilities()) == [],
            "problems() rejects what forward() accepts",
        )
        minimal = TeacherCapabilities(features={}, heads={}, latent=False)
        for teacher in (None, minimal):
            problems = self.make().problems(minimal, teacher)
            expect(
                isinstance(problems, list) and all(isinstance(p, str) and p for p in problems),
                "problems() must return a list of sentences",
            )

    def test_state_dict(self) -> None:
        """A new objective with the same state dict has the same terms."""
        first, second = self.make(), self.make()
        second.load_state_dict(first.state_dict())
        context, _ = self.context()
        one, other = first.eval()(context), second.eval()(context)
        same = one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)
        expect(same, "the state dict is incomplete")
