"""What every backbone must do."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from splitreg.errors import SplitregError
from splitreg.interfaces import Backbone
from splitreg.testing.suite import Suite, expect, refused


class BackboneSuite(Suite):
    """Stages against real features, and cuts that change nothing.

    Attributes:
        size: (height, width) of the input.
    """

    kind: ClassVar[str] = "backbone"
    interface: ClassVar[type[Any]] = Backbone
    size: ClassVar[tuple[int, int]] = (64, 96)

    def make(self) -> Backbone:
        """Return it in eval mode, with weights that are always the same."""
        torch.manual_seed(0)
        made, (_, member) = self.load(), self.found()
        options = dict(self.options)
        if "image_size" in inspect.signature(made).parameters:
            options.setdefault("image_size", self.size)
        backbone: Backbone = made(*(() if member is None else (member,)), **options)
        return backbone.eval()

    def image(self, batch: int = 1) -> Tensor:
        """Return a (B, 3, H, W) input."""
        return torch.randn(batch, 3, *self.size, generator=torch.Generator().manual_seed(0))

    def test_stages_are_what_they_say(self) -> None:
        """Every stage's feature has the stated channels, and the size that its stride gives."""
        backbone = self.make()
        expect(len(backbone.stages) > 0, "there are no stages")
        strides = [spec.stride for spec in backbone.stages.values()]
        expect(strides == sorted(strides), f"strides must not fall along the stages: {strides}")
        for name, spec in backbone.stages.items():
            prefix, _ = backbone.split(name)
            with torch.no_grad():
                feature = prefix(self.image(2))
            sizes = [
                {-(-side // spec.stride), max(1, side // spec.stride)} for side in self.size
            ]  # fmt: skip
            expect(
                feature.ndim == 4 and feature.shape[:2] == (2, spec.channels),
                f"stage {name} returns {tuple(feature.shape)}, its spec says {spec.channels} channels",
            )
            fits = all(side in wanted for side, wanted in zip(feature.shape[2:], sizes, strict=True))
            expect(
                fits, f"stage {name} returns {tuple(feature.shape)} for {self.size}, its spec says stride {spec.stride}"
            )

    def test_teaching_gives_the_same_features(self) -> None:
        """``teach`` gives what ``forward`` does, and (B, K) logits or None."""
        backbone, image = self.make(), self.image(2)
        with torch.no_grad():
            features, logits = backbone.teach(image)
            same = {s: torch.equal(f, features[s]) for s, f in backbone(image).items() if s in features}
        expect(same.keys() == features.keys() and all(same.values()), "teach gives other features than forward")
        expect(logits is None or (logits.ndim == 2 and len(logits) == 2), "logits must be (B, K)")

    def test_cuts_change_nothing(self) -> None:
        """At every cut, body(prefix(x)) equals the whole backbone bit for bit, at every stride that the body gives."""
        backbone, image = self.make(), self.image()
        with torch.no_grad():
            whole = backbone(image)
            last = {spec.stride: spec for spec in backbone.stages.values()}
            expect(set(whole) == set(last), f"forward gives strides {sorted(whole)}, the stages {sorted(last)}")
            names = list(backbone.stages)
            for position, name in enumerate(names):
                prefix, body = backbone.split(name)
                given = body(prefix(image))
                wanted = {backbone.stages[later].stride for later in names[position:]}
                expect(
                    set(given) == wanted, f"cut {name}: the body gives strides {sorted(given)}, not {sorted(wanted)}"
                )
                for stride, feature in given.items():
                    same = feature.shape == whole[stride].shape and torch.equal(feature, whole[stride])
                    expect(same, f"cut {name}: the feature at stride {stride} differs from the unsplit backbone's")

    def test_each_side_has_its_own_weights(self) -> None:
        """Before and after a cut are different parameters, and all of them the backbone's own."""
        backbone = self.make()
        own = _ids(backbone)
        for name in backbone.stages:
            prefix, body = backbone.split(name)
            expect(not _ids(prefix) & _ids(body), f"cut {name}: both sides hold the same weights")
            expect(_ids(prefix) | _ids(body) <= own, f"cut {name}: a side holds weights that are not the backbone's")
            expect(_ids(prefix), f"cut {name}: nothing runs before it")

    def test_plan_without_weights(self) -> None:
        """It can be built, cut and run on the meta device."""
        with torch.device("meta"):
            backbone = self.make()
            for name, spec in backbone.stages.items():
                prefix, body = backbone.split(name)
                feature = prefix(self.image().to("meta"))
                expect(feature.is_meta and feature.shape[1] == spec.channels, f"stage {name} fails on the meta device")
                body(feature)

    def test_unknown_cuts_are_refused(self) -> None:
        """A stage that is not there is a splitreg error, or a KeyError or ValueError that names it."""
        with refused("cutting at 'no-such-stage'", SplitregError, KeyError, ValueError):
            self.make().split("no-such-stage")

    def test_normalisation(self) -> None:
        """Mean and standard deviation are three numbers each, on a scale of 0 to 1."""
        backbone = self.make()
        for name in ("mean", "std"):
            values = getattr(backbone, name)
            expect(
                len(values) == 3 and all(0 <= v <= 1 for v in values),
                f"{name} must be three numbers of 0 to 1: {values}",
            )
        expect(min(backbone.std) > 0, "std must be positive")

    def test_gradients(self) -> None:
        """A loss on the features reaches the input through the cut."""
        backbone = self.make()
        prefix, body = backbone.split(list(backbone.stages)[-1])
        image = self.image().requires_grad_()
        sum(feature.square().mean() for feature in body(prefix(image)).values()).backward()
        expect(image.grad is not None and torch.isfinite(image.grad).all(), "no finite gradient reaches the input")


def _ids(module: nn.Module) -> set[int]:
    return {id(parameter) for parameter in module.parameters()}
