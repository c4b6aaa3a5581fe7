"""One stage of a run: what learns, with which optimiser and schedule, and what one step does."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.parallel import DistributedDataParallel

from splitreg.data.loading import Batch
from splitreg.recipe import Stage
from splitreg.registry import Registry
from splitreg.training import devices, optimizers, parts
from splitreg.training.averaging import Average
from splitreg.training.data import to_work
from splitreg.training.objectives import objectives
from splitreg.training.schedules import ramp, schedule
from splitreg.training.step import Step
from splitreg.training.teacher import Teacher

if TYPE_CHECKING:
    from splitreg.assembly import SplitModel


class StageRun:
    """A stage, ready to step.

    Args:
        model: what is trained, in place; it is moved to the device.
        stage: of the recipe.
        number: of the stage, from 0.
        seed: of the recipe.
        per_epoch: steps of an epoch, the same on all processes.
        targets: head -> name of the target that trains it.
        registry: for the objectives.
        device: see ``devices.fabric``.
        teacher: for objectives that want one.
    """

    def __init__(
        self,
        model: SplitModel,
        stage: Stage,
        *,
        number: int,
        seed: int,
        per_epoch: int,
        targets: Mapping[str, str],
        registry: Registry,
        device: str = "auto",
        teacher: Teacher | None = None,
    ) -> None:
        self.model, self.stage, self.targets = model, stage, targets
        self.per_epoch = per_epoch
        self._key = f"{seed}/{number}"
        self.fabric = devices.fabric(device, stage.precision)
        model.to(memory_format=torch.channels_last)  # convolutions take a fifth less of a step
        self._freezer = parts.Freezer(model)
        learning = parts.select(model.parts(), stage.train, stage.freeze)
        self._freezer.apply(learning)
        devices.seed_step(torch.device("cpu"), mixed(self._key, "objectives"))
        made = objectives(stage, model.heads, registry)
        read = any(objective.reads_heads for objective in made.values())
        shared = any(not name.startswith("heads.") for name in learning)
        self.live = tuple(name for name in model.heads if read and (shared or f"heads.{name}" in learning))
        step = Step(model, made, self.live, teacher)
        if teacher is not None:
            teacher.to(self.fabric.device)
        auxiliary = [p for p in model.bottleneck.auxiliary_parameters() if p.requires_grad]
        own = {id(parameter) for parameter in auxiliary}
        main = [p for p in step.parameters() if p.requires_grad and id(p) not in own]
        raw = optimizers.optimizer(stage.optimizer.name, stage.optimizer.options, main)
        self._auxiliary = torch.optim.Adam(auxiliary, lr=optimizers.AUXILIARY_LR) if auxiliary else None
        if self.fabric.world_size > 1:  # trained by a loss of their own, the same on every process
            names = [name for name, parameter in step.named_parameters() if id(parameter) in own]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(step, names)  # type: ignore[no-untyped-call]
        self._module, self._optimizer = self.fabric.setup(step, raw)
        self._raw = raw
        self._base = [float(group["lr"]) for group in raw.param_groups]
        self._factor = schedule(
            stage.schedule.name, stage.schedule.options, steps=stage.epochs * per_epoch, per_epoch=per_epoch
        )
        self.average = Average(model, stage.average) if stage.average else None
        self._objective_state = step.objectives

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.fabric.device

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return float(self._raw.param_groups[0]["lr"])

    def train_mode(self) -> None:
        """Return to training after a validation."""
        self._module.train()
        self._freezer.train_mode()

    def step(self, batch: Batch, epoch: int, index: int) -> dict[str, torch.Tensor]:
        """Take step ``index`` of ``epoch`` and return the parts of its loss, still on the device."""
        done = epoch * self.per_epoch + index
        work = to_work(batch, self.targets, self.device)
        work.progress = done / (self.stage.epochs * self.per_epoch)
        work.rate_lambda = ramp(self.stage.rate_lambda, self.stage.rate_warmup, done / self.per_epoch)
        if self.fabric.world_size > 1:
            work.weights = devices.balance(self.fabric, work, self.live)
        devices.seed_step(self.device, mixed(self._key, epoch, index, self.fabric.global_rank))
        optimizers.set_lr(self._raw, self._base, self._factor(done))
        total, found = self._module(work)
        # only now: freed before the forward pass, the gradients' memory goes back to the system, to be fetched again
        self._optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(total)
        if self.stage.clip:
            self.fabric.clip_gradients(
                self._module, self._optimizer, max_norm=self.stage.clip, error_if_nonfinite=False
            )
        self._optimizer.step()
        if self._auxiliary is not None:
            self._step_auxiliary()
        if self.average is not None:
            self.average.update()
        return dict(found)

    def finish(self) -> None:
        """End the stage: the average replaces the weights, and nothing is frozen any more."""
        if self.average is not None:
            self.average.commit()
        self.model.zero_grad(set_to_none=True)
        self.model.to(memory_format=torch.contiguous_format)
        self._freezer.restore()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed stage needs beside the model's weights."""
        return {
            "optimizer": self._raw.state_dict(),
            "auxiliary": None if self._auxiliary is None else self._auxiliary.state_dict(),
            "objectives": dict(self._objective_state.state_dict()),
            "average": None if self.average is None else self.average.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state."""
        self._raw.load_state_dict(state["optimizer"])
        if self._auxiliary is not None:
            self._auxiliary.load_state_dict(state["auxiliary"])
        self._objective_state.load_state_dict(state["objectives"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])

    def _step_auxiliary(self) -> None:
        assert self._auxiliary is not None
        self._auxiliary.zero_grad(set_to_none=True)  # the main loss may have left gradients here
        loss = self.model.bottleneck.auxiliary_loss()
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]
            self._auxiliary.step()


def mixed(*key: object) -> int:
    """Return a 63-bit seed from a key, the same on every machine.

    >>> mixed(0, 1) == mixed(0, 1) != mixed(1, 0)
    True
    """
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
