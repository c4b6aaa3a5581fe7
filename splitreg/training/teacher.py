"""Teachers: finished models whose features and outputs a student learns to reproduce.

A teacher runs in evaluation mode, without gradients, on the student's batches. Images are normalised again if
it was trained with another mean and standard deviation. Its weights are in no checkpoint; a resumed run needs
the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from splitreg.assembly import SplitModel, Trainable, load
from splitreg.assembly.groups import expand_parts
from splitreg.data.classes import match
from splitreg.errors import PlanError, RecipeError, SplitregError
from splitreg.imaging import Preprocess
from splitreg.interfaces import Backbone, TeacherCapabilities
from splitreg.recipe import TeacherPart
from splitreg.registry import Registry
from splitreg.specs import FeatureSpec, TargetSpec
from splitreg.tasks import CLASSIFICATION, SEGMENTATION

#: Tasks whose outputs are logits of exclusive classes, which can be brought into another order.
_EXCLUSIVE = (CLASSIFICATION, SEGMENTATION)

#: head -> indexes of the images to run it on; None: all of them.
Selection = Mapping[str, Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherOutput:
    """Output of a teacher for a batch.

    Args:
        features: stride -> (B, C, H/s, W/s).
        outputs: head -> its output for the images selected for it.
        logits: (B, K) of a classifier that belongs to no head, for all images.
    """

    features: Mapping[int, Tensor]
    outputs: Mapping[str, Any] = field(default_factory=dict)
    logits: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherInfo:
    """Facts about a teacher.

    Args:
        name: for messages.
        mean: per-channel mean of its images; None: the student's.
        std: per-channel standard deviation of its images; None: the student's.
        heads: task and labels of its heads.
        parts: its parts by name, if it is a whole model.
    """

    name: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    heads: Mapping[str, TargetSpec] = field(default_factory=dict)
    parts: Mapping[str, nn.Module] = field(default_factory=dict)


class Teacher:
    """A teacher; ``as_teacher`` creates one.

    Args:
        run: (images, selection) -> its output.
        info: facts about it.
        module: holds its weights, if there are any.
    """

    def __init__(
        self, run: Callable[[Tensor, Selection], TeacherOutput], info: TeacherInfo, module: nn.Module | None = None
    ) -> None:
        self._run, self.info, self._module = run, info, module
        self.identity = info.name if module is None else weights_digest(module.state_dict())
        if module is not None:
            module.eval()
        self._classes: dict[str, Tensor] = {}  # head -> the teacher's class for each class of the student
        self._scale: Tensor | None = None
        self._shift: Tensor | None = None

    def follow(self, preprocess: Preprocess) -> None:
        """Adapt to the normalisation of the student's images."""
        self._scale = self._shift = None
        mean, std = self.info.mean or preprocess.mean, self.info.std or preprocess.std
        if (mean, std) != (preprocess.mean, preprocess.std):
            theirs, own = torch.tensor([mean, std]), torch.tensor([preprocess.mean, preprocess.std])
            self._scale = (own[1] / theirs[1])[:, None, None]
            self._shift = ((own[0] - theirs[0]) / theirs[1])[:, None, None]

    def to(self, device: torch.device) -> None:
        """Move it to the student's device."""
        if self._module is not None:
            self._module.to(device).to(memory_format=torch.channels_last).eval()

    @torch.no_grad()
    def __call__(self, images: Tensor, selection: Selection) -> TeacherOutput:
        """Run it on (B, 3, H, W) images that are normalised for the student."""
        if self._scale is not None and self._shift is not None:
            images = images * self._scale.to(images.device) + self._shift.to(images.device)
        return self._run(images, {name: rows for name, rows in selection.items() if name in self.info.heads})

    def head_outputs(self, output: TeacherOutput, tasks: Mapping[str, str], selection: Selection) -> dict[str, Any]:
        """Return head of the student -> output of the teacher for the same images.

        A classification head without a counterpart gets the logits of the teacher's own classifier.

        Args:
            output: output for the batch.
            tasks: head of the student -> its task, for heads that ran.
            selection: selection of the student.
        """
        outputs = {
            name: _select(output.outputs[name], self._classes.get(name)) for name in tasks if name in output.outputs
        }
        for name, task in tasks.items():
            if name not in outputs and task == CLASSIFICATION and output.logits is not None:
                rows = selection[name]
                outputs[name] = output.logits if rows is None else output.logits.index_select(0, rows)
        return outputs

    def _match(self, student: TeacherCapabilities) -> dict[str, TargetSpec]:
        """Match the classes by name with the student's; outputs are then in the student's order."""
        heads: dict[str, TargetSpec] = {}
        for name, spec in self.info.heads.items():
            own = student.heads.get(name)
            if own is None:
                continue
            heads[name] = spec
            if own.task != spec.task or own.task not in _EXCLUSIVE or own.labels == spec.labels:
                continue
            indexes, _ = match(spec.labels, own.labels)
            known = [index for index in indexes if index is not None]
            if len(known) == len(indexes):
                self._classes[name] = torch.tensor(known)
                heads[name] = own
        return heads

    def capabilities(self, student: TeacherCapabilities, size: tuple[int, int]) -> TeacherCapabilities:
        """Return what it offers to this student; runs it on one grey image of (H, W).

        Raises:
            PlanError: it does not run on images of the student's size.
        """
        try:
            parameter = next(iter(self._module.parameters()), None) if self._module is not None else None
            output = self(torch.zeros(1, 3, *size, device="cpu" if parameter is None else parameter.device), {})
        except SplitregError:
            raise
        except Exception as cause:  # a model of any origin may raise anything
            reason = " ".join(str(cause).split())
            raise PlanError(
                [f"teacher {self.info.name} does not run on the student's {size[1]}x{size[0]} pixels: {reason}"]
            ) from cause
        heads = self._match(student)
        if output.logits is not None:
            unnamed = tuple(f"class {i}" for i in range(output.logits.shape[1]))
            for name, spec in student.heads.items():
                if spec.task == CLASSIFICATION and name not in heads:
                    labels = spec.labels if len(spec.labels) == len(unnamed) else unnamed
                    heads[name] = TargetSpec(task=CLASSIFICATION, labels=labels)
        features = {s: FeatureSpec(channels=f.shape[1], stride=s) for s, f in output.features.items()}
        return TeacherCapabilities(features=features, heads=heads)


def _same_order(labels: Sequence[str], theirs: Sequence[str]) -> bool:
    return match(labels, theirs)[0] == tuple(range(len(labels)))


def _select(logits: Any, classes: Tensor | None) -> Any:
    """Return the logits of some classes, axis 1."""
    return logits if classes is None else logits.index_select(1, classes.to(logits.device))


def as_teacher(value: Any) -> Teacher:
    """Create a teacher.

    Args:
        value: a ``SplitModel``, a ``Backbone``, or a function from images to features by stride or to a
            ``TeacherOutput``.

    Raises:
        RecipeError: it is none of these.
    """
    if isinstance(value, Teacher):
        return value
    if isinstance(value, SplitModel):
        return _from_model(value)
    if isinstance(value, Backbone):
        return _from_backbone(value)
    if not callable(value):
        raise RecipeError(
            f"a teacher is a model, a backbone, or a function from images to features by stride; got {value!r}"
        )

    def run(images: Tensor, _: Selection) -> TeacherOutput:
        output = value(images)
        return output if isinstance(output, TeacherOutput) else TeacherOutput(features=output)

    name = getattr(value, "__qualname__", type(value).__qualname__)
    return Teacher(run, TeacherInfo(name=name), value if isinstance(value, nn.Module) else None)


def open_teacher(part: TeacherPart, size: tuple[int, int], registry: Registry) -> Teacher:
    """Load or build the teacher of a recipe for inputs of (H, W).

    Raises:
        BundleError: no bundle there.
        UnknownComponent: no such backbone.
        RecipeError: an unknown option.
    """
    if part.bundle is not None:
        return _from_model(load(part.bundle, registry=registry), f"bundle {part.bundle}")
    assert part.backbone is not None
    component = registry.component("backbone", part.backbone.name)
    reserved = {"image_size": size, "classifier": True}
    reserved = {key: value for key, value in reserved.items() if key in component.parameters}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a teacher with random weights is the same in a resumed run
        backbone: Backbone = component.create(options=part.backbone.options, reserved=reserved)
    return _from_backbone(backbone, f"backbone {part.backbone.name}")


def copy_parts(teacher: Teacher, model: SplitModel, names: Iterable[str]) -> None:
    """Copy the weights of some parts from a teacher to its student.

    Args:
        teacher: gives the weights.
        model: the student, changed in place.
        names: names of parts or groups.

    Raises:
        PlanError: the teacher has no such part, or one of another shape.
        RecipeError: the student has no such part.
    """
    problems, theirs = [], teacher.info.parts
    labels = {f"heads.{head.name}": head.labels for head in model.plan.heads}
    their_labels = {f"heads.{name}": spec.labels for name, spec in teacher.info.heads.items()}
    for name, part in model.parts().items():
        if name not in expand_parts(list(model.parts()), names):
            continue
        if name not in theirs:
            problems.append(f"the student's {name} cannot start from the teacher, which has: {', '.join(theirs)}")
            continue
        own, other = part.state_dict(), theirs[name].state_dict()
        differing = [k for k in {**own, **other} if k not in own or k not in other or own[k].shape != other[k].shape]
        if differing:
            problems.append(
                f"the student's {name} cannot start from the teacher's: {len(differing)} tensors differ, such as "
                f"{differing[0]}; use the same backbone, cut and heads"
            )
        elif name in labels and not _same_order(labels[name], their_labels.get(name, ())):
            problems.append(
                f"the student's {name} cannot start from the teacher's: its classes are {', '.join(labels[name][:8])}, "
                f"the teacher's {', '.join(their_labels[name][:8])}; use the same classes in the same order"
            )
        else:
            part.load_state_dict(other)
    if problems:
        raise PlanError(problems)


def student_capabilities(model: Trainable) -> TeacherCapabilities:
    """Return what a student has that objectives can use."""
    heads = [head for head in model.plan.heads if head.name in model.heads]
    return TeacherCapabilities(
        features=dict(heads[0].available),
        heads={head.name: TargetSpec(task=head.task, labels=head.labels) for head in heads},
        latent="encoder" in model.parts(),
    )


def weights_digest(state: Mapping[str, Tensor], start: bytes = b"") -> str:
    """Return the SHA-256 of tensors and their names; ``start`` is hashed before them."""
    total = hashlib.sha256(start)
    for name, tensor in sorted(state.items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _from_model(model: SplitModel, name: str = "model") -> Teacher:
    def run(images: Tensor, selection: Selection) -> TeacherOutput:
        output = model(images, selection)
        return TeacherOutput(
            features=output.features,
            outputs={name: model.head(name).distillation_output(raw) for name, raw in output.outputs.items()},
        )

    heads = {head.name: TargetSpec(task=head.task, labels=head.labels) for head in model.plan.heads}
    preprocess = model.plan.preprocess
    info = TeacherInfo(name=name, mean=preprocess.mean, std=preprocess.std, heads=heads, parts=model.parts())
    return Teacher(run, info, model)


def _from_backbone(backbone: Backbone, name: str = "backbone") -> Teacher:
    def run(images: Tensor, _: Selection) -> TeacherOutput:
        features, logits = backbone.teach(images)
        return TeacherOutput(features=features, logits=logits)

    return Teacher(run, TeacherInfo(name=name, mean=backbone.mean, std=backbone.std), backbone)
