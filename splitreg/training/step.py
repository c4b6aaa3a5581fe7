"""One training step as a module: images and targets in, the loss and its parts out.

Model, losses and objectives run inside one ``forward``, so that mixed precision and data parallelism see all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from splitreg.interfaces import Objective, StepContext
from splitreg.tasks import Target
from splitreg.training.teacher import Teacher

if TYPE_CHECKING:
    from splitreg.assembly import SplitModel


class Work:
    """What one step works on; a plain class, so that the libraries in between pass it on as it is.

    Args:
        images: (B, 3, H, W) normalised, on the model's device.
        targets: head -> targets of the images that have one.
        select: head -> indexes of those images; None: all images have one.
    """

    def __init__(
        self, images: Tensor, targets: Mapping[str, Sequence[Target]], select: Mapping[str, Tensor | None]
    ) -> None:
        self.images = images
        self.targets = targets
        self.select = select
        self.rate_lambda = 0.0
        self.progress = 0.0
        self.weights: Mapping[str, Tensor] | None = None


class Step(nn.Module):
    """Runs model, heads' losses and objectives.

    Args:
        model: what is trained.
        objectives: name -> objective; the loss is the sum of all their terms, plus the rate.
        live: heads whose losses can teach something; the others are not run.
        teacher: for objectives that want one; run without gradients.
    """

    def __init__(
        self,
        model: SplitModel,
        objectives: Mapping[str, Objective],
        live: Sequence[str],
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.objectives = nn.ModuleDict(objectives)
        self.live = tuple(live)
        self._teacher = teacher  # no module: a teacher's weights are no part of this one
        self._shared = tuple(_shared(model))  # in a tuple: they are registered where they belong
        self._tasks = {name: model.head(name).task for name in self.live}

    def forward(self, work: Work) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and its parts without gradient.

        The parts are ``loss``, ``bits`` (mean an image), ``HEAD.PART``, and ``OBJECTIVE.TERM`` where there are several.
        """
        select = {name: work.select[name] for name in self.live}
        with _captured(self.model.bottleneck.encoder) as latents:
            output = self.model(work.images, select)
        losses = self.model.loss(output.outputs, {name: work.targets[name] for name in output.outputs})
        parts = {f"{head}.{part}": value for head, found in losses.items() for part, value in found.items()}
        if work.weights is not None:
            weights = work.weights
            losses = {h: {p: value * weights[h] for p, value in found.items()} for h, found in losses.items()}
        taught, answers = self._taught(work.images, {name: select[name] for name in output.outputs})
        context = StepContext(
            losses=losses, rate=output.rate, images=work.images, features=output.features, teacher=taught,
            progress=work.progress, teacher_outputs=answers,
            outputs={name: self.model.head(name).distillation_output(said) for name, said in output.outputs.items()},
            latent=latents[-1] if latents else None, shared=self._shared,
        )  # fmt: skip
        terms = [
            (f"{name}.{term}", value) for name, made in self.objectives.items() for term, value in made(context).items()
        ]
        bits = output.rate.mean()
        total = sum((value for _, value in terms), bits.new_zeros(()))
        if work.rate_lambda:
            total = total + bits * (work.rate_lambda / (work.images.shape[-2] * work.images.shape[-1]))
        if not total.requires_grad:  # no image had a target: a step without effect, but a step
            total = total + 0.0 * next(p for p in self.parameters() if p.requires_grad).sum()
        parts.update({"loss": total, "bits": bits})
        if len(self.objectives) > 1:
            parts.update(terms)
        return total, {name: value.detach() for name, value in parts.items()}

    def _taught(
        self, images: Tensor, select: Mapping[str, Tensor | None]
    ) -> tuple[Mapping[int, Tensor] | None, Mapping[str, Any]]:
        """The teacher's features, and what it says in the place of the heads that ran."""
        if self._teacher is None:
            return None, {}
        lesson = self._teacher(images, select)
        return lesson.features, self._teacher.answers(lesson, {name: self._tasks[name] for name in select}, select)


def _shared(model: SplitModel) -> Iterator[Tensor]:
    """The weights that learn and belong to no head."""
    for name, part in model.parts().items():
        if not name.startswith("heads."):
            yield from (parameter for parameter in part.parameters() if parameter.requires_grad)


@contextmanager
def _captured(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what a module returns while this is open."""
    found: list[Tensor] = []
    hook = module.register_forward_hook(lambda _, __, given: found.append(given) if isinstance(given, Tensor) else None)
    try:
        yield found
    finally:
        hook.remove()
