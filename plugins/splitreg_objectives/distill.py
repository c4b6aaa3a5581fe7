"""Knowledge distillation: a teacher's features at the same strides, and its logits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.nn import functional as F

from splitreg.errors import RecipeError, ShapeMismatch, TrainingError, suggest
from splitreg.interfaces import Objective, StepContext, TeacherCapabilities
from splitreg.tasks import CLASSIFICATION, SEGMENTATION


class Distill(Objective):
    """Squared errors to the teacher's features, and divergence from its classes.

    Args:
        heads: names of the heads.
        weight: weight of the features; 0: do not compare features.
        strides: strides of the compared features; by default all that both have.
        reduction: of the squared errors per image and stride: ``"sum"`` as published, ``"mean"``, or ``"relative"``:
            divided by the squares of the teacher's feature, so that one weight fits any backbone.
        logits: head -> weight of the Kullback-Leibler divergence from the teacher's classes, times
            the square of the temperature.
        temperature: divisor of the logits of both.
        unlabelled: compare logits on all images, also on those without a label for the head: a teacher
            needs none. By default only on images with a label.
        compare: ``"teacher"``; or ``"cut"``: the feature that the bottleneck restores with the one that it reads. This
            needs no teacher and no labels, and a bottleneck that reads the feature at the cut.

    Raises:
        RecipeError: an option is out of range.

    Source: Matsubara et al. 2022, arXiv:2108.11898 (features); Hinton et al. 2015, arXiv:1503.02531 (logits).
    """

    def __init__(
        self,
        heads: Sequence[str],
        *,
        weight: float = 1.0,
        strides: Sequence[int] | None = None,
        reduction: str = "sum",
        logits: Mapping[str, float] | None = None,
        temperature: float = 1.0,
        unlabelled: bool = False,
        compare: str = "teacher",
    ) -> None:
        super().__init__()
        if reduction not in ("sum", "mean", "relative"):
            raise RecipeError(f"objective distill: reduction must be 'sum', 'mean' or 'relative', got {reduction!r}")
        if compare not in ("teacher", "cut") or (compare == "cut" and (strides is not None or logits)):
            raise RecipeError(
                "objective distill: compare must be 'teacher', or 'cut' without strides and logits; got "
                f"{compare!r}, {strides!r} and {logits!r}"
            )
        self.compare = compare
        if not 0 < temperature < math.inf:
            raise RecipeError(f"objective distill: temperature must be above 0, got {temperature!r}")
        self.logits = dict(logits or {})
        for head, share in {"features": weight, **self.logits}.items():
            if head != "features" and head not in heads:
                raise RecipeError(
                    f"objective distill has logits of an unknown head {head!r}.{suggest(head, heads)} "
                    f"There are: {', '.join(heads)}"
                )
            if not isinstance(share, int | float) or not 0 <= share < math.inf:
                raise RecipeError(f"objective distill: the weight of {head!r} must be 0 or more, got {share!r}")
        self.weight, self.reduction, self.temperature = float(weight), reduction, float(temperature)
        self.reads_heads = any(self.logits.values())
        self.unlabelled_heads = tuple(head for head, share in self.logits.items() if share) if unlabelled else ()
        self.strides = None if strides is None else tuple(strides)

    def forward(self, context: StepContext) -> dict[str, Tensor]:
        """Return a term per stride, ``stride-8``, and one per head of ``logits`` with targets in the batch.

        Raises:
            TrainingError: there is no teacher.
            ShapeMismatch: features or logits of student and teacher differ in shape.
        """
        if self.compare == "cut":
            if context.cut is None:
                raise TrainingError("objective distill: compare = 'cut' needs a bottleneck with from = 'feature'")
            source, restored = context.cut
            return {"cut": self.weight * self._error(restored, source.detach())}
        if context.teacher is None:
            raise TrainingError(f"objective distill needs a teacher; {_HINT}")
        terms = {}
        if self.weight:
            for stride in self._compared(context.features, context.teacher):
                own, theirs = context.features[stride], context.teacher[stride]
                _same(f"features at stride {stride}", own, theirs)
                terms[f"stride-{stride}"] = self.weight * self._error(own, theirs)
        for head, weight in self.logits.items():
            if head in context.outputs and head in context.teacher_outputs:
                terms[head] = weight * self._divergence(head, context.outputs[head], context.teacher_outputs[head])
        return terms

    def _error(self, own: Tensor, theirs: Tensor) -> Tensor:
        """Return the squared error of (B, C, h, w) features, averaged over images."""
        own, theirs = own.float(), theirs.float()
        errors = (own - theirs).square().flatten(1)  # (B, C * h * w)
        per_image = errors.sum(1) if self.reduction == "sum" else errors.mean(1)
        if self.reduction == "relative":
            per_image = per_image / theirs.square().flatten(1).mean(1).clamp(min=1e-12)
        return per_image.mean()

    def problems(self, student: TeacherCapabilities, teacher: TeacherCapabilities | None) -> list[str]:
        """Check that the teacher has the compared features and heads, with equal channels and classes."""
        if self.compare == "cut":
            return []
        if teacher is None:
            return [f"it needs a teacher; {_HINT}"]
        problems = []
        for stride in self._compared(student.features, teacher.features) if self.weight else ():
            own, theirs = student.features.get(stride), teacher.features.get(stride)
            if own is None or theirs is None:
                problems.append(
                    f"it compares features at stride {stride}; the student has strides {_list(student.features)}, the "
                    f"teacher {_list(teacher.features)}"
                )
            elif own.channels != theirs.channels:
                problems.append(
                    f"at stride {stride} the student's feature has {own.channels} channels, the teacher's "
                    f"{theirs.channels}; use a teacher with the same backbone, or other strides"
                )
        if self.weight and not problems and not self._compared(student.features, teacher.features):
            problems.append(
                f"no stride is common: the student has strides {_list(student.features)}, the teacher "
                f"{_list(teacher.features)}; set weight = 0 to compare no features"
            )
        return problems + [line for head in self.logits for line in self._head(head, student, teacher)]

    def _head(self, head: str, student: TeacherCapabilities, teacher: TeacherCapabilities) -> list[str]:
        own, theirs = student.heads.get(head), teacher.heads.get(head)
        if own is None:  # a late head is trained without the others
            return []
        if own.task not in (CLASSIFICATION, SEGMENTATION):
            return [f"head {head!r} has no logits of exclusive classes: its task is {own.task}"]
        if theirs is None:
            return [f"the teacher has no head {head!r}; it has: {_list(teacher.heads)}"]
        if theirs.task != own.task or len(theirs.labels) != len(own.labels):
            return [
                f"head {head!r} does {own.task} with {len(own.labels)} classes, the teacher {theirs.task} with "
                f"{len(theirs.labels)}"
            ]
        for index, (ours, other) in enumerate(zip(own.labels, theirs.labels, strict=True)):
            if ours != other:
                return [f"class {index} of head {head!r} is {ours!r} for the student and {other!r} for the teacher"]
        return []

    def _compared(self, student: Mapping[int, object], teacher: Mapping[int, object]) -> tuple[int, ...]:
        return self.strides if self.strides is not None else tuple(sorted(student.keys() & teacher.keys()))

    def _divergence(self, head: str, own: Tensor, theirs: Tensor) -> Tensor:
        """Return KL(teacher || student), summed over classes (axis 1), averaged over images and pixels."""
        _same(f"logits of head {head!r}", own, theirs)
        student = F.log_softmax(own.float() / self.temperature, 1)
        teacher = F.log_softmax(theirs.float() / self.temperature, 1)
        return F.kl_div(student, teacher, reduction="none", log_target=True).sum(1).mean() * self.temperature**2


_HINT = 'set for example teacher = { backbone = "resnet50", pretrained = true } in the recipe'


def _same(what: str, own: object, theirs: object) -> None:
    if not isinstance(own, Tensor) or not isinstance(theirs, Tensor) or own.shape != theirs.shape:
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in (own, theirs)]
        raise ShapeMismatch(
            f"objective distill: {what} of the student are {shapes[0]}, those of the teacher {shapes[1]}"
        )


def _list(names: Mapping[int, object] | Mapping[str, object]) -> str:
    return ", ".join(map(str, names)) or "none"
