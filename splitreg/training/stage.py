"""One stage of a run: what learns, with which optimiser and schedule, and what one step does."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Module, Parameter
from torch.nn.parallel import DistributedDataParallel

from splitreg.data.augmentations import with_preset
from splitreg.data.loading import Batch
from splitreg.interfaces import Objective
from splitreg.training import devices, optimizers, parts
from splitreg.training.averaging import WeightAverage
from splitreg.training.hooks import OptimizerFactory
from splitreg.training.objectives import create_objectives
from splitreg.training.schedules import ramp, schedule
from splitreg.training.step import Step, mix, step_batch

if TYPE_CHECKING:
    from splitreg.training.setup import Run


class StageRun:
    """A stage, ready to step.

    Args:
        run: the run; its model is trained in place and moved to the device.
        number: number of the stage, from 0.
        steps_per_epoch: the same on all processes.
        device: see ``TrainOptions``.
    """

    def __init__(self, run: Run, number: int, *, steps_per_epoch: int, device: str = "auto") -> None:
        self.model, self.stage, self.classes = run.model, run.recipe.stages[number], run.train_classes
        self.steps_per_epoch = steps_per_epoch
        self._key = f"{run.recipe.seed}/{number}"
        self._mixup = float(with_preset(run.recipe.augment).get("mixup", 0.0)) if run.loaders.mixed else 0.0
        self.fabric = devices.open_fabric(device, self.stage.precision)
        self.model.to(memory_format=torch.channels_last)  # convolutions are a fifth faster
        self._freezer = parts.Freezer(self.model)
        learning = parts.select(self.model.parts(), self.stage.train, self.stage.freeze)
        self._freezer.apply(learning, self.stage.freeze_to)
        devices.seed_step(torch.device("cpu"), seed_of(self._key, "objectives"))
        objectives = create_objectives(self.stage, self.model.heads, run.registry)
        self.active_heads = self._active_heads(learning, objectives)
        step = Step(self.model, objectives, self.active_heads, run.teacher)
        if run.teacher is not None:
            run.teacher.to(self.fabric.device)
        self._set_up_optimizers(step, run.hooks.find_optimizer())
        steps, own = self.stage.epochs * steps_per_epoch, run.hooks.find_schedule()
        self._schedule = (lambda step: own(step, steps, steps_per_epoch)) if own is not None else schedule(
            self.stage.schedule.name, self.stage.schedule.options, steps=steps,
            per_epoch=steps_per_epoch,
        )  # fmt: skip
        modules = [self.model.parts()[name] for name in learning]
        self.average = WeightAverage(modules, self.stage.average) if self.stage.average else None
        self._objectives = step.objectives

    def _active_heads(self, learning: tuple[str, ...], objectives: Mapping[str, Objective]) -> tuple[str, ...]:
        """Return the heads whose losses have a gradient: all of them while anything before the heads learns."""
        if not any(objective.reads_heads for objective in objectives.values()):
            return ()
        shared = any(not name.startswith("heads.") for name in learning)
        return tuple(name for name in self.model.heads if shared or f"heads.{name}" in learning)

    def _set_up_optimizers(self, step: Step, own: OptimizerFactory | None) -> None:
        auxiliary = [p for p in self.model.bottleneck.auxiliary_parameters() if p.requires_grad]
        ids = {id(parameter) for parameter in auxiliary}
        main: list[Parameter] = [p for p in step.parameters() if p.requires_grad and id(p) not in ids]
        parts = self.model.parts()
        factors = optimizers.backbone_factors(
            [parts[name] for name in ("prefix", "body") if name in parts],
            self.stage.backbone_lr,
            self.stage.layer_decay,
        )
        name, options = self.stage.optimizer.name, self.stage.optimizer.options
        lr = options.get("lr", optimizers.optimizer_options(name)["lr"])
        groups = optimizers.scaled_groups(main, factors, lr)
        self._optimizer = optimizers.optimizer(name, options, groups) if own is None else own(main)
        self._auxiliary = torch.optim.Adam(auxiliary, lr=optimizers.AUXILIARY_LR) if auxiliary else None
        if self.fabric.world_size > 1:  # trained by a loss of their own, the same on every process
            names = [name for name, parameter in step.named_parameters() if id(parameter) in ids]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(step, names)  # type: ignore[no-untyped-call]
        self._base_lrs = [float(group["lr"]) for group in self._optimizer.param_groups]
        self._module: Module
        self._module, self._fabric_optimizer = self.fabric.setup(step, self._optimizer)

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.fabric.device

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def train_mode(self) -> None:
        """Return to training after a validation."""
        self._module.train()
        self._freezer.train_mode()

    def step(self, batch: Batch, epoch: int, index: int) -> dict[str, torch.Tensor]:
        """Take step ``index`` of ``epoch``; returns the parts of its loss, on the device."""
        done = epoch * self.steps_per_epoch + index
        inputs = step_batch(batch, self.classes, self.device)
        inputs.progress = done / (self.stage.epochs * self.steps_per_epoch)
        inputs.rate_lambda = ramp(self.stage.rate_lambda, self.stage.rate_warmup, done / self.steps_per_epoch)
        if self.fabric.world_size > 1:
            inputs.weights = devices.balance(self.fabric, inputs, self.active_heads)
        devices.seed_step(self.device, seed_of(self._key, epoch, index, self.fabric.global_rank))
        optimizers.set_lr(self._optimizer, self._base_lrs, self._schedule(done))
        if self._mixup:
            mix(inputs, self._mixup)
        loss, loss_parts = self._module(inputs)
        first, size = index % self.stage.accumulate == 0, self._window(index)
        if first:  # Only now: gradients freed before the forward pass return their memory to the system.
            self._fabric_optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss if size == 1 else loss / size)
        if not self.closes_window(index):
            return dict(loss_parts)
        if self.stage.clip:
            self.fabric.clip_gradients(
                self._module, self._fabric_optimizer, max_norm=self.stage.clip, error_if_nonfinite=False
            )
        self._fabric_optimizer.step()
        if self._auxiliary is not None:
            self._step_auxiliary(self._auxiliary)
        if self.average is not None:
            self.average.update()
        return dict(loss_parts)

    def closes_window(self, index: int) -> bool:
        """Whether the optimiser steps after batch ``index`` of an epoch: only there can a run be interrupted."""
        return (index + 1) % self.stage.accumulate == 0 or index + 1 == self.steps_per_epoch

    def _window(self, index: int) -> int:
        """Return the number of batches whose gradients are added for the step that batch ``index`` is part of."""
        start = index - index % self.stage.accumulate
        return min(self.stage.accumulate, self.steps_per_epoch - start)

    def finish(self) -> None:
        """End the stage: the average replaces the weights, and nothing is frozen."""
        if self.average is not None:
            self.average.commit()
        self.model.zero_grad(set_to_none=True)
        self.model.to(memory_format=torch.contiguous_format)
        self._freezer.restore()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed stage needs beside the model's weights."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "auxiliary": None if self._auxiliary is None else self._auxiliary.state_dict(),
            "objectives": dict(self._objectives.state_dict()),
            "average": None if self.average is None else self.average.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        self._optimizer.load_state_dict(state["optimizer"])
        if self._auxiliary is not None:
            self._auxiliary.load_state_dict(state["auxiliary"])
        self._objectives.load_state_dict(state["objectives"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])

    def _step_auxiliary(self, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=True)  # the main loss may have left gradients here
        loss = self.model.bottleneck.auxiliary_loss()
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def seed_of(*key: object) -> int:
    """Return a 63-bit seed for a key, the same on every machine.

    >>> seed_of(0, 1) == seed_of(0, 1) != seed_of(1, 0)
    True
    """
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
