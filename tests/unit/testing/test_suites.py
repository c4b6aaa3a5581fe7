"""The suites find broken plugins, and tell what is wrong."""

import json
import os
import signal
import sys
import time
import types
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from splitreg.coding import SymbolModel
from splitreg.errors import CorruptPacket, DataError, RegistryError, UnknownComponent
from splitreg.interfaces import (
    Backbone,
    Body,
    Bottleneck,
    Codec,
    Dataset,
    FeatureSpec,
    Head,
    Objective,
    SymbolSpec,
    TargetSpec,
)
from splitreg.registry import Registry
from splitreg.specs import ComponentSpec
from splitreg.tasks import Prediction, Sample, Target
from splitreg.testing import CodecSuite, HeadSuite, run
from splitreg.testing.isolation import isolated


def failures(kind, made, monkeypatch, **options):
    """Names of the checks that a class fails, with their reasons."""
    monkeypatch.setitem(sys.modules, "toy_plugins", types.SimpleNamespace(Toy=made))
    toy = ComponentSpec(kind=kind, name="toy", api=1, target="toy_plugins:Toy", summary="A toy.")
    results = run(kind, "toy", registry=Registry.of(toy), options=options)
    assert all(r.seconds >= 0 for r in results) and len({r.name for r in results}) == len(results) > 4
    return {r.name: r.reason for r in results if not r.passed}


class GoodCodec(Codec):
    """Plain int32 with nothing saved."""

    def __init__(self, *, order: str = "<") -> None:
        self.order = order

    def encode(self, symbols, model):
        return model.check_symbols(symbols).astype(f"{self.order}i4").tobytes()

    def decode(self, payload, shape, model):
        model.check_shape(shape)
        if len(payload) != 4 * int(np.prod(shape)):
            raise CorruptPacket("wrong length")
        return model.check_decoded(np.frombuffer(payload, f"{self.order}i4").astype(np.int32).reshape(shape))


def test_good_codec(monkeypatch):
    assert failures("codec", GoodCodec, monkeypatch) == {}
    assert failures("codec", GoodCodec, monkeypatch, order=">") == {}


def broken_codec(**methods):
    return type("Broken", (GoodCodec,), methods)


def crash(self, payload, shape, model):
    if len(payload) < 4:
        os.kill(os.getpid(), signal.SIGSEGV)
    return GoodCodec.decode(self, payload, shape, model)


def clip(self, symbols, model):
    model.check_symbols(symbols)
    return np.clip(symbols, -99, 99).astype("<i4").tobytes()


def untyped(self, payload, shape, model):
    return np.frombuffer(payload, "<i4").astype(np.int32).reshape(shape)


def beyond(self, payload, shape, model):
    model.check_shape(shape)
    if len(payload) != 4 * int(np.prod(shape)):
        raise CorruptPacket("wrong length")
    return np.frombuffer(payload, "<i4").astype(np.int32).reshape(shape)


def random(self, symbols, model):
    return GoodCodec.encode(self, symbols, model) + os.urandom(1)


def tolerant(self, payload, shape, model):
    return GoodCodec.decode(self, payload[: 4 * int(np.prod(shape))], shape, model)


def swallow(self, **options):
    GoodCodec.__init__(self)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("methods", "check", "words"),
    [
        ({"decode": crash}, "random payloads", "Segmentation fault"),
        ({"encode": clip}, "symbols outside tables", "decoded to another value"),
        ({"decode": untyped}, "random payloads", "CorruptPacket"),
        ({"decode": untyped}, "wrong shapes", "ShapeMismatch"),
        ({"decode": beyond}, "damaged payloads", "bits"),
        ({"encode": random, "decode": tolerant}, "deterministic bytes", "bytes"),
        ({"encode": random}, "round trip", "CorruptPacket"),
        ({"__init__": swallow}, "class and constructor", "options"),
        ({"max_bits": 99}, "declared limits", "max_bits"),
    ],
)
def test_broken_codecs(methods, check, words, monkeypatch):
    found = failures("codec", broken_codec(**methods), monkeypatch)
    assert words in found[check]


class GoodBottleneck(Bottleneck):
    def __init__(self, source: FeatureSpec, target: FeatureSpec, *, width: int = 2) -> None:
        super().__init__()
        self.encoder = nn.Conv2d(source.channels, width, 1)
        self.decoder = nn.Conv2d(width, target.channels, 1)
        self.scale = nn.Parameter(torch.zeros(()))
        self.latent = FeatureSpec(channels=width, stride=source.stride)
        self.symbol_spec = SymbolSpec(bits=0, tables=False)

    def analyse(self, x):
        return 4 * self.encoder(x)

    def synthesise(self, latent):
        return self.decoder(latent)

    def forward(self, x):
        latent = self.analyse(x)
        rounded = latent + (latent.round() - latent).detach()
        return self.synthesise(rounded), 1 + latent.square().sum((1, 2, 3)) * self.scale.exp()

    def freeze(self):
        return SymbolModel.plain("round", self.latent.channels, 0)


def test_good_bottleneck(monkeypatch):
    assert failures("bottleneck", GoodBottleneck, monkeypatch) == {}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("methods", "check", "words"),
    [
        ({"synthesise": lambda s, z: s.decoder(z) * s.scale.exp()}, "sides are independent", "decoder"),
        ({"analyse": lambda s, x: 4 * s.encoder(x) * s.scale.exp()}, "sides are independent", "encoder"),
        ({"synthesise": lambda s, z: s.decoder(z)[..., 1:, 1:]}, "any input size", "feature at the cut"),
        ({"forward": lambda s, x: (s.decoder(4 * s.encoder(x)), x.new_ones(2))}, "forward in eval mode", "eval mode"),
        ({"forward": lambda s, x: (s.decoder(s.encoder(x)), x.new_ones(()))}, "forward in training", "(B,)"),
        ({"forward": lambda s, x: (s.decoder(s.encoder(x).detach()), x.new_ones(2))}, "forward in training", "gradient"),
        ({"analyse": lambda s, x: s.encoder(x) - s.encoder(x).mean(0)}, "batch independence", "batch"),
        ({"freeze": lambda s: SymbolModel.plain("uniform", 2, 4)}, "freeze", "bits"),
        ({"auxiliary_loss": lambda s: s.decoder.weight.sum() + s.scale, "auxiliary_parameters": lambda s: [s.scale]},
         "auxiliary loss", "also trains"),
    ],
)  # fmt: skip
def test_broken_bottlenecks(methods, check, words, monkeypatch):
    found = failures("bottleneck", type("Broken", (GoodBottleneck,), methods), monkeypatch)
    assert words in found[check]


class _Body(Body):
    def __init__(self, layers, first, stages):
        super().__init__()
        self.layers, self.first, self.strides = layers, first, [s.stride for s in stages]

    def forward(self, feature):
        found = {self.strides[self.first]: feature}
        for index, layer in enumerate(self.layers, self.first + 1):
            feature = layer(feature)
            found[self.strides[index]] = feature
        return found


class GoodBackbone(Backbone):
    def __init__(self, *, width: int = 4) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(width, width, 3, 2, 1), nn.Conv2d(width, 2 * width, 3, 2, 1)]
        )
        self.stages = {
            name: FeatureSpec(channels=layer.out_channels, stride=2 << index)
            for index, (name, layer) in enumerate(zip("abc", self.layers, strict=True))
        }

    def split(self, cut):
        at = list(self.stages).index(cut)
        return nn.Sequential(*self.layers[: at + 1]), _Body(self.layers[at + 1 :], at, list(self.stages.values()))

    def forward(self, image):
        prefix, body = self.split("a")
        return body(prefix(image))


def test_good_backbone(monkeypatch):
    assert failures("backbone", GoodBackbone, monkeypatch) == {}


def test_broken_backbones(monkeypatch):
    class Noisy(GoodBackbone):
        def forward(self, image):
            return {s: f + 1e-6 for s, f in super().forward(image).items()}

    class Lying(GoodBackbone):
        def __init__(self, *, width: int = 4) -> None:
            super().__init__(width=width)
            self.stages = {**self.stages, "c": FeatureSpec(channels=width, stride=16)}

    class Copying(GoodBackbone):
        def split(self, cut):
            prefix, body = super().split(cut)
            return nn.Sequential(prefix, nn.Conv2d(prefix[-1].out_channels, prefix[-1].out_channels, 1)), body

    assert "differs" in failures("backbone", Noisy, monkeypatch)["cut is exact"]
    assert "spec says 4 channels" in failures("backbone", Lying, monkeypatch)["stages match their specs"]
    assert "does not have" in failures("backbone", Copying, monkeypatch)["no weight is on both sides"]


@dataclass(frozen=True)
class Brightness(Prediction, Target):
    """Prediction and target of a task that splitreg does not know."""

    value: float

    def restore(self, geometry):
        return self

    def draw(self, image):
        return image.copy()

    def to_json(self):
        return {"value": self.value}

    def arrays(self):
        return {"value": np.array([self.value], np.float32)}


class _Error:
    def __init__(self):
        self.errors = []

    def update(self, predictions, targets):
        self.errors += [abs(p.value - t.value) for p, t in zip(predictions, targets, strict=True)]

    def compute(self):
        return {"mae": float(np.mean(self.errors))}


class GoodHead(Head):
    task, primary, lower_is_better = "brightness", "mae", True

    def __init__(self, features, labels, *, bias: bool = True) -> None:
        super().__init__()
        self.needs = (max(features),)
        self.layer = nn.Linear(features[max(features)].channels, 1, bias=bias)

    @classmethod
    def select(cls, available):
        return (max(available),)

    def forward(self, features, image_size):
        return self.layer(features[self.needs[0]].mean((2, 3)))[:, 0]

    def loss(self, output, targets):
        return {"mae": (output - output.new_tensor([t.value for t in targets])).abs().mean()}

    def predict(self, output):
        return [Brightness(value) for value in output.tolist()]

    def truth(self, target):
        return target

    def metric(self):
        return _Error()


class BrightnessSuite(HeadSuite):
    """The hook for a task of one's own."""

    component = "toy"

    def make_target(self, seed):
        return Brightness(float(seed))


def head_failures(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "toy_plugins", types.SimpleNamespace(Toy=made))
    spec = ComponentSpec(kind="head", name="toy", api=1, target="toy_plugins:Toy", summary="A toy.")
    monkeypatch.setattr(BrightnessSuite, "registry", Registry.of(spec))
    found = {}
    for check in (name for name in dir(BrightnessSuite) if name.startswith("test_")):
        try:
            getattr(BrightnessSuite(), check)()
        except AssertionError as error:
            found[check] = str(error)
        except pytest.skip.Exception:
            raise
        except Exception as error:
            if type(error).__name__ != "SkipTest":
                found[check] = repr(error)
    return found


def test_a_head_with_a_task_of_its_own(monkeypatch):
    assert head_failures(GoodHead, monkeypatch) == {}


@pytest.mark.parametrize(
    ("methods", "check", "words"),
    [
        ({"predict": lambda s, o: [Brightness(0.0)]}, "test_predictions", "1 predictions"),
        ({"primary": "mse"}, "test_metric", "primary is 'mse'"),
        ({"lower_is_better": False}, "test_metric", "better"),
        ({"loss": lambda s, o, t: {"mae": o.sum() / 0}}, "test_loss_and_gradients", "finite"),
        ({"loss": lambda s, o, t: {"mae": o.sum().detach()}}, "test_loss_and_gradients", "no gradient"),
        ({"forward": lambda s, f, z: s.layer(f[s.needs[0]].mean((0, 2, 3)))[None].expand(2, 1)[:, 0]},
         "test_predictions", "batch"),
        ({"select": classmethod(lambda c, a: ())}, "test_any_strides", "select"),
    ],
)  # fmt: skip
def test_broken_heads(methods, check, words, monkeypatch):
    found = head_failures(type("Broken", (GoodHead,), methods), monkeypatch)
    assert words in found[check]


class GoodDataset(Dataset):
    def __init__(self, root=None, split="train", *, count: int = 3) -> None:
        if split != "train":
            raise DataError(f"no split {split}")
        self.targets, self.count = self.describe(root), count

    @classmethod
    def describe(cls, root, **options):
        return {"classification": TargetSpec(task="classification", labels=("a", "b"))}

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        from torchvision import tv_tensors

        from splitreg.tasks import ClassTarget

        if not 0 <= index < self.count:
            raise IndexError(index)
        image = torch.full((3, 8, 8), index, dtype=torch.uint8)
        return Sample(
            image=tv_tensors.Image(image), targets={"classification": ClassTarget(index=index % 2)}, name=f"{index}"
        )


def test_good_dataset(monkeypatch):
    assert failures("dataset", GoodDataset, monkeypatch, count=4) == {}


def test_broken_datasets(monkeypatch):
    class Endless(GoodDataset):
        def __getitem__(self, index):
            return super().__getitem__(index % self.count)

    class Lying(GoodDataset):
        @classmethod
        def describe(cls, root, **options):
            return {"classification": TargetSpec(task="classification", labels=("a",))}

    class Random(GoodDataset):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            sample.image.random_(0, 255)
            return sample

    assert "IndexError" in failures("dataset", Endless, monkeypatch)["length and indexes"]
    assert "class 1 of 1" in failures("dataset", Lying, monkeypatch)["samples"]
    assert "different" in failures("dataset", Random, monkeypatch)["deterministic samples"]


def test_objectives(monkeypatch):
    class Good(Objective):
        def __init__(self, heads, *, weight: float = 1.0) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, context):
            return {
                "all": self.weight * sum((p for ps in context.losses.values() for p in ps.values()), torch.zeros(()))
            }

    class Averaging(Good):
        def forward(self, context):
            parts = [p for ps in context.losses.values() for p in ps.values()]
            return {"all": torch.stack(parts).mean() if parts else torch.tensor(float("nan"))}

    assert failures("objective", Good, monkeypatch) == {}
    assert "not finite" in failures("objective", Averaging, monkeypatch)["batches without labels"]


def test_hangs_and_crashes_are_told_apart():
    def failing():
        raise AssertionError("too small")

    isolated(lambda: None)
    with pytest.raises(AssertionError, match="too small"):
        isolated(failing)
    with pytest.raises(AssertionError, match="crashed"):
        isolated(lambda: os.kill(os.getpid(), signal.SIGSEGV))
    with pytest.raises(AssertionError, match="1 s"):
        isolated(lambda: time.sleep(60), seconds=1)


def test_unknown_plugins():
    with pytest.raises(UnknownComponent):
        run("codec", "toy", registry=Registry.of())
    with pytest.raises(RegistryError, match="codec"):
        run("codecs", "toy")


def test_results_are_plain_data(monkeypatch):
    monkeypatch.setitem(sys.modules, "toy_plugins", types.SimpleNamespace(Toy=GoodCodec))
    toy = ComponentSpec(kind="codec", name="toy", api=1, target="toy_plugins:Toy", summary="A toy.")
    results = run("codec", "toy", registry=Registry.of(toy))
    assert json.dumps([(r.name, r.passed, r.reason, r.seconds) for r in results])
    skipped = {r.name for r in results if r.reason.startswith("skipped")}
    assert skipped == {"spec imports no torch", "runs without torch"}  # the toy's module is in no file
    assert issubclass(CodecSuite, object) and not CodecSuite.__name__.startswith("Test")
