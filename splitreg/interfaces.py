"""The contracts of the six kinds of plugin. Parts meet through specs, keyed by stride, never by index or attribute.

Shape letters: B images, C channels, H x W input pixels, h x w of a latent, s a stride, K classes.

Constructors take plain keyword options with defaults and no ``**kwargs``: the plan reads their signature, so a
misspelt option fails with near names. Classes are built on torch's meta device by the plan (no weight is allocated),
so a constructor must not read tensor values.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from splitreg.coding import Codec, LatentModel
from splitreg.specs import FeatureSpec, SymbolSpec, TargetSpec
from splitreg.tasks import Prediction, Sample, Target

__all__ = [
    "Backbone",
    "Body",
    "Bottleneck",
    "Codec",
    "Dataset",
    "FeatureSpec",
    "Head",
    "Objective",
    "StepContext",
    "SymbolSpec",
    "TargetSpec",
    "TeacherCapabilities",
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

    def teach(self, image: Tensor) -> tuple[dict[int, Tensor], Tensor | None]:
        """Return features as ``forward`` does, and the (B, K) logits of the backbone's own classifier, or None.

        A backbone that can keep its classifier has an option ``classifier``; teachers are built with it.
        """
        return self(image), None


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
        symbol_spec: what the symbols will be.
    """

    source_default: ClassVar[str] = "feature"
    encoder: nn.Module
    decoder: nn.Module
    latent: FeatureSpec
    symbol_spec: SymbolSpec

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
        """Training path: restored feature as ``synthesise`` gives it, and the rate (B,) in bits per image.

        A bottleneck with several rates draws one for each image in training and returns its bits times that rate's
        weight over the stage's; in eval mode it uses its default rate and returns the bits themselves.
        """

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

    def distillation_output(self, output: Any) -> Any:
        """Return what objectives compare with a teacher's answer: (B, K, ...) logits where classes exclude each other.

        By default the raw output.
        """
        return output

    @abc.abstractmethod
    def predict(self, output: Any) -> list[Prediction]:
        """Return one prediction an image, in the pixels of the network's input; autocast may be on, arrays are plain floats."""

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

    @classmethod
    def recognise(cls, root: str) -> str | None:
        """Return one line about the dataset in a folder, None if the folder is not of this layout.

        ``splitreg show dataset:NAME --root DIR`` prints the line, and error messages use it to name
        the right dataset. An implementation looks at names and small text files, decodes no image,
        and returns None as early as it can: it is asked about folders of any kind and size. Without
        an implementation a dataset is not suggested.

        Args:
            root: an existing folder or file.

        Returns:
            For example ``"yolo: 3 classes, 412 train and 88 val images, 1,904 boxes"``.

        Raises:
            DataError: the folder is of this layout, but damaged; the message says where.
        """
        return None

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
        features: stride -> feature that the heads read, each of them apart from the others: the gradient of a head's
            loss for one is what that head alone sends there.
        teacher: stride -> feature of the teacher, None without one.
        progress: 0 at the beginning of the stage, 1 at its end.
        outputs: head -> its answer (``Head.distillation_output``) for the images of this batch that have its target.
        teacher_outputs: head -> what the teacher says in its place, for the same images: the answer of the teacher's
            head of that name or, for a classification head, the logits of the teacher's own classifier.
        latent: (B, C, h, w) as ``Bottleneck.encoder`` returned it, before it is quantised; None where the encoder did
            not run.
        shared: the weights that learn in this stage and that several heads may depend on.
    """

    losses: Mapping[str, Mapping[str, Tensor]]
    rate: Tensor
    images: Tensor
    features: Mapping[int, Tensor]
    teacher: Mapping[int, Tensor] | None
    progress: float
    outputs: Mapping[str, Any] = field(default_factory=dict)
    teacher_outputs: Mapping[str, Any] = field(default_factory=dict)
    latent: Tensor | None = None
    shared: Sequence[Tensor] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCapabilities:
    """What a student or a teacher has that an objective may look at, known before the first step.

    Args:
        features: stride -> channels and stride.
        heads: head of the student -> task and labels of what is said there.
        latent: whether a bottleneck encodes in every step; when a head is trained late, none does.
    """

    features: Mapping[int, FeatureSpec]
    heads: Mapping[str, TargetSpec]
    latent: bool = True


class Objective(nn.Module, abc.ABC):
    """How losses are combined, and extra terms. The constructor is ``(heads, *, ...)`` with the heads' names.

    Attributes:
        reads_heads: it looks at losses or at what heads say. In a stage where no objective does, no head is run.
    """

    reads_heads: bool = True

    @abc.abstractmethod
    def forward(self, context: StepContext) -> dict[str, Tensor]:
        """Return scalar terms by name; the training loss is the sum over all objectives of a stage, plus the rate."""

    def problems(self, student: TeacherCapabilities, teacher: TeacherCapabilities | None) -> list[str]:
        """Return a sentence for everything that it needs and these do not have; asked before the first step.

        ``teacher`` is None without one. Each sentence names both sides where they do not fit.
        """
        return []
