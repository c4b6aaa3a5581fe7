"""Teachers: finished models that show, without gradients, what a student should see and say.

A teacher runs in evaluation mode on the student's own batches, normalised anew where it was trained with another mean
and deviation. Its weights are in no checkpoint; a resumed run must have the same ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from splitreg.errors import PlanError, RecipeError, SplitregError
from splitreg.imaging import Preprocess
from splitreg.interfaces import Backbone, TeacherCapabilities
from splitreg.recipe import TeacherPart
from splitreg.registry import Registry
from splitreg.specs import FeatureSpec, TargetSpec
from splitreg.tasks import CLASSIFICATION
from splitreg.training.parts import expand

if TYPE_CHECKING:
    from splitreg.assembly import SplitModel

#: head -> indexes of the images to run it on; None: all of them.
Selection = Mapping[str, Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherOutput:
    """What a teacher says of a batch.

    Args:
        features: stride -> (B, C, H/s, W/s).
        outputs: head -> its answer for the images selected for it.
        logits: (B, K) of a classifier that belongs to no head, for all images.
    """

    features: Mapping[int, Tensor]
    outputs: Mapping[str, Any] = field(default_factory=dict)
    logits: Tensor | None = None


class Teacher:
    """A teacher; ``as_teacher`` makes one of what a caller has.

    Args:
        run: (images, selection) -> what it says of them.
        name: for messages.
        module: holds its weights, if any.
        mean: of the images that it knows; None: the student's.
        std: likewise.
        heads: task and labels of its heads.
        parts: of a whole model, by name.
    """

    def __init__(
        self,
        run: Callable[[Tensor, Selection], TeacherOutput],
        *,
        name: str,
        module: nn.Module | None = None,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        heads: Mapping[str, TargetSpec] | None = None,
        parts: Mapping[str, nn.Module] | None = None,
    ) -> None:
        self._run, self.name, self._module = run, name, module
        self._mean, self._std = mean, std
        self.heads, self.parts = dict(heads or {}), dict(parts or {})
        self.identity = name if module is None else weights_digest(module.state_dict())
        if module is not None:
            module.eval()
        self._scale: Tensor | None = None
        self._shift: Tensor | None = None

    def follow(self, preprocess: Preprocess) -> None:
        """Learn how the student's images are normalised."""
        self._scale = self._shift = None
        mean, std = self._mean or preprocess.mean, self._std or preprocess.std
        if (mean, std) != (preprocess.mean, preprocess.std):
            theirs, own = torch.tensor([mean, std]), torch.tensor([preprocess.mean, preprocess.std])
            self._scale = (own[1] / theirs[1])[:, None, None]
            self._shift = ((own[0] - theirs[0]) / theirs[1])[:, None, None]

    def to(self, device: torch.device) -> None:
        """Move it to the student."""
        if self._module is not None:
            self._module.to(device).to(memory_format=torch.channels_last).eval()

    @torch.no_grad()
    def __call__(self, images: Tensor, selection: Selection) -> TeacherOutput:
        """Return what it says of (B, 3, H, W) images that are normalised for the student."""
        if self._scale is not None and self._shift is not None:
            images = images * self._scale.to(images.device) + self._shift.to(images.device)
        return self._run(images, {name: rows for name, rows in selection.items() if name in self.heads})

    def answers(self, lesson: TeacherOutput, tasks: Mapping[str, str], selection: Selection) -> dict[str, Any]:
        """Return head -> what the teacher says in the place of the student's head, for the images selected for that.

        Args:
            lesson: of the batch.
            tasks: head of the student -> its task; heads that ran.
            selection: of the student.
        """
        found = {name: lesson.outputs[name] for name in tasks if name in lesson.outputs}
        for name, task in tasks.items():
            if name not in found and task == CLASSIFICATION and lesson.logits is not None:
                rows = selection[name]
                found[name] = lesson.logits if rows is None else lesson.logits.index_select(0, rows)
        return found

    def capabilities(self, student: TeacherCapabilities, size: tuple[int, int]) -> TeacherCapabilities:
        """Return what it has for this student: it is run on one grey image of (H, W).

        Raises:
            PlanError: it does not run on images of the student's size.
        """
        try:
            place = next(iter(self._module.parameters()), None) if self._module is not None else None
            lesson = self(torch.zeros(1, 3, *size, device="cpu" if place is None else place.device), {})
        except SplitregError:
            raise
        except Exception as cause:  # a foreign model may raise anything
            reason = " ".join(str(cause).split())
            raise PlanError(
                [f"teacher {self.name} does not run on the student's {size[1]}x{size[0]} pixels: {reason}"]
            ) from cause
        said = {name: spec for name, spec in self.heads.items() if name in student.heads}
        if lesson.logits is not None:
            nameless = tuple(f"class {i}" for i in range(lesson.logits.shape[1]))
            for name, spec in student.heads.items():
                if spec.task == CLASSIFICATION and name not in said:
                    known = spec.labels if len(spec.labels) == len(nameless) else nameless
                    said[name] = TargetSpec(task=CLASSIFICATION, labels=known)
        features = {s: FeatureSpec(channels=f.shape[1], stride=s) for s, f in lesson.features.items()}
        return TeacherCapabilities(features=features, heads=said)


def as_teacher(value: Any) -> Teacher:
    """Make a teacher of a ``SplitModel``, a ``Backbone``, or any callable images -> features by stride (or ``TeacherOutput``).

    Raises:
        RecipeError: it is none of these.
    """
    from splitreg.assembly import SplitModel

    if isinstance(value, Teacher):
        return value
    if isinstance(value, SplitModel):
        return _of_model(value)
    if isinstance(value, Backbone):
        return _of_backbone(value)
    if not callable(value):
        raise RecipeError(
            f"a teacher is a model, a backbone, or a function from images to features by stride; got {value!r}"
        )

    def run(images: Tensor, _: Selection) -> TeacherOutput:
        said = value(images)
        return said if isinstance(said, TeacherOutput) else TeacherOutput(features=said)

    name = getattr(value, "__qualname__", type(value).__qualname__)
    return Teacher(run, name=name, module=value if isinstance(value, nn.Module) else None)


def open_teacher(part: TeacherPart, size: tuple[int, int], registry: Registry) -> Teacher:
    """Build the teacher of a recipe for inputs of (H, W).

    Raises:
        BundleError: no bundle there.
        UnknownComponent: no such backbone.
        RecipeError: an option that it does not have.
    """
    if part.bundle is not None:
        from splitreg.assembly import load

        return _of_model(load(part.bundle, registry=registry), f"bundle {part.bundle}")
    assert part.backbone is not None
    component = registry.component("backbone", part.backbone.name)
    reserved = {"image_size": size, "classifier": True}
    reserved = {key: value for key, value in reserved.items() if key in component.parameters}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a teacher without weights is the same when the run is resumed
        backbone: Backbone = component.create(options=part.backbone.options, reserved=reserved)
    return _of_backbone(backbone, f"backbone {part.backbone.name}")


def begin(model: SplitModel, teacher: Teacher, names: Iterable[str]) -> None:
    """Give parts of a student the weights that its teacher has there; in place.

    Raises:
        PlanError: the teacher has no such part, or one of another shape.
        RecipeError: the student has no such part.
    """
    problems = []
    for name in expand(model.parts(), names):
        part, there = model.parts()[name], teacher.parts.get(name)
        own, theirs = ({} if m is None else m.state_dict() for m in (part, there))
        other = [k for k in {**own, **theirs} if k not in own or k not in theirs or own[k].shape != theirs[k].shape]
        if there is None:
            problems.append(f"the student's {name} is to start as the teacher's, which has: {', '.join(teacher.parts)}")
        elif other:
            problems.append(
                f"the student's {name} is to start as the teacher's, and they differ in {len(other)} tensors such as "
                f"{other[0]}; take the same backbone, cut and heads"
            )
        else:
            part.load_state_dict(theirs)
    if problems:
        raise PlanError(problems)


def student_capabilities(model: SplitModel) -> TeacherCapabilities:
    """Return what a student has for objectives to look at."""
    heads = [head for head in model.plan.heads if head.name in model.heads]
    return TeacherCapabilities(
        features=dict(heads[0].available),
        heads={head.name: TargetSpec(task=head.task, labels=head.labels) for head in heads},
        latent="encoder" in model.parts(),
    )


def weights_digest(state: Mapping[str, Tensor], start: bytes = b"") -> str:
    """SHA-256 of tensors and their names."""
    total = hashlib.sha256(start)
    for name, tensor in sorted(state.items()):
        total.update(name.encode())
        total.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _of_model(model: SplitModel, name: str = "model") -> Teacher:
    def run(images: Tensor, selection: Selection) -> TeacherOutput:
        said = model(images, selection)
        return TeacherOutput(
            features=said.features,
            outputs={name: model.head(name).distillation_output(x) for name, x in said.outputs.items()},
        )

    heads = {head.name: TargetSpec(task=head.task, labels=head.labels) for head in model.plan.heads}
    return Teacher(
        run, name=name, module=model, mean=model.plan.preprocess.mean, std=model.plan.preprocess.std, heads=heads,
        parts=model.parts(),
    )  # fmt: skip


def _of_backbone(backbone: Backbone, name: str = "backbone") -> Teacher:
    def run(images: Tensor, _: Selection) -> TeacherOutput:
        features, logits = backbone.teach(images)
        return TeacherOutput(features=features, logits=logits)

    return Teacher(run, name=name, module=backbone, mean=backbone.mean, std=backbone.std)
