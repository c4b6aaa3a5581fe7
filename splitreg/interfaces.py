"""The contracts of the six kinds of plugin. Parts meet through specs, keyed by stride, never by index or attribute.

Shape letters: B images, C channels, H x W input pixels, h x w of a latent, s a stride, K classes.

Constructors take plain keyword options with defaults and no ``**kwargs``: the plan reads their signature, so a
misspelt option fails with near names. Classes are built on torch's meta device by the plan (no weight is allocated),
so a constructor must not read tensor values.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from splitreg.coding import Codec, LatentModel
from splitreg.specs import FeatureSpec, SymbolSpec, TargetSpec
from splitreg.tasks import Prediction, Sample, Target

__all__ = [
    "Backbone", "Body", "Bottleneck", "Codec", "Dataset", "FeatureSpec", "Head", "Objective", "StepContext", "SymbolSpec",
    "TargetSpec",
]  # fmt: skip


class Body(nn.Module, abc.ABC):
    """The backbone from a cut on."""

    @abc.abstractmethod
    def forward(self, feature: Tensor) -> dict[int, Tensor]:
        """Run the stages after the cut.

        Args:
            feature: (B, C, H/s, W/s), what the prefix returned.

        Returns:
            stride -> (B, C, H/s, W/s): the cut's own feature and one for every later stage (the last of its stride).
        """


class Backbone(nn.Module, abc.ABC):
    """A chain of named stages that can be cut between any two.

    A family's constructor takes ``(name, *, pretrained=False, image_size=(H, W), ...)``, others leave ``name`` out.

    Attributes:
        stages: in order, stage name -> channels and stride of what it returns.
        mean: per-channel mean that the weights expect, on a scale of 0 to 1.
        std: likewise.
    """

    stages: Mapping[str, FeatureSpec]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @abc.abstractmethod
    def split(self, cut: str) -> tuple[nn.Module, Body]:
        """Return what runs up to the end of stage ``cut`` (image -> feature) and what runs after it.

        Both share this backbone's parameters. ``body(prefix(x))`` equals ``self(x)`` bit for bit at every stride that
        the body gives.
        """

    @abc.abstractmethod
    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """(B, 3, H, W) normalised -> stride -> (B, C, H/s, W/s), the last stage of each stride."""


class Bottleneck(nn.Module, abc.ABC):
    """Analysis on the edge, synthesis on the server, a rate between them.

    The constructor is ``(source, target, *, ...)``: ``source`` is what ``analyse`` reads (the image, or the feature at
    the cut), ``target`` is the feature at the cut that ``synthesise`` must restore. It sets ``encoder`` and ``decoder``:
    the weights under ``encoder`` go to the device, all others (``decoder``, the prior) to the server.

    Attributes:
        source_default: ``"image"`` or ``"feature"``: what is read when the recipe does not say.
        encoder: everything that ``analyse`` needs.
        decoder: everything that ``synthesise`` needs.
        latent: channels and stride (relative to the image) of the latent.
        symbols: what the symbols will be.
    """

    source_default: ClassVar[str] = "feature"
    encoder: nn.Module
    decoder: nn.Module
    latent: FeatureSpec
    symbols: SymbolSpec

    @abc.abstractmethod
    def analyse(self, x: Tensor) -> Tensor:
        """Edge side: (B, C_source, H, W) -> latent (B, C, h, w) float32. A static graph, exportable to ONNX."""

    @abc.abstractmethod
    def synthesise(self, latent: Tensor) -> Tensor:
        """Server side: (B, C, h, w) -> (B, C_target, h', w'), at least as large as the feature at the cut.

        What is larger is cropped at the right and the bottom by the caller.
        """

    @abc.abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Training path: restored feature as ``synthesise`` gives it, and the rate (B,) in bits per image."""

    @abc.abstractmethod
    def freeze(self) -> LatentModel:
        """Return the integer tables of the present weights (and, with a hyperprior, its integer networks)."""

    def auxiliary_loss(self) -> Tensor | None:
        """Return a loss for ``auxiliary_parameters`` alone (the prior's quantiles), or None."""
        return None

    def auxiliary_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that only ``auxiliary_loss`` trains."""
        return []


class Head(nn.Module, abc.ABC):
    """Features -> predictions, loss, metric.

    The constructor is ``(features, labels, *, ...)``: ``features`` maps each stride of ``needs`` to its spec,
    ``labels`` are the class names (empty where the task has none).

    Attributes:
        task: what it does; a dataset's target of the same task trains it.
        needs: strides that it reads. Where the body lacks one, the plan puts an adapter in front of the head.
        primary: name of the metric that sums it up; larger is better unless ``lower_is_better``.
    """

    task: ClassVar[str]
    needs: tuple[int, ...] = ()
    primary: ClassVar[str] = ""
    lower_is_better: ClassVar[bool] = False

    @classmethod
    def select(cls, available: Sequence[int]) -> tuple[int, ...]:
        """Return the strides that it would read from a body that offers ``available`` (default: ``needs``)."""
        return cls.needs

    @abc.abstractmethod
    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> Any:
        """Return the raw output for a batch; ``image_size`` is (H, W) of the network's input."""

    @abc.abstractmethod
    def loss(self, output: Any, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return scalar parts of the loss, averaged over the images; every image has a target (the caller sees to it)."""

    @abc.abstractmethod
    def predict(self, output: Any) -> list[Prediction]:
        """Return one prediction an image, in the pixels of the network's input."""

    @abc.abstractmethod
    def truth(self, target: Target) -> Prediction:
        """Return the target as a perfect prediction, in the target's pixels (for pictures of the truth)."""

    @abc.abstractmethod
    def metric(self) -> Any:
        """Return a fresh torchmetrics ``Metric``: ``update(list[Prediction], list[Target])``, ``compute() -> dict``.

        ``compute`` returns floats by name, ``primary`` among them. Predictions and targets share the same pixels.
        """


class Dataset(abc.ABC):
    """Samples with a target per target name, any of which may be missing.

    The constructor is ``(root, split, *, ...)``; ``root`` is a folder or None.

    Attributes:
        targets: target name -> task and labels.
    """

    targets: Mapping[str, TargetSpec]

    @classmethod
    @abc.abstractmethod
    def describe(cls, root: str | None, **options: Any) -> Mapping[str, TargetSpec]:
        """Return ``targets`` without reading more than a header; the constructor's options apply.

        Raises:
            DataError: the folder is not of this layout; the message says what was expected.
        """

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Sample: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StepContext:
    """What an objective may look at in one step.

    Args:
        losses: head -> part -> scalar; a head without a target in this batch is absent.
        rate: (B,) bits an image.
        images: (B, 3, H, W) normalised input.
        features: stride -> feature that the heads read.
        teacher: stride -> feature of the teacher, None without one.
        progress: 0 at the beginning of the stage, 1 at its end.
    """

    losses: Mapping[str, Mapping[str, Tensor]]
    rate: Tensor
    images: Tensor
    features: Mapping[int, Tensor]
    teacher: Mapping[int, Tensor] | None
    progress: float


class Objective(nn.Module, abc.ABC):
    """How losses are combined, and extra terms. The constructor is ``(heads, *, ...)`` with the heads' names."""

    @abc.abstractmethod
    def forward(self, context: StepContext) -> dict[str, Tensor]:
        """Return scalar terms by name; the training loss is the sum over all objectives of a stage, plus the rate."""
