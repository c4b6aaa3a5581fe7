"""Conformance suite of backbones."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from splitreg.errors import SplitregError
from splitreg.interfaces import Backbone
from splitreg.testing.suite import Suite, expect, raises


class BackboneSuite(Suite):
    """Stages match their specs, and a cut does not change the features.

    Attributes:
        size: (height, width) of the input.
    """

    kind: ClassVar[str] = "backbone"
    interface: ClassVar[type[Any]] = Backbone
    size: ClassVar[tuple[int, int]] = (64, 96)

    def make(self) -> Backbone:
        """Return the backbone in eval mode; always with the same weights."""
        torch.manual_seed(0)
        cls, (_, member) = self.load(), self.resolve()
        options = dict(self.options)
        if "image_size" in inspect.signature(cls).parameters:
            options.setdefault("image_size", self.size)
        backbone: Backbone = cls(*(() if member is None else (member,)), **options)
        return backbone.eval()

    def image(self, batch: int = 1) -> Tensor:
        """Return a (B, 3, H, W) input."""
        return torch.randn(batch, 3, *self.size, generator=torch.Generator().manual_seed(0))

    def test_stages_match_their_specs(self) -> None:
        """Each stage returns the channels of its spec, at the size that follows from its stride."""
        backbone = self.make()
        expect(len(backbone.stages) > 0, "stages is empty")
        strides = [spec.stride for spec in backbone.stages.values()]
        expect(strides == sorted(strides), f"strides must not decrease from stage to stage, got {strides}")
        for name, spec in backbone.stages.items():
            prefix, _ = backbone.split(name)
            with torch.no_grad():
                feature = prefix(self.image(2))
            sizes = [{-(-side // spec.stride), max(1, side // spec.stride)} for side in self.size]
            expect(
                feature.ndim == 4 and feature.shape[:2] == (2, spec.channels),
                f"stage {name} returns {tuple(feature.shape)}, its spec says {spec.channels} channels",
            )
            fits = all(side in allowed for side, allowed in zip(feature.shape[2:], sizes, strict=True))
            expect(
                fits, f"stage {name} returns {tuple(feature.shape)} for {self.size}, its spec says stride {spec.stride}"
            )

    def test_teach_returns_the_same_features(self) -> None:
        """``teach`` returns the features of ``forward``, and (B, K) logits or None."""
        backbone, image = self.make(), self.image(2)
        with torch.no_grad():
            features, logits = backbone.teach(image)
            same = {s: torch.equal(f, features[s]) for s, f in backbone(image).items() if s in features}
        expect(same.keys() == features.keys() and all(same.values()), "teach and forward return different features")
        expect(logits is None or (logits.ndim == 2 and len(logits) == 2), "logits must be (B, K)")

    def test_cut_is_exact(self) -> None:
        """At each cut, body(prefix(x)) equals the unsplit backbone bit for bit at each stride."""
        backbone, image = self.make(), self.image()
        with torch.no_grad():
            whole = backbone(image)
            last = {spec.stride: spec for spec in backbone.stages.values()}
            expect(set(whole) == set(last), f"forward returns strides {sorted(whole)}, the stages have {sorted(last)}")
            names = list(backbone.stages)
            for position, name in enumerate(names):
                prefix, body = backbone.split(name)
                features = body(prefix(image))
                expected = {backbone.stages[later].stride for later in names[position:]}
                expect(
                    set(features) == expected,
                    f"cut {name}: the body returns strides {sorted(features)}, expected {sorted(expected)}",
                )
                for stride, feature in features.items():
                    same = feature.shape == whole[stride].shape and torch.equal(feature, whole[stride])
                    expect(
                        same, f"cut {name}: at stride {stride} the feature differs from that of the unsplit backbone"
                    )

    def test_no_weight_is_on_both_sides(self) -> None:
        """The two sides of a cut share no parameter, and have no others than the backbone."""
        backbone = self.make()
        own = _ids(backbone)
        for name in backbone.stages:
            prefix, body = backbone.split(name)
            expect(not _ids(prefix) & _ids(body), f"cut {name}: both sides use the same weights")
            expect(_ids(prefix) | _ids(body) <= own, f"cut {name}: a side has weights that the backbone does not have")
            expect(_ids(prefix), f"cut {name}: no weight is before the cut")

    def test_meta_device(self) -> None:
        """It can be built, cut and run on the meta device, where a plan builds it."""
        with torch.device("meta"):
            backbone = self.make()
            for name, spec in backbone.stages.items():
                prefix, body = backbone.split(name)
                feature = prefix(self.image().to("meta"))
                expect(feature.is_meta and feature.shape[1] == spec.channels, f"stage {name} fails on the meta device")
                body(feature)

    def test_unknown_cut(self) -> None:
        """A cut after an unknown stage raises a splitreg error, KeyError or ValueError."""
        with raises("split at 'no-such-stage'", SplitregError, KeyError, ValueError):
            self.make().split("no-such-stage")

    def test_mean_and_std(self) -> None:
        """``mean`` and ``std`` are three numbers each, on a scale of 0 to 1."""
        backbone = self.make()
        for name in ("mean", "std"):
            values = getattr(backbone, name)
            expect(
                len(values) == 3 and all(0 <= v <= 1 for v in values),
                f"{name} must be three numbers from 0 to 1, got {values}",
            )
        expect(min(backbone.std) > 0, "std must be positive")

    def test_gradients(self) -> None:
        """Gradients of the features reach the input through a cut."""
        backbone = self.make()
        prefix, body = backbone.split(list(backbone.stages)[-1])
        image = self.image().requires_grad_()
        sum(feature.square().mean() for feature in body(prefix(image)).values()).backward()
        expect(image.grad is not None and torch.isfinite(image.grad).all(), "no finite gradient reaches the input")


def _ids(module: nn.Module) -> set[int]:
    return {id(parameter) for parameter in module.parameters()}
