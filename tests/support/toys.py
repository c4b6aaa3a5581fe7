"""The smallest plugins of each kind, and a registry of them: fast stand-ins for tests of the core."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchmetrics
from torch import Tensor, nn
from torch.nn import functional

from splitreg.coding import SymbolModel
from splitreg.errors import CorruptPacket, DataError
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
from splitreg.tasks import ClassTarget, Prediction, Sample


class ToyBody(Body):
    def __init__(self, start: int, stages: nn.ModuleDict) -> None:
        super().__init__()
        self.start = start
        self.stages = stages

    def forward(self, feature: Tensor) -> dict[int, Tensor]:
        features = {self.start: feature}
        for stride, stage in self.stages.items():
            feature = stage(feature)
            features[int(stride)] = feature
        return features


class ToyBackbone(Backbone):
    def __init__(self, *, width: int = 4, pretrained: bool = False, image_size: tuple[int, int] = (64, 64)) -> None:
        super().__init__()
        strides = (2, 4, 8, 16)
        self.stages = {f"stage{i}": FeatureSpec(channels=width * (i + 1), stride=s) for i, s in enumerate(strides)}
        widths = [3, *(spec.channels for spec in self.stages.values())]
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.ReLU()) for a, b in itertools.pairwise(widths)
        )

    def split(self, cut: str) -> tuple[nn.Module, Body]:
        at = list(self.stages).index(cut) + 1
        rest = {str(spec.stride): self.blocks[i] for i, spec in enumerate(self.stages.values()) if i >= at}
        return nn.Sequential(*self.blocks[:at]), ToyBody(self.stages[cut].stride, nn.ModuleDict(rest))

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        prefix, body = self.split("stage0")
        return body(prefix(image))


class ToyBottleneck(Bottleneck):
    def __init__(self, source: FeatureSpec, target: FeatureSpec, *, channels: int = 2) -> None:
        super().__init__()
        step = max(1, target.stride // source.stride)
        self.encoder = nn.Conv2d(source.channels, channels, max(step, 1), step)
        self.decoder = nn.Conv2d(channels, target.channels, 1)
        self.latent = FeatureSpec(channels=channels, stride=target.stride)
        self.symbol_spec = SymbolSpec(bits=8, tables=False, exact=False)

    def analyse(self, x: Tensor) -> Tensor:
        return self.encoder(x)

    def synthesise(self, latent: Tensor) -> Tensor:
        return self.decoder(latent)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        latent = self.analyse(x)
        rate = latent.abs().flatten(1).sum(1)
        return self.synthesise(latent + (torch.rand_like(latent) - 0.5) / 16 if self.training else latent), rate

    def freeze(self) -> SymbolModel:
        c = self.latent.channels
        return SymbolModel.plain("uniform", c, 8, shift=np.full(c, -4.0), scale=np.full(c, 255 / 8))


class ToyCodec(Codec):
    max_bits = 8

    def encode(self, symbols: Any, model: SymbolModel) -> bytes:
        return symbols.astype(np.uint8).tobytes()

    def decode(self, payload: bytes, shape: tuple[int, int, int], model: SymbolModel) -> Any:
        if len(payload) != np.prod(shape):
            raise CorruptPacket("wrong length")
        return np.frombuffer(payload, np.uint8).reshape(shape).astype(np.int32)


class OtherCodec(ToyCodec):
    """The same bytes under another name."""


class TableCodec(ToyCodec):
    needs_tables = True


@dataclass(frozen=True)
class ToyPrediction(Prediction):
    scores: Any

    def restore(self, geometry: Any) -> "ToyPrediction":
        return self

    def draw(self, image: Any) -> Any:
        return image

    def to_json(self) -> dict[str, Any]:
        return {"scores": self.scores.tolist()}

    def arrays(self) -> dict[str, Any]:
        return {"scores": self.scores}


class ToyMetric(torchmetrics.Metric):
    def __init__(self) -> None:
        super().__init__()
        self.add_state("right", torch.tensor(0.0))
        self.add_state("seen", torch.tensor(0.0))

    def update(self, predictions: Sequence[ToyPrediction], targets: Sequence[ClassTarget]) -> None:
        for prediction, target in zip(predictions, targets, strict=True):
            self.right += float(prediction.scores.argmax() == target.index)
            self.seen += 1

    def compute(self) -> dict[str, float]:
        return {"top1": float(self.right / self.seen.clamp(min=1))}


class ToyHead(Head):
    task = "classification"
    needs = (8, 32)
    primary = "top1"

    def __init__(self, features: Mapping[int, FeatureSpec], labels: tuple[str, ...], *, hidden: int = 8) -> None:
        super().__init__()
        self.mix = nn.Linear(sum(spec.channels for spec in features.values()), hidden)
        self.out = nn.Linear(hidden, len(labels))

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> Tensor:
        pooled = torch.cat([f.mean((2, 3)) for f in features.values()], 1)
        return self.out(torch.relu(self.mix(pooled)))

    def loss(self, output: Tensor, targets: Sequence[Any]) -> dict[str, Tensor]:
        return {"ce": functional.cross_entropy(output, torch.tensor([t.index for t in targets]))}

    def predict(self, output: Tensor) -> list[Prediction]:
        return [ToyPrediction(row.softmax(0).cpu().numpy()) for row in output]

    def truth(self, target: Any) -> Prediction:
        return ToyPrediction(np.eye(self.out.out_features, dtype=np.float32)[target.index])

    def metric(self) -> Any:
        return ToyMetric()


class ToyData(Dataset):
    """Brighter pictures are of class 1."""

    def __init__(self, root: str | None, split: str, *, count: int = 32) -> None:
        self.targets = self.describe(root, count=count)
        self.split, self.count = split, count

    @classmethod
    def describe(cls, root: str | None, count: int = 32) -> Mapping[str, TargetSpec]:
        if root is not None:
            raise DataError(f"no toys in {root}")
        return {"classification": TargetSpec(task="classification", labels=("dark", "bright"))}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        from torchvision import tv_tensors

        if not 0 <= index < self.count:
            raise IndexError(index)
        noise = torch.Generator().manual_seed(index + 1000 * len(self.split))
        image = torch.randint(0, 80, (3, 48, 40), generator=noise, dtype=torch.uint8) + 150 * (index % 2)
        return Sample(
            image=tv_tensors.Image(image.to(torch.uint8)), targets={"classification": ClassTarget(index=index % 2)}, name=f"toy-{index}"
        )  # fmt: skip


class ToySum(Objective):
    def __init__(self, heads: Sequence[str], *, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, context: Any) -> dict[str, Tensor]:
        return {
            f"{head}.{part}": self.weight * value
            for head, parts in context.losses.items()
            for part, value in parts.items()
        }


def spec(kind: str, name: str, cls: type) -> ComponentSpec:
    return ComponentSpec(kind=kind, name=name, api=1, target=f"{cls.__module__}:{cls.__name__}", summary="A toy.")


def registry() -> Registry:
    return Registry.of(
        spec("backbone", "toy", ToyBackbone), spec("bottleneck", "toy", ToyBottleneck), spec("codec", "toy", ToyCodec),
        spec("codec", "tables", TableCodec), spec("codec", "other", OtherCodec), spec("head", "toy", ToyHead), spec("dataset", "toys", ToyData),
        spec("objective", "sum", ToySum),
    )  # fmt: skip


KEYS: dict[str, Any] = {
    "backbone": "toy", "bottleneck": "toy", "codec": "toy", "heads": [{"name": "toy", "labels": 2}],
    "input": {"size": [64, 64]},
}  # fmt: skip
