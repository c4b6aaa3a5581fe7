"""Conformance suite of bottlenecks."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from splitreg.assembly.planning import PREFERRED_CODECS, codec_problems
from splitreg.coding import load_model
from splitreg.interfaces import Bottleneck, FeatureSpec
from splitreg.registry import discover
from splitreg.testing.suite import Suite, expect, expect_report, skip
from splitreg.testing.without_torch import DeviceCase, check_on_device

_SIZES = ((64, 64), (7, 7), (14, 14), (33, 47), (1, 1), (2, 90))


class BottleneckSuite(Suite):
    """Shapes, training path against coded path, weights of each side, tables.

    Attributes:
        source: input of the encoder; by default the image or the feature at the cut, by ``source_default``.
        target: the feature at the cut.
    """

    kind: ClassVar[str] = "bottleneck"
    interface: ClassVar[type[Any]] = Bottleneck
    leading: ClassVar[int] = 2
    source: ClassVar[FeatureSpec | None] = None
    target: ClassVar[FeatureSpec] = FeatureSpec(channels=12, stride=4)

    def reads(self) -> FeatureSpec:
        """Return the spec of the encoder's input."""
        if self.source is not None:
            return self.source
        return FeatureSpec(channels=3, stride=1) if self.load().source_default == "image" else self.target

    def make(self) -> Bottleneck:
        """Return a new bottleneck; always with the same weights."""
        torch.manual_seed(0)
        bottleneck: Bottleneck = self.load()(self.reads(), self.target, **self.options)
        return bottleneck

    def trained(self) -> Bottleneck:
        """Return a bottleneck after a few training steps, so that its statistics have changed."""
        bottleneck = self.make().train()
        apart = {id(p) for p in bottleneck.auxiliary_parameters()}
        weights = [p for p in bottleneck.parameters() if id(p) not in apart]
        optimizer = torch.optim.SGD(weights, 1e-3) if weights else None
        for seed in range(3):
            restored, rate = bottleneck(self.input((32, 32), seed))
            bottleneck.losses()  # as a step of training does
            if optimizer and restored.requires_grad:
                optimizer.zero_grad()
                (restored.square().mean() + 1e-6 * rate.mean()).backward()
                optimizer.step()
        return bottleneck.eval()

    def input(self, size: tuple[int, int], seed: int = 0, batch: int = 2) -> Tensor:
        """Return an input of the encoder for an image of ``size`` (height, width)."""
        source = self.reads()
        generator = torch.Generator().manual_seed(seed)
        height, width = (-(-side // source.stride) for side in size)
        return torch.randn(batch, source.channels, height, width, generator=generator)

    def test_any_input_size(self) -> None:
        """For any size, the latent matches its spec and the restored feature covers the cut's."""
        bottleneck = self.make().eval()
        for size in _SIZES:
            with torch.no_grad():
                latent = bottleneck.analyse(self.input(size))
                restored = bottleneck.synthesise(latent)
            what = f"at {size[0]}x{size[1]} pixels"
            expect(latent.dtype == torch.float32, f"{what} the latent is {latent.dtype}, not float32")
            expect(
                latent.ndim == 4 and latent.shape[:2] == (2, bottleneck.latent.channels) and min(latent.shape) > 0,
                f"{what} the latent is {tuple(latent.shape)}, its spec says {bottleneck.latent.channels} channels",
            )
            limits = [-(-side // bottleneck.latent.stride) + 1 for side in size]
            fits = all(side <= limit for side, limit in zip(latent.shape[2:], limits, strict=True))
            expect(fits or min(size) < 16, f"{what} the latent is {tuple(latent.shape)}, more than its stride allows")
            needed = tuple(-(-side // self.target.stride) for side in size)
            expect(
                restored.shape[1] == self.target.channels
                and restored.shape[2] >= needed[0]
                and restored.shape[3] >= needed[1],
                f"{what} it restores {tuple(restored.shape)}, the feature at the cut is {(self.target.channels, *needed)}",
            )

    def test_meta_device(self) -> None:
        """It can be built and run on the meta device, with the same shapes."""
        with torch.device("meta"):
            planned: Bottleneck = self.load()(self.reads(), self.target, **self.options).eval()
            latent = planned.analyse(self.input((64, 48)).to("meta"))
            restored = planned.synthesise(latent)
        real = self.make().eval()
        with torch.no_grad():
            expected = real.analyse(self.input((64, 48)))
            expect(latent.shape == expected.shape, "the latent has another shape on the meta device")
            expect(
                restored.shape == real.synthesise(expected).shape, "the feature has another shape on the meta device"
            )

    def test_forward_in_training(self) -> None:
        """``forward`` returns the shape of ``synthesise`` and a finite positive rate per image, with gradients."""
        bottleneck = self.make().train()
        x = self.input((32, 32)).requires_grad_()
        restored, rate = bottleneck(x)
        with torch.no_grad():
            shape = bottleneck.synthesise(bottleneck.analyse(x)).shape
        expect(restored.shape == shape, f"forward restores {tuple(restored.shape)}, synthesise {tuple(shape)}")
        expect(rate.shape == (2,), f"the rate must be (B,) bits, got {tuple(rate.shape)}")
        expect(torch.isfinite(rate).all() and (rate > 0).all(), "the rate must be finite and positive")
        restored.square().mean().backward()
        expect(
            x.grad is not None and torch.isfinite(x.grad).all() and x.grad.abs().sum() > 0,
            "no gradient reaches the input",
        )
        for name, parameter in bottleneck.encoder.named_parameters():
            expect(
                parameter.grad is not None and torch.isfinite(parameter.grad).all(),
                f"no finite gradient reaches encoder.{name}",
            )

    def test_forward_in_eval_mode(self) -> None:
        """In eval mode ``forward`` equals analyse, quantise, dequantise, synthesise."""
        bottleneck = self.trained()
        tables = bottleneck.freeze()
        x = 2 * self.input((33, 47), seed=9)
        with torch.no_grad():
            expected, _ = bottleneck(x)
            for row, latent in enumerate(bottleneck.analyse(x)):
                decoded = torch.from_numpy(tables.restore(latent.numpy()))
                restored = bottleneck.synthesise(decoded[None])
                close = torch.allclose(restored[0], expected[row], rtol=1e-4, atol=1e-4)
                expect(close, "forward in eval mode differs from the feature that the server restores")

    def test_freeze(self) -> None:
        """``freeze`` is repeatable, changes no weight, and matches ``symbol_spec``."""
        bottleneck = self.trained()
        before = copy.deepcopy(bottleneck.state_dict())
        tables = bottleneck.freeze()
        expect(
            type(load_model(tables.to_arrays())) is type(tables), "freeze must return a LatentModel of splitreg.coding"
        )
        expect(tables.digest() == bottleneck.freeze().digest(), "freezing twice gives different tables")
        after = bottleneck.state_dict()
        same = before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
        expect(same, "freeze changes the state dict")
        expect(
            tables.channels == bottleneck.latent.channels,
            "the tables and the latent have different numbers of channels",
        )
        expect(
            tables.bits == bottleneck.symbol_spec.bits,
            f"symbol_spec has {bottleneck.symbol_spec.bits} bits, the tables have {tables.bits}",
        )
        expect(
            tables.has_tables or not bottleneck.symbol_spec.tables,
            "symbol_spec promises tables, and freeze returns none",
        )
        expect(self.make().freeze() is not None, "an untrained bottleneck must freeze, too")

    def test_tables_without_torch(self) -> None:
        """A process without torch encodes a latent to the same bytes with these tables, and decodes it."""
        bottleneck = self.trained()
        tables, registry = bottleneck.freeze(), self.registry or discover()
        with torch.no_grad():
            latents = [bottleneck.analyse(self.input(size))[0].numpy() for size in ((64, 64), (33, 47))]
        registry = registry if registry["codec"] else discover()
        names = [n for n in PREFERRED_CODECS if n in registry["codec"]]
        for name in names:
            spec, _ = registry.resolve("codec", name)
            if codec_problems(name, registry.load(spec), "", bottleneck.symbol_spec):
                continue
            codec = registry.create("codec", name, options={})
            cases = [DeviceCase.of(f"latent {latent.shape}", tables, latent, codec) for latent in latents]
            report = check_on_device(spec.target, {}, cases)
            if not report.skipped:
                expect_report(report, f"without torch, the tables cannot be used with codec {name}")
                return
        skip(f"none of the codecs {', '.join(names)} can code its symbols")

    def test_state_dict(self) -> None:
        """A new bottleneck with the same state dict has the same latents, features and tables."""
        trained, fresh = self.trained(), self.make()
        fresh.load_state_dict(trained.state_dict())
        fresh.eval()
        x = self.input((32, 32), seed=5)
        with torch.no_grad():
            expect(torch.equal(fresh.analyse(x), trained.analyse(x)), "the state dict lacks a part of the encoder")
            expect(torch.equal(fresh(x)[0], trained(x)[0]), "the state dict lacks a part of the decoder")
        expect(fresh.freeze().digest() == trained.freeze().digest(), "the state dict lacks a part of the tables")

    def test_sides_are_independent(self) -> None:
        """``analyse`` uses no weight outside ``encoder``, ``synthesise`` none outside ``decoder``."""
        bottleneck = self.trained()
        x = self.input((32, 32), seed=5)
        with torch.no_grad():
            latent = bottleneck.analyse(x)
            restored = bottleneck.synthesise(latent)
            device, server = copy.deepcopy(bottleneck), copy.deepcopy(bottleneck)
            _spoil(device, device.encoder)
            _spoil(server, server.decoder)
            expect(torch.equal(device.analyse(x), latent), "analyse uses weights outside `encoder`")
            expect(torch.equal(server.synthesise(latent), restored), "synthesise uses weights outside `decoder`")

    def test_batch_independence(self) -> None:
        """In eval mode the latent of an image does not depend on the rest of the batch."""
        bottleneck = self.trained()
        x = self.input((32, 32), seed=5, batch=3)
        with torch.no_grad():
            together, alone = bottleneck.analyse(x), bottleneck.analyse(x[1:2])
        expect(
            torch.allclose(together[1:2], alone, rtol=1e-3, atol=1e-4), "the latent depends on the rest of the batch"
        )

    def test_losses(self) -> None:
        """Losses of its own are finite scalars after each step, with finite gradients."""
        bottleneck = self.make().train()
        for seed in range(2):  # a graph of the first step must not be kept
            restored, _ = bottleneck(self.input((32, 32), seed).requires_grad_())
            losses = bottleneck.losses()
            expect(isinstance(losses, dict), "losses must return a dict")
            for name, loss in losses.items():
                valid = isinstance(loss, Tensor) and loss.ndim == 0 and bool(torch.isfinite(loss))
                expect(valid, f"loss {name!r} must be a finite scalar, got {loss}")
            (restored.square().mean() + sum(losses.values())).backward()
        try:
            copy.deepcopy(bottleneck)
        except RuntimeError as cause:
            raise AssertionError(
                "the bottleneck cannot be copied after a step: return the losses and keep no tensor with a graph"
            ) from cause
        for name, parameter in bottleneck.named_parameters():
            finite = parameter.grad is None or bool(torch.isfinite(parameter.grad).all())
            expect(finite, f"the gradient of {name} is not finite")

    def test_auxiliary_loss(self) -> None:
        """Its parameters belong to the bottleneck, and its gradient reaches no others."""
        bottleneck = self.make()
        loss, parameters = bottleneck.auxiliary_loss(), bottleneck.auxiliary_parameters()
        if loss is None:
            expect(not parameters, "there are auxiliary parameters, but no auxiliary loss")
            return
        expect(loss.ndim == 0 and torch.isfinite(loss), "the auxiliary loss must be a finite scalar")
        loss.backward()  # type: ignore[no-untyped-call]
        own = {id(p) for p in bottleneck.parameters()}
        apart = {id(p) for p in parameters}
        expect(apart and apart <= own, "auxiliary parameters must belong to the bottleneck")
        others = [
            n for n, p in bottleneck.named_parameters() if p.grad is not None and p.grad.any() and id(p) not in apart
        ]
        expect(not others, f"the auxiliary loss also trains {', '.join(others)}")


def _spoil(whole: nn.Module, part: nn.Module) -> None:
    """Fill all tensors with NaN, except those of ``part``."""
    keep = {id(t) for t in (*part.parameters(), *part.buffers())}
    for tensor in (*whole.parameters(), *whole.buffers()):
        if id(tensor) not in keep and tensor.is_floating_point():
            tensor.data.fill_(float("nan"))
