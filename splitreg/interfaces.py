"""Interfaces of the kinds of plugin that run with torch; features are keyed by stride, never by index.

Shape letters: B images, C channels, H x W input pixels, h x w of a latent, s a stride, K classes.

Constructors take plain keyword options with defaults and no ``**kwargs``: the plan reads their
signature, so that a misspelt option fails with near names. The plan builds classes on torch's meta
device, without memory, so a constructor must not read tensor values.
"""

from __future__ import annotations

import abc
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from splitreg.coding import Codec, LatentModel
from splitreg.specs import FeatureSpec, SymbolSpec, TargetSpec
from splitreg.tasks import Clip, Prediction, Sample, Target

__all__ = [
    "Backbone",
    "Body",
    "Bottleneck",
    "Clip",
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
    """The backbone after a cut."""

    @abc.abstractmethod
    def forward(self, feature: Tensor) -> dict[int, Tensor]:
        """Run the stages after the cut.

        Args:
            feature: (B, C, H/s, W/s), the output of the prefix.

        Returns:
            stride -> (B, C, H/s, W/s): the feature at the cut, and that of every later stage (the last
            of each stride).
        """


class Backbone(nn.Module, abc.ABC):
    """A chain of named stages that can be cut between any two.

    The constructor of a family takes ``(name, *, pretrained=False, image_size=(H, W), ...)``; others
    have no ``name``.

    Attributes:
        stages: stage name -> channels and stride of its output, in order.
        mean: mean of the weights' training images per channel, on a scale of 0 to 1.
        std: standard deviation, likewise.
    """

    stages: Mapping[str, FeatureSpec]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @abc.abstractmethod
    def split(self, cut: str) -> tuple[nn.Module, Body]:
        """Return the stages up to and including ``cut`` (image to feature), and those after it.

        Both share this backbone's parameters. ``body(prefix(x))`` equals ``self(x)`` bit for bit at every
        stride that the body returns.
        """

    @abc.abstractmethod
    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """(B, 3, H, W) normalised -> stride -> (B, C, H/s, W/s) of the last stage of each stride."""

    def teach(self, image: Tensor) -> tuple[dict[int, Tensor], Tensor | None]:
        """Return features as ``forward``, and the (B, K) logits of the backbone's classifier, or None.

        A backbone with a classifier has an option ``classifier``, which is set for teachers.
        """
        return self(image), None


class Bottleneck(nn.Module, abc.ABC):
    """Analysis on the device, synthesis on the server.

    The constructor is ``(source, target, *, ...)``: specs of the input of ``analyse`` (the image, or the
    feature at the cut), and of the feature at the cut, which ``synthesise`` restores. It sets
    ``encoder`` and ``decoder``. The weights of ``encoder`` are stored on the device, all others
    (``decoder``, the prior) on the server.

    Attributes:
        source_default: ``"image"`` or ``"feature"``: the input if the recipe does not set it with ``from``.
        encoder: the modules that ``analyse`` uses.
        decoder: the modules that ``synthesise`` uses.
        latent: channels and stride (relative to the image) of the latent.
        symbol_spec: properties of the symbols.
    """

    source_default: ClassVar[str] = "feature"
    encoder: nn.Module
    decoder: nn.Module
    latent: FeatureSpec
    symbol_spec: SymbolSpec

    def analyse(self, x: Tensor) -> Tensor:
        """On the device: (B, C_source, H, W) -> (B, C, h, w) float32; a static graph, for ONNX.

        By default the output of ``encoder``.
        """
        latent: Tensor = self.encoder(x)
        return latent.float()

    def synthesise(self, latent: Tensor) -> Tensor:
        """On the server: (B, C, h, w) -> (B, C_target, h', w'), at least as large as the feature at the cut.

        The caller crops it at the right and the bottom. By default the output of ``decoder``.
        """
        restored: Tensor = self.decoder(latent)
        return restored

    @abc.abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Training path: the restored feature, as ``synthesise``, and the rate (B,) in bits per image.

        A bottleneck with several rates samples one per image in training, and scales its bits by the
        weight of that rate relative to the stage's. In eval mode it uses its default rate, without
        scaling.
        """

    @abc.abstractmethod
    def freeze(self) -> LatentModel:
        """Return the integer tables of the current weights; with a hyperprior, also its integer networks."""

    def rate(self, latent: Tensor) -> Tensor:
        """(B, C, h, w) latent -> (B,) bits, scaled and with random rates as in ``forward``.

        Only a bottleneck with an option ``context`` and a module ``context`` needs it, for ``fit_context``.
        """
        raise NotImplementedError

    def symbols(self, latent: Tensor) -> Tensor | None:
        """Return the (B, C, h, w) latent in steps of its quantiser, not rounded, with gradients; for objectives.

        Only a bottleneck whose steps are learned needs it: with others, objectives see the latent. By default None.
        """
        return None

    def losses(self) -> dict[str, Tensor]:
        """Return further losses of the last ``forward`` in training: name -> scalar, averaged over the images.

        They are added to the loss of the step, for example a commitment loss of a codebook, and logged
        as ``bottleneck.NAME``. ``forward`` stores them, and this method returns and forgets them: a
        module that holds a tensor with a graph cannot be copied. By default there are none.
        """
        return {}

    def auxiliary_loss(self) -> Tensor | None:
        """Return a loss for ``auxiliary_parameters`` only (the quantiles of the prior), or None."""
        return None

    def auxiliary_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that only ``auxiliary_loss`` trains."""
        return []


class Head(nn.Module, abc.ABC):
    """Features to predictions, loss and metric.

    The constructor is ``(features, labels, *, ...)``: ``features`` maps each stride of ``needs`` to its
    spec, ``labels`` are the class names (empty if the task has none).

    Attributes:
        task: its task; it is trained by a dataset's target of this task.
        needs: strides that it reads. If the body does not return one, the plan adds an adapter.
        primary: name of the primary metric; larger is better unless ``lower_is_better``.
    """

    task: ClassVar[str]
    needs: tuple[int, ...] = ()
    primary: ClassVar[str] = ""
    lower_is_better: ClassVar[bool] = False

    @classmethod
    def select(cls, available: Sequence[int]) -> tuple[int, ...]:
        """Return the strides that it reads from a body that returns ``available``; by default ``needs``."""
        return cls.needs

    @abc.abstractmethod
    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> Any:
        """Return the raw output for a batch; ``image_size`` is (H, W) of the network's input."""

    @abc.abstractmethod
    def loss(self, output: Any, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return scalar parts of the loss, averaged over the images, each of which has a target."""

    def distillation_output(self, output: Any) -> Any:
        """Return the output that objectives compare with a teacher's; by default the raw output.

        For mutually exclusive classes: (B, K, ...) logits.
        """
        return output

    @abc.abstractmethod
    def predict(self, output: Any) -> list[Prediction]:
        """Return one prediction per image, in pixels of the network's input.

        Autocast may be enabled; the arrays are float32.
        """

    @abc.abstractmethod
    def truth(self, target: Target) -> Prediction:
        """Return the target as a prediction, in the target's pixels, for drawings of the ground truth."""

    @abc.abstractmethod
    def metric(self) -> Any:
        """Return a new torchmetrics ``Metric``: ``update(list[Prediction], list[Target])``.

        ``compute`` returns name -> float, with ``primary`` among the names. Predictions and targets are
        in the same pixels, with the class indexes of the head. A metric that averages over classes may
        have ``restrict(classes)``: average only over these, because the dataset has no others.
        """


class Dataset(abc.ABC):
    """Samples with named targets, any of which may be missing.

    The constructor is ``(root, split, *, ...)``; ``root`` is a folder or None.

    Attributes:
        targets: target name -> task and labels.
        clips: the videos of which the samples are frames; empty for single images. Identities of
            objects hold within one clip.
    """

    targets: Mapping[str, TargetSpec]
    clips: Sequence[Clip] = ()

    @classmethod
    @abc.abstractmethod
    def describe(cls, root: str | None, **options: Any) -> Mapping[str, TargetSpec]:
        """Return ``targets``, reading a header at most; takes the options of the constructor.

        Raises:
            DataError: the folder has another layout; the message states the expected one.
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
    """Input of an objective in one step.

    Args:
        losses: head -> part -> scalar; without heads that have no target in this batch.
        rate: (B,) bits per image.
        images: (B, 3, H, W) normalised input.
        features: stride -> feature that the heads read. They are separate views, so that the gradient
            of a head's loss for one feature comes from that head only.
        teacher: stride -> feature of the teacher; None without one.
        progress: 0 at the start of the stage, 1 at its end.
        outputs: head -> ``Head.distillation_output`` for the images of this batch with its target, or for
            all of them, see ``Objective.unlabelled_heads``.
        teacher_outputs: head -> output of the teacher for the same images: that of the teacher's head
            of the same name or, for a classification head, the logits of the teacher's classifier.
        latent: (B, C, h, w), output of ``Bottleneck.encoder`` before quantisation; None if the
            encoder was not run.
        shared: trained weights that several heads may depend on.
        cut: the (B, C, h, w) feature at the cut, and what the bottleneck restores of it; None if the
            bottleneck reads the image, or was not run.
        symbols: (B, C, h, w), ``Bottleneck.symbols`` of the latent; None if the bottleneck has none.
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
    cut: tuple[Tensor, Tensor] | None = None
    symbols: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCapabilities:
    """What a student or a teacher provides to objectives, known before the first step.

    Args:
        features: stride -> channels and stride.
        heads: head of the student -> task and labels of its output.
        latent: whether a bottleneck encodes in every step; not when a head is trained late.
    """

    features: Mapping[int, FeatureSpec]
    heads: Mapping[str, TargetSpec]
    latent: bool = True


class Objective(nn.Module, abc.ABC):
    """Combines losses and adds terms. The constructor is ``(heads, *, ...)`` with the heads' names.

    Attributes:
        reads_heads: it uses losses or outputs of heads. Heads are not run in a stage in which no
            objective does.
        unlabelled_heads: heads that run on all images, also on those without a target; ``outputs`` of
            the context then has all images, ``losses`` only those with a target.
    """

    reads_heads: bool = True
    unlabelled_heads: Collection[str] = ()

    @abc.abstractmethod
    def forward(self, context: StepContext) -> dict[str, Tensor]:
        """Return name -> scalar; the loss is the sum over all objectives of a stage, plus the rate."""

    def problems(self, student: TeacherCapabilities, teacher: TeacherCapabilities | None) -> list[str]:
        """Return a sentence for each requirement that student or teacher do not meet.

        Called before the first step; ``teacher`` is None without one.
        """
        return []
