"""One training step as a module: images and targets in, the loss and its parts out.

Model, losses and objectives run inside one ``forward``, so mixed precision and data parallelism cover all of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from splitreg.assembly import Trainable
from splitreg.data.classes import ClassMapping
from splitreg.data.loading import Batch
from splitreg.interfaces import Objective, StepContext
from splitreg.tasks import Target
from splitreg.training.teacher import Teacher


class StepBatch:
    """The input of one step. A plain class: Lightning would copy the fields of a dataclass one by one.

    Args:
        images: (B, 3, H, W) normalised, on the model's device.
        targets: head -> targets of the images that have one.
        select: head -> indexes of those images; None: all images have one.

    Attributes:
        rate_lambda: weight of the rate in this step.
        progress: position in the stage, 0 to 1.
        weights: head -> weight of its loss in this process; None: 1.
        mix: share of each image, and (B,) indexes of the images that it is mixed with; None: nothing is mixed.
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
        self.mix: tuple[float, Tensor] | None = None


def step_batch(batch: Batch, classes: Mapping[str, ClassMapping], device: torch.device) -> StepBatch:
    """Sort the targets of a batch by head.

    Args:
        batch: from a loader.
        classes: head -> its target, and the classes of the target as those of the head.
        device: device of the model.
    """
    if device.type != "cpu":
        batch = batch.to(device)
    targets: dict[str, list[Target]] = {}
    select: dict[str, Tensor | None] = {}
    for head, mapping in classes.items():
        column = [mapping.apply(target) for target in batch.targets.get(mapping.target, [])]
        rows = [row for row, target in enumerate(column) if target is not None]
        targets[head] = [target for target in column if target is not None]
        select[head] = None if len(rows) == len(batch) else torch.tensor(rows, dtype=torch.int64, device=device)
    return StepBatch(batch.images, targets, select)


def mix(batch: StepBatch, alpha: float) -> None:
    """Mix each image with another one of the batch (mix-up; Zhang et al. 2017, arXiv:1710.09412).

    A batch in which an image lacks a target stays as it is. Draws from torch's generator.

    Args:
        batch: changed in place.
        alpha: both parameters of the Beta distribution of the share.
    """
    if len(batch.images) < 2 or any(select is not None for select in batch.select.values()):
        return
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    order = torch.randperm(len(batch.images))
    batch.mix = share, order
    batch.images = torch.lerp(batch.images[order.to(batch.images.device)], batch.images, share)


class Step(nn.Module):
    """Runs the model, the heads' losses and the objectives.

    Args:
        model: the model to train.
        objectives: name -> objective; the loss is the sum of all their terms, plus the rate.
        active_heads: heads whose losses have a gradient; the others are not run.
        teacher: for objectives that compare with one; runs without gradients.
    """

    def __init__(
        self,
        model: Trainable,
        objectives: Mapping[str, Objective],
        active_heads: Sequence[str],
        teacher: Teacher | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.objectives = nn.ModuleDict(objectives)
        self.active_heads = tuple(active_heads)
        self._teacher = teacher  # not a module: a teacher's weights are no part of this one
        self._shared = tuple(_shared_parameters(model))  # a tuple, so that they are not registered twice
        self._reads_feature = model.plan.bottleneck.reads == "feature"
        self._everywhere = {name for objective in objectives.values() for name in objective.unlabelled_heads}
        self._tasks = {name: model.head(name).task for name in self.active_heads}

    def forward(self, batch: StepBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, and its parts without gradient.

        The parts are ``loss``, ``bits`` (mean per image), ``HEAD.PART``, ``bottleneck.NAME`` (losses of its
        own), and ``OBJECTIVE.TERM`` if there are several objectives.
        """
        labelled = {name: batch.select[name] for name in self.active_heads}
        select = {name: None if name in self._everywhere else rows for name, rows in labelled.items()}
        with _captured(self.model.bottleneck.encoder) as latents, _passed(self.model.bottleneck) as passed:
            output = self.model(batch.images, select)
        with_targets = {
            name: raw if select[name] is labelled[name] else select_rows(raw, labelled[name])
            for name, raw in output.outputs.items()
            if batch.targets[name]
        }
        losses = self._losses(with_targets, batch)
        parts = {f"{head}.{part}": value for head, values in losses.items() for part, value in values.items()}
        if batch.weights is not None:
            weights = batch.weights
            losses = {h: {p: value * weights[h] for p, value in values.items()} for h, values in losses.items()}
        features, teacher_outputs = self._teach(batch.images, {name: select[name] for name in output.outputs})
        context = StepContext(
            losses=losses, rate=output.rate, images=batch.images, features=output.features, teacher=features,
            progress=batch.progress, teacher_outputs=teacher_outputs,
            outputs={name: self.model.head(name).distillation_output(raw) for name, raw in output.outputs.items()},
            latent=latents[-1] if latents else None, shared=self._shared,
            symbols=self.model.bottleneck.symbols(latents[-1]) if latents else None,
            cut=passed[-1] if passed and self._reads_feature else None,
        )  # fmt: skip
        terms = [
            (f"{name}.{term}", value)
            for name, objective in self.objectives.items()
            for term, value in objective(context).items()
        ]
        bits = output.rate.mean()
        own = self.model.bottleneck.losses() if latents else {}
        total = sum((value for _, value in (*terms, *own.items())), bits.new_zeros(()))
        if batch.rate_lambda:
            total = total + bits * (batch.rate_lambda / (batch.images.shape[-2] * batch.images.shape[-1]))
        if not total.requires_grad:  # no image has a target: the step has no effect, but must run
            total = total + 0.0 * next(p for p in self.parameters() if p.requires_grad).sum()
        parts.update({"loss": total, "bits": bits, **{f"bottleneck.{name}": value for name, value in own.items()}})
        if len(self.objectives) > 1:
            parts.update(terms)
        return total, {name: value.detach() for name, value in parts.items()}

    def _losses(self, outputs: Mapping[str, Any], batch: StepBatch) -> Mapping[str, Mapping[str, Tensor]]:
        """Return the losses of the heads; those of mixed images are mixed alike."""
        targets = {name: batch.targets[name] for name in outputs}
        losses: Mapping[str, Mapping[str, Tensor]] = self.model.loss(outputs, targets)
        if batch.mix is None:
            return losses
        share, order = batch.mix
        others = {name: [column[row] for row in order.tolist()] for name, column in targets.items()}
        second = self.model.loss(outputs, others)
        return {
            head: {part: share * value + (1 - share) * second[head][part] for part, value in parts.items()}
            for head, parts in losses.items()
        }

    def _teach(
        self, images: Tensor, select: Mapping[str, Tensor | None]
    ) -> tuple[Mapping[int, Tensor] | None, Mapping[str, Any]]:
        """Return the teacher's features, and its outputs for the heads that ran."""
        if self._teacher is None:
            return None, {}
        output = self._teacher(images, select)
        tasks = {name: self._tasks[name] for name in select}
        return output.features, self._teacher.head_outputs(output, tasks, select)


def _shared_parameters(model: Trainable) -> Iterator[Tensor]:
    """Yield the parameters that learn and belong to no head."""
    for name, part in model.parts().items():
        if not name.startswith("heads."):
            yield from (parameter for parameter in part.parameters() if parameter.requires_grad)


def select_rows(output: Any, rows: Tensor | None) -> Any:
    """Return some images of a head's raw output: tensors, and dataclasses and containers of tensors."""
    if rows is None:
        return output
    if isinstance(output, Tensor):
        return output.index_select(0, rows) if output.ndim else output
    if isinstance(output, Mapping):
        return {name: select_rows(value, rows) for name, value in output.items()}
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        fields = [field.name for field in dataclasses.fields(output)]
        return dataclasses.replace(output, **{name: select_rows(getattr(output, name), rows) for name in fields})
    if isinstance(output, tuple | list):
        values = [select_rows(value, rows) for value in output]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
    return output


@contextmanager
def _captured(module: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the tensors that a module returns while the context is open."""
    outputs: list[Tensor] = []

    def keep(_: nn.Module, __: object, output: object) -> None:
        if isinstance(output, Tensor):
            outputs.append(output)

    hook = module.register_forward_hook(keep)
    try:
        yield outputs
    finally:
        hook.remove()


@contextmanager
def _passed(bottleneck: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Collect what a bottleneck reads and restores, cropped to one size, while the context is open."""
    pairs: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        source, restored = inputs[0], output[0]
        pairs.append((source, restored[..., : source.shape[-2], : source.shape[-1]]))

    hook = bottleneck.register_forward_hook(keep)
    try:
        yield pairs
    finally:
        hook.remove()
