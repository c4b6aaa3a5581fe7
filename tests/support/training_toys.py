"""The smallest model with everything that training must handle: noise, dropout, BatchNorm, a prior with parameters of
its own, two heads, missing targets."""

import zlib
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from torchvision import tv_tensors

from splitreg.coding import SymbolModel
from splitreg.evaluation.metrics import Accuracy
from splitreg.interfaces import Backbone, Body, Bottleneck, Codec, Dataset, Head, Objective
from splitreg.predictions import Classification
from splitreg.recipe import Recipe
from splitreg.registry import Registry
from splitreg.specs import ComponentSpec, FeatureSpec, SymbolSpec, TargetSpec
from splitreg.tasks import ClassTarget, Sample

COLOURS = ("red", "green", "blue")
SIZES = ("small", "large")


class ToyBody(Body):
    def __init__(self, last):
        super().__init__()
        self.last = last

    def forward(self, feature):
        return {4: feature, 8: self.last(feature)}


class ToyBackbone(Backbone):
    stages: ClassVar = {"one": FeatureSpec(channels=6, stride=4), "two": FeatureSpec(channels=8, stride=8)}

    def __init__(self, *, image_size=(32, 32), norm: bool = True):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU())
        middle = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.two = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), middle, nn.ReLU())

    def split(self, cut):
        return self.one, ToyBody(self.two)

    def forward(self, image):
        return self.split("one")[1](self.one(image))


class ToyPrior(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(channels))
        self.quantiles = nn.Parameter(torch.full((channels,), 3.0))


class ToyBottleneck(Bottleneck):
    source_default = "image"

    def __init__(self, source, target, *, channels: int = 4, noise: bool = True, norm: bool = True):
        super().__init__()
        self.latent = FeatureSpec(channels=channels, stride=8)
        self.symbol_spec = SymbolSpec(bits=0, tables=False)
        self.noise = noise
        step = 8 // source.stride
        self.encoder = nn.Sequential(nn.Conv2d(source.channels, channels, step, step))
        last = nn.BatchNorm2d(target.channels) if norm else nn.Identity()
        self.decoder = nn.Sequential(nn.ConvTranspose2d(channels, target.channels, 2, 2), last)
        self.prior = ToyPrior(channels)

    def analyse(self, x):
        return self.encoder(x) * 4

    def synthesise(self, latent):
        return self.decoder(latent / 4)

    def forward(self, x):
        y = self.analyse(x)
        noisy = y + (torch.rand_like(y) - 0.5) * self.noise if self.training else torch.round(y)
        scale = self.prior.log_scale.exp()[:, None, None]
        rate = torch.log2(1 + (noisy / scale).abs()).sum((1, 2, 3)) + self.prior.log_scale.sum()
        return self.synthesise(noisy), rate

    def freeze(self):
        return SymbolModel.plain("round", self.latent.channels, 0)

    def auxiliary_loss(self):
        return (self.prior.quantiles - 1).abs().sum()

    def auxiliary_parameters(self):
        return [self.prior.quantiles]


class ToyCodec(Codec):
    def encode(self, symbols, model):
        return zlib.compress(symbols.astype("<i4").tobytes())

    def decode(self, payload, shape, model):
        return np.frombuffer(zlib.decompress(payload), "<i4").reshape(shape).astype(np.int32)


class ToyHead(Head):
    task = "classification"
    needs = (8,)
    primary = "top1"

    def __init__(self, features, labels, *, dropout: float = 0.2):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features[8].channels, len(labels))

    def forward(self, features, image_size):
        return self.linear(self.dropout(features[8].mean((2, 3))))

    def loss(self, output, targets):
        wanted = torch.tensor([target.index for target in targets], device=output.device)
        return {"ce": nn.functional.cross_entropy(output, wanted)}

    def predict(self, output):
        return [Classification(probabilities=row.numpy(), names=()) for row in output.float().softmax(1).cpu()]

    def truth(self, target):
        raise NotImplementedError

    def metric(self):
        return Accuracy()


class ToyClassifier(ToyBackbone):
    """With a classifier of three classes that may be kept, for images normalised in its own way."""

    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)

    def __init__(self, *, image_size=(32, 32), norm: bool = True, classifier: bool = False, shift: float = 0.0):
        super().__init__(image_size=image_size, norm=norm)
        self.last = nn.Linear(8, 3) if classifier else None
        self.one[0].bias.data += shift

    def teach(self, image):
        features = self(image)
        return features, None if self.last is None else self.last(features[8].mean((2, 3)))


class Spy(Objective):
    """Keeps what it is shown."""

    seen: ClassVar = []

    def __init__(self, heads):
        super().__init__()

    def forward(self, context):
        self.seen.append(context)
        zero = context.rate.new_zeros(())
        return {"all": sum((value for parts in context.losses.values() for value in parts.values()), zero)}


class ToyDataset(Dataset):
    """Noisy pictures of one colour (their class); bright ones are "large", known for every other picture alone."""

    def __init__(self, root, split, *, count: int = 20, missing: bool = True, side: int = 32):
        self.targets = self.describe(root)
        self.count, self.missing, self.side, self.offset = count, missing, side, {"train": 0, "val": 1000}[split]

    @classmethod
    def describe(cls, root, *, count=20, missing=True, side=32):
        return {
            "colour": TargetSpec(task="classification", labels=COLOURS),
            "size": TargetSpec(task="classification", labels=SIZES),
        }

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = np.random.default_rng(self.offset + index)
        colour, size = index % 3, index // 3 % 2
        image = rng.integers(0, 60, (3, self.side, self.side + index % 5))
        image[colour] += 90 + 60 * size
        known = not self.missing or index % 2 == 0
        return Sample(
            image=tv_tensors.Image(torch.from_numpy(image.astype(np.uint8))),
            targets={"colour": ClassTarget(index=colour), "size": ClassTarget(index=size) if known else None},
            name=f"toy-{index}",
        )


def _spec(kind, name, made):
    return ComponentSpec(kind=kind, name=name, api=1, target=f"support.training_toys:{made.__name__}", summary="A toy.")


REGISTRY = Registry.of(
    _spec("backbone", "toy", ToyBackbone), _spec("bottleneck", "toy", ToyBottleneck), _spec("codec", "toy", ToyCodec),
    _spec("head", "toy", ToyHead), _spec("dataset", "toy", ToyDataset),
    _spec("backbone", "toy-classifier", ToyClassifier), _spec("objective", "spy", Spy),
    ComponentSpec(kind="objective", name="sum", api=1, target="splitreg_objectives.sum:Sum", summary="Sum."),
    ComponentSpec(kind="objective", name="distill", api=1, target="splitreg_objectives.distill:Distill", summary="Toy."),
    ComponentSpec(
        kind="objective", name="uncertainty", api=1, target="splitreg_objectives.uncertainty:Uncertainty", summary="Toy."
    ),
    ComponentSpec(kind="objective", name="surgery", api=1, target="splitreg_objectives.surgery:Surgery", summary="Toy."),
)  # fmt: skip


def toy_recipe(*stages, **keys):
    return Recipe.from_mapping(
        {
            "backbone": "toy", "cut": "one", "bottleneck": "toy", "codec": "toy", "seed": 3,
            "heads": [{"name": "toy", "as": "colour", "target": "colour"}, {"name": "toy", "as": "size", "target": "size"}],
            "data": ["toy"], "input": {"size": [32, 32]}, "stages": list(stages) or [{"epochs": 2, "batch_size": 4}],
            **keys,
        }
    )  # fmt: skip
