"""The loop over stages, epochs and steps; where a run stands, and when it is written down."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from splitreg.data.loading import Batch
from splitreg.errors import TrainingError, TrainingInterrupted
from splitreg.training import devices
from splitreg.training.checkpoint import Checkpoints
from splitreg.training.collapse import head_collapse, rate_collapse
from splitreg.training.data import Batches, to_work
from splitreg.training.interrupts import Interrupts
from splitreg.training.log import RunLog
from splitreg.training.options import TrainOptions
from splitreg.training.progress import Progress, figures
from splitreg.training.stage import StageRun
from splitreg.training.validation import Validation, validate

if TYPE_CHECKING:
    from splitreg.training.run import Run

#: Steps between looks at the losses on an accelerator, where each look waits for it; on the CPU every step is looked at.
LOOK_EVERY = 16


@dataclass(slots=True, kw_only=True)
class Position:
    """Where a run stands: the next batch is ``batch`` of ``epoch`` of ``stage``, after ``step`` steps in all.

    ``sums`` are the epoch's losses so far: part -> (sum, count).
    """

    stage: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    seconds: float = 0.0
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)


@dataclass(kw_only=True)
class Loop:
    """The stages, epochs and steps of one call of ``train``."""

    run: Run
    options: TrainOptions
    checkpoints: Checkpoints
    log: RunLog
    progress: Progress
    interrupts: Interrupts
    position: Position
    history: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.model, self.recipe = self.run.model, self.run.recipe
        self.targets = {head.name: head.target or "" for head in self.recipe.heads}
        self._pending: list[tuple[int, dict[str, Tensor]]] = []
        self._written = time.monotonic()

    def run_stages(self, state: Mapping[str, Any] | None) -> None:
        """Run what is left of the recipe, from a checkpoint's state on."""
        at, stages = self.position, self.recipe.stages
        if state is None:
            self.log.write("start", stages=[stage.name for stage in stages], seed=self.recipe.seed)
        else:
            self.model.load_state_dict(state["model"])
            self.history, self.warnings = list(state["history"]), list(state["warnings"])
            self.log.write("resume", step=at.step)
            where = f"stage {stages[at.stage].name}, epoch {at.epoch + 1}" if at.stage < len(stages) else "the end"
            self.progress.say(f"resumed after step {at.step}: {where}")
        while at.stage < len(stages):
            self._stage(None if state is None else state["stage"])
            state = None
        self.log.write("end", steps=at.step, warnings=self.warnings)

    def _stage(self, state: Mapping[str, Any] | None) -> None:
        at, stage = self.position, self.recipe.stages[self.position.stage]
        loader = self.run.loaders.train(stage.batch_size)
        self._stage_run = run = StageRun(
            self.model, stage, number=at.stage, seed=self.recipe.seed, per_epoch=len(loader), targets=self.targets,
            registry=self.run.registry, device=self.options.device, teacher=self.run.teacher,
        )  # fmt: skip
        if state is not None:
            run.load_state_dict(state)
        before = sum(earlier.epochs for earlier in self.recipe.stages[: at.stage])
        for epoch in range(at.epoch, stage.epochs):
            title = f"{stage.name} {epoch + 1}/{stage.epochs}"
            self.progress.begin(title, run.per_epoch, at.batch)
            self._epoch(loader, before + epoch)
            last = epoch + 1 == stage.epochs
            line = self._close_epoch(last)
            self.progress.end(f"{title}  {figures(line['images_per_s'], _brief(line))}")
            if last:
                run.finish()
            at.stage, at.epoch = (at.stage + 1, 0) if last else (at.stage, epoch + 1)
            at.batch, at.seconds, at.sums = 0, 0.0, {}
            self._write(run=None if last else run)

    def _epoch(self, loader: Batches, number: int) -> None:
        at, run = self.position, self._stage_run
        run.train_mode()
        begun = time.monotonic() - at.seconds
        look = 1 if run.device.type == "cpu" else LOOK_EVERY
        for batch in self._batches(loader, number):
            parts = run.step(batch, at.epoch, at.batch)
            at.batch, at.step = at.batch + 1, at.step + 1
            at.seconds = time.monotonic() - begun
            self._pending.append((at.step, parts))
            if at.step % look and at.batch < run.per_epoch:
                continue
            shown = self._look()
            self.progress.step(at.batch, self._speed, shown)
            if at.step % self.options.log_every < look:
                self.log.write(
                    "step", step=at.step, stage=run.stage.name, epoch=at.epoch, lr=run.lr, train=shown,
                    images_per_s=self._speed,
                )  # fmt: skip
            if self._told_to_stop():
                self._stop()
            if at.batch < run.per_epoch and self._due():
                self._write(run=run)

    def _batches(self, loader: Batches, number: int) -> Iterator[Batch]:
        batches = loader.epoch(number, self.position.batch)
        while True:
            try:
                batch = next(batches, None)
            except RuntimeError:
                if (
                    self.interrupts.received
                ):  # Ctrl-C also reaches the loading processes: their batch is lost, the run is not
                    self._stop()
                raise
            if batch is None:
                return
            yield batch

    @property
    def _speed(self) -> float:
        """Images a second in this epoch."""
        return round(self.position.batch * self._stage_run.stage.batch_size / max(self.position.seconds, 1e-9), 2)

    def _look(self) -> dict[str, float]:
        """Fetch the losses of the steps since the last look, check them and add them up; returns the newest."""
        shown: dict[str, float] = {}
        stacked = [torch.stack([value.float() for value in parts.values()]) for _, parts in self._pending]
        rows = torch.split(torch.cat(stacked), [len(row) for row in stacked])
        for (step, parts), values in zip(self._pending, rows, strict=True):
            shown = dict(zip(parts, values.tolist(), strict=True))
            if not math.isfinite(shown["loss"]):
                said = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
                self._fail(f"the loss is not finite at step {step}: {said}")
            for name, value in shown.items():
                total, count = self.position.sums.get(name, (0.0, 0))
                self.position.sums[name] = (total + value, count + 1)
        self._pending.clear()
        return shown

    def _close_epoch(self, last: bool) -> dict[str, Any]:
        """Validate where it is due, and write the epoch down."""
        at, run = self.position, self._stage_run
        found = None
        every = self.options.validate_every
        due = every and (last or (at.epoch + 1) % every == 0)
        if due and (batches := self.run.loaders.val(run.stage.batch_size)) is not None:
            with run.average.in_place() if run.average else contextlib.nullcontext():
                found = self._validate(batches, last)
        line = {
            "step": at.step, "stage": run.stage.name, "epoch": at.epoch, "lr": run.lr, "seconds": round(at.seconds, 3),
            "images_per_s": self._speed, "train": {name: total / count for name, (total, count) in at.sums.items()},
            **({"val": found.to_json()} if found else {}),
        }  # fmt: skip
        self.history.append(line)
        self.log.write("epoch", **line)
        if last and found:
            heads = [head_collapse(name, self.model.head(name), *pairs) for name, pairs in found.probes.items()]
            for warning in (rate_collapse(found.bits, run.stage.rate_lambda), *heads):
                if warning:
                    self.warnings.append(f"stage {run.stage.name}: {warning}")
                    self.log.write("warning", step=at.step, message=self.warnings[-1])
                    self.progress.say(f"warning: {self.warnings[-1]}")
        return line

    def _validate(self, batches: Batches, probe: bool) -> Validation:
        run = self._stage_run
        works = (to_work(batch, self.targets, run.device) for batch in batches.epoch(0))
        images = len(batches) * run.stage.batch_size
        with run.fabric.autocast():
            return validate(self.model, works, images=images, probe=probe)

    def _told_to_stop(self) -> bool:
        run = self._stage_run
        if run.fabric.world_size == 1:
            return bool(self.interrupts.received)
        told = torch.tensor(float(self.interrupts.received), device=run.device)
        return bool(run.fabric.all_reduce(told, reduce_op="max"))  # all stop after the same step

    def _stop(self) -> None:
        self._write(run=self._stage_run)
        number = self.interrupts.received or int(signal.SIGTERM)
        raise TrainingInterrupted(
            f"stopped by {signal.Signals(number).name} after step {self.position.step}; all of it is in "
            f"{self.checkpoints.folder}: resume to go on",
            number,
        )

    def _due(self) -> bool:
        every, seconds = self.options.checkpoint_steps, self.options.checkpoint_seconds
        late = bool(seconds) and time.monotonic() - self._written > seconds
        return late or bool(every and self.position.step % every == 0)

    def _write(self, *, run: StageRun | None) -> None:
        """Write a checkpoint; ``run``: the stage that goes on, None between stages."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            self._fail(f"weights are not finite after step {self.position.step}")
        self._written = time.monotonic()
        if devices.rank() != 0:
            return
        state = {
            "recipe": self.recipe.to_mapping(), "base": self.run.base,
            "teacher": self.run.teacher.identity if self.run.teacher else "",
            "position": dataclasses.asdict(self.position), "model": dict(self.model.state_dict()),
            "stage": None if run is None else run.state_dict(),
            "history": self.history, "warnings": self.warnings, "log": self.log.position(),
        }  # fmt: skip
        self.checkpoints.save(self.position.step, state)

    def _fail(self, what: str) -> None:
        at, paths = self.position, self.checkpoints.paths()
        raise TrainingError(
            f"{what} (stage {self._stage_run.stage.name}, epoch {at.epoch + 1}); last good checkpoint: "
            f"{paths[-1] if paths else 'none yet'}; try a lower lr, clip = 1.0, a longer warm-up, or precision 32-true"
        )


def _brief(line: Mapping[str, Any]) -> dict[str, float]:
    """The figures of an epoch that fit on one line: loss, bits, and each head's first metric."""
    val = line.get("val", {})
    firsts = {f"{head}.{next(iter(m))}": next(iter(m.values())) for head, m in val.items() if isinstance(m, dict) and m}
    return {**{name: value for name, value in line["train"].items() if name in ("loss", "bits")}, **firsts}
