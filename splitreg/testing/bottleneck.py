"""What every bottleneck must do."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from splitreg.coding import load_model
from splitreg.interfaces import Bottleneck, FeatureSpec
from splitreg.testing.suite import Suite, expect

_SIZES = ((64, 64), (7, 7), (14, 14), (33, 47), (1, 1), (2, 90))


class BottleneckSuite(Suite):
    """Shapes, training path against coded path, who needs which weights, tables.

    Attributes:
        source: what it reads; by default the image or the feature at the cut, as its ``source_default`` says.
        target: the feature at the cut.
    """

    kind: ClassVar[str] = "bottleneck"
    interface: ClassVar[type[Any]] = Bottleneck
    leading: ClassVar[int] = 2
    source: ClassVar[FeatureSpec | None] = None
    target: ClassVar[FeatureSpec] = FeatureSpec(channels=12, stride=4)

    def reads(self) -> FeatureSpec:
        """Return what it reads."""
        if self.source is not None:
            return self.source
        return FeatureSpec(channels=3, stride=1) if self.load().source_default == "image" else self.target

    def make(self) -> Bottleneck:
        """Return a fresh bottleneck; always the same weights."""
        torch.manual_seed(0)
        bottleneck: Bottleneck = self.load()(self.reads(), self.target, **self.options)
        return bottleneck

    def trained(self) -> Bottleneck:
        """Return one that has seen a few training steps, so that statistics and ranges are not the first ones."""
        bottleneck = self.make().train()
        apart = {id(p) for p in bottleneck.auxiliary_parameters()}
        weights = [p for p in bottleneck.parameters() if id(p) not in apart]
        optimizer = torch.optim.SGD(weights, 1e-3) if weights else None
        for seed in range(3):
            restored, rate = bottleneck(self.input((32, 32), seed))
            if optimizer and restored.requires_grad:
                optimizer.zero_grad()
                (restored.square().mean() + 1e-6 * rate.mean()).backward()
                optimizer.step()
        return bottleneck.eval()

    def input(self, size: tuple[int, int], seed: int = 0, batch: int = 2) -> Tensor:
        """Return what it reads for an image of ``size`` (height, width)."""
        source = self.reads()
        generator = torch.Generator().manual_seed(seed)
        height, width = (-(-side // source.stride) for side in size)
        return torch.randn(batch, source.channels, height, width, generator=generator)

    def test_restores_every_size(self) -> None:
        """The latent is as stated, and what is restored covers the feature at the cut, for any input size."""
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
            most = [-(-side // bottleneck.latent.stride) + 1 for side in size]
            fits = all(have <= limit for have, limit in zip(latent.shape[2:], most, strict=True))
            expect(fits or min(size) < 16, f"{what} the latent is {tuple(latent.shape)}, more than its stride allows")
            wanted = tuple(-(-side // self.target.stride) for side in size)
            expect(
                restored.shape[1] == self.target.channels
                and restored.shape[2] >= wanted[0]
                and restored.shape[3] >= wanted[1],
                f"{what} it restores {tuple(restored.shape)}, the feature at the cut is {(self.target.channels, *wanted)}",
            )

    def test_plan_without_weights(self) -> None:
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

    def test_training_path(self) -> None:
        """``forward`` restores what ``synthesise`` would in shape, with a finite positive rate an image, and gradients."""
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
            "no gradient reaches its input",
        )
        for name, parameter in bottleneck.encoder.named_parameters():
            expect(
                parameter.grad is not None and torch.isfinite(parameter.grad).all(),
                f"no finite gradient reaches encoder.{name}",
            )

    def test_eval_path_is_the_coded_path(self) -> None:
        """In eval mode ``forward`` gives what analyse, quantise, dequantise, synthesise give."""
        bottleneck = self.trained()
        tables = bottleneck.freeze()
        x = 2 * self.input((33, 47), seed=9)
        with torch.no_grad():
            expected, _ = bottleneck(x)
            for row, latent in enumerate(bottleneck.analyse(x)):
                decoded = torch.from_numpy(tables.restore(latent.numpy()))
                restored = bottleneck.synthesise(decoded[None])
                close = torch.allclose(restored[0], expected[row], rtol=1e-4, atol=1e-4)
                expect(close, "forward in eval mode differs from what the receiver restores")

    def test_tables(self) -> None:
        """``freeze`` is repeatable, changes nothing, and gives the kind of symbols that ``symbols`` promises."""
        bottleneck = self.trained()
        before = copy.deepcopy(bottleneck.state_dict())
        tables = bottleneck.freeze()
        expect(
            type(load_model(tables.to_arrays())) is type(tables), "freeze must return a LatentModel of splitreg.coding"
        )
        expect(tables.digest() == bottleneck.freeze().digest(), "freezing twice gives other tables")
        after = bottleneck.state_dict()
        same = before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
        expect(same, "freeze changes the state dict")
        expect(tables.channels == bottleneck.latent.channels, "the tables have other channels than the latent")
        expect(
            tables.bits == bottleneck.symbol_spec.bits,
            f"symbols says {bottleneck.symbol_spec.bits} bits, the tables {tables.bits}",
        )
        expect(tables.has_tables or not bottleneck.symbol_spec.tables, "symbols promises tables, and there are none")
        expect(self.make().freeze() is not None, "an untrained one must freeze too")

    def test_state_is_complete(self) -> None:
        """A fresh one with the same state gives the same latents, features and tables."""
        trained, fresh = self.trained(), self.make()
        fresh.load_state_dict(trained.state_dict())
        fresh.eval()
        x = self.input((32, 32), seed=5)
        with torch.no_grad():
            expect(torch.equal(fresh.analyse(x), trained.analyse(x)), "the state dict lacks something of the encoder")
            expect(torch.equal(fresh(x)[0], trained(x)[0]), "the state dict lacks something of the decoder")
        expect(fresh.freeze().digest() == trained.freeze().digest(), "the state dict lacks something of the tables")

    def test_each_side_needs_its_own_weights_alone(self) -> None:
        """``analyse`` uses nothing outside ``encoder``, ``synthesise`` nothing outside ``decoder``."""
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

    def test_images_do_not_mix(self) -> None:
        """In eval mode an image's latent does not depend on its neighbours in the batch."""
        bottleneck = self.trained()
        x = self.input((32, 32), seed=5, batch=3)
        with torch.no_grad():
            together, alone = bottleneck.analyse(x), bottleneck.analyse(x[1:2])
        expect(
            torch.allclose(together[1:2], alone, rtol=1e-3, atol=1e-4), "the latent depends on the rest of the batch"
        )

    def test_auxiliary_loss(self) -> None:
        """Its parameters belong to the bottleneck, and its gradient reaches them alone."""
        bottleneck = self.make()
        loss, parameters = bottleneck.auxiliary_loss(), bottleneck.auxiliary_parameters()
        if loss is None:
            expect(not parameters, "there are auxiliary parameters and no auxiliary loss")
            return
        expect(loss.ndim == 0 and torch.isfinite(loss), "the auxiliary loss must be a finite scalar")
        loss.backward()  # type: ignore[no-untyped-call]
        own = {id(p) for p in bottleneck.parameters()}
        apart = {id(p) for p in parameters}
        expect(apart and apart <= own, "auxiliary parameters must be the bottleneck's own")
        others = [
            n for n, p in bottleneck.named_parameters() if p.grad is not None and p.grad.any() and id(p) not in apart
        ]
        expect(not others, f"the auxiliary loss also trains {', '.join(others)}")


def _spoil(whole: nn.Module, kept: nn.Module) -> None:
    """Fill everything with NaN but the tensors of ``kept``."""
    keep = {id(t) for t in (*kept.parameters(), *kept.buffers())}
    for tensor in (*whole.parameters(), *whole.buffers()):
        if id(tensor) not in keep and tensor.is_floating_point():
            tensor.data.fill_(float("nan"))
