"""The loop over stages, epochs and steps, and the checkpoints it writes."""

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
from splitreg.files import disk_errors, write_atomic
from splitreg.progress import Bar, Progress
from splitreg.training import devices
from splitreg.training.best import Best, copy_of
from splitreg.training.checkpoint import Checkpoints
from splitreg.training.collapse import constant_output, head_collapse, rate_collapse, rate_idle, unknown_pixels
from splitreg.training.data import Batches
from splitreg.training.hooks import TrainState
from splitreg.training.interrupts import Interrupts
from splitreg.training.log import RunLog
from splitreg.training.options import TrainOptions
from splitreg.training.pictures import PREDICTIONS, predictions_jpeg
from splitreg.training.stage import StageRun
from splitreg.training.step import step_batch
from splitreg.training.validation import Validation, validate

if TYPE_CHECKING:
    from splitreg.training.setup import Run

#: Steps between checks of the losses on an accelerator, where each check waits for the device. On the CPU every step
#: is checked.
CHECK_EVERY = 16


@dataclass(slots=True, kw_only=True)
class Position:
    """Position of a run: the next batch is ``batch`` of ``epoch`` of ``stage``, after ``step`` steps in all.

    ``seconds`` are the time of the epoch so far, ``sums`` its losses: part -> (sum, count).
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
    position: Position

    def __post_init__(self) -> None:
        self.model, self.recipe = self.run.model, self.run.recipe
        self.history: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self._pending: list[tuple[int, dict[str, Tensor]]] = []
        self._written = time.monotonic()
        self._undrawable = False

    def run_stages(self, state: Mapping[str, Any] | None) -> None:
        """Run the remaining stages, from the state of a checkpoint on.

        Raises:
            TrainingInterrupted: SIGINT or SIGTERM; a checkpoint is written.
            TrainingError: a loss or a weight is not finite, or a file cannot be written.
        """
        at, stages = self.position, self.recipe.stages
        with Interrupts() as self.interrupts, self._callbacks():
            if state is None:
                self.log.write("start", stages=[stage.name for stage in stages], seed=self.recipe.seed)
                for sentence in self.run.advice:
                    self._warn(sentence)
            else:
                self.model.load_state_dict(state["model"])
                self.history, self.warnings = list(state["history"]), list(state["warnings"])
                self.log.write("resume", step=at.step)
                place = f"stage {stages[at.stage].name}, epoch {at.epoch + 1}" if at.stage < len(stages) else "the end"
                self.progress.print(f"resumed {self.run.folder} after step {at.step}: {place}")
            while at.stage < len(stages):
                self._run_stage(None if state is None else state["stage"], None if state is None else state.get("best"))
                state = None
            self.log.write("end", steps=at.step, warnings=self.warnings)

    @contextlib.contextmanager
    def _callbacks(self) -> Iterator[None]:
        """Call ``on_start`` and ``on_end`` around the stages."""
        callbacks = self.run.hooks.callbacks
        error: BaseException | None = None
        try:
            for callback in callbacks:
                callback.on_start(self._state())
            yield
        except BaseException as cause:
            error = cause
            raise
        finally:
            for callback in callbacks:
                callback.on_end(self._state(), error)

    def _state(self) -> TrainState:
        at, stages = self.position, self.recipe.stages
        run = getattr(self, "_stage_run", None)
        return TrainState(
            model=self.model, folder=self.run.folder, stage=stages[at.stage].name if at.stage < len(stages) else "",
            epoch=at.epoch, step=at.step, lr=0.0 if run is None else run.lr, rank=devices.rank(),
        )  # fmt: skip

    def _run_stage(self, state: Mapping[str, Any] | None, finished: Mapping[str, Any] | None) -> None:
        """Run the stage at the current position to its end.

        Args:
            state: of the stage in a checkpoint; None: it starts, or it was complete and gets more epochs.
            finished: score and epoch of the best weights of a complete stage; the model has them.
        """
        at, stage = self.position, self.recipe.stages[self.position.stage]
        loader = self.run.loaders.train(stage.batch_size)
        self._stage_run = run = StageRun(
            self.run, at.stage, steps_per_epoch=len(loader), device=self.options.device
        )  # fmt: skip
        self._best = Best(metric=stage.best) if stage.best else None
        if state is not None:
            run.load_state_dict(state)
            if self._best is not None:
                self._best.load_state_dict(state["best"])
        elif self._best is not None and at.epoch and finished:
            self._best.load_state_dict({**finished, "weights": copy_of(self.model)})
        before = sum(earlier.epochs for earlier in self.recipe.stages[: at.stage])
        for epoch in range(at.epoch, stage.epochs):
            title = f"{stage.name} {epoch + 1}/{stage.epochs}"
            with self.progress.bar(title, run.steps_per_epoch, done=at.batch) as bar:
                self._run_epoch(loader, before + epoch, bar)
                last, stopped, line = self._close_epoch()
            self.progress.print(f"{title}  {_figures(line['images_per_s'], _summary(line))}")
            if last:
                run.finish()
                self._restore_best(epoch, stopped=stopped)
            at.stage, at.epoch = (at.stage + 1, 0) if last else (at.stage, epoch + 1)
            at.batch, at.seconds, at.sums = 0, 0.0, {}
            self._save(run=None if last else run)
            if last:
                return

    def _run_epoch(self, loader: Batches, number: int, bar: Bar) -> None:
        at, run = self.position, self._stage_run
        run.train_mode()
        start = time.monotonic() - at.seconds
        check_every = 1 if run.device.type == "cpu" else CHECK_EVERY
        for batch in self._batches(loader, number):
            parts = run.step(batch, at.epoch, at.batch)
            at.batch, at.step = at.batch + 1, at.step + 1
            at.seconds = time.monotonic() - start
            self._pending.append((at.step, parts))
            for callback in self.run.hooks.callbacks:
                callback.on_step(self._state(), parts)
            if at.step % check_every and at.batch < run.steps_per_epoch:
                continue
            losses = self._check_losses()
            bar.update(at.batch, _figures(self._speed, losses))
            if at.step % self.options.log_every < check_every:
                self.log.write(
                    "step", step=at.step, stage=run.stage.name, epoch=at.epoch, lr=run.lr, train=losses,
                    images_per_s=self._speed,
                )  # fmt: skip
            if not run.closes_window(at.batch - 1):
                continue
            if self._must_stop():
                self._stop()
            if at.batch < run.steps_per_epoch and self._checkpoint_due():
                self._save(run=run)

    def _batches(self, loader: Batches, number: int) -> Iterator[Batch]:
        batches = loader.epoch(number, self.position.batch)
        while True:
            try:
                batch = next(batches, None)
            except RuntimeError:
                if self.interrupts.received:  # Ctrl-C also ends the loading processes: their batch is lost
                    self._stop()
                raise
            if batch is None:
                return
            yield batch

    @property
    def _speed(self) -> float:
        """Images per second in this epoch."""
        return round(self.position.batch * self._stage_run.stage.batch_size / max(self.position.seconds, 1e-9), 2)

    def _check_losses(self) -> dict[str, float]:
        """Fetch the losses since the last check, check that they are finite, add them up; returns the newest."""
        newest: dict[str, float] = {}
        stacked = [torch.stack([value.float() for value in parts.values()]) for _, parts in self._pending]
        rows = torch.split(torch.cat(stacked), [len(row) for row in stacked])
        for (step, parts), values in zip(self._pending, rows, strict=True):
            newest = dict(zip(parts, values.tolist(), strict=True))
            if not math.isfinite(newest["loss"]):
                shown = ", ".join(f"{name} {value:.4g}" for name, value in newest.items())
                self._fail(f"the loss is not finite at step {step}: {shown}")
            for name, value in newest.items():
                total, count = self.position.sums.get(name, (0.0, 0))
                self.position.sums[name] = (total + value, count + 1)
        self._pending.clear()
        return newest

    def _close_epoch(self) -> tuple[bool, bool, dict[str, Any]]:
        """Validate if it is due, and log the epoch; returns whether it is the last, whether it stopped early, its line."""
        at, run = self.position, self._stage_run
        last = at.epoch + 1 == run.stage.epochs
        validation = self._validate(last)
        stopped = not last and self._best is not None and self._best.exhausted(at.epoch, run.stage.patience)
        last = last or stopped
        line = {
            "step": at.step, "stage": run.stage.name, "epoch": at.epoch, "lr": run.lr, "seconds": round(at.seconds, 3),
            "images_per_s": self._speed, "train": {name: total / count for name, (total, count) in at.sums.items()},
            **({"val": validation.to_json()} if validation else {}),
        }  # fmt: skip
        self.history.append(line)
        self.log.write("epoch", **line)
        if last and validation:
            self._warn_of_collapse(validation)
        for callback in self.run.hooks.callbacks:
            callback.on_epoch(self._state(), line)
        return last, stopped, line

    def _restore_best(self, epoch: int, *, stopped: bool) -> None:
        """Replace the last weights by the best ones."""
        best = self._best
        if best is None or best.weights is None:
            return
        self.model.load_state_dict(best.weights)
        words = f"best {best.metric} {best.score:.4g} in epoch {best.epoch + 1}, its weights are kept"
        if stopped:
            words += f"; stopped after epoch {epoch + 1}, {epoch - best.epoch} without a better one"
        self.log.write("best", step=self.position.step, metric=best.metric, score=best.score, best_epoch=best.epoch)
        self.progress.print(f"{self._stage_run.stage.name}: {words}")

    def _warn_of_collapse(self, validation: Validation) -> None:
        stage = self._stage_run.stage
        learning = self._stage_run.active_heads  # a stage for the bottleneck alone teaches no head
        probes = {name: pairs for name, pairs in validation.probes.items() if name in learning}
        heads = [head_collapse(name, self.model.head(name), *pairs) for name, pairs in probes.items()]
        constant = [constant_output(name, *pairs) for name, pairs in probes.items()]
        unknown = [unknown_pixels(name, targets) for name, (_, targets) in validation.probes.items()]
        rate = (rate_collapse(validation.bits, stage.rate_lambda), self._idle_rate())
        for warning in (*rate, *unknown, *constant, *heads):
            if warning:
                self._warn(f"stage {stage.name}: {warning}")

    def _idle_rate(self) -> str | None:
        """Return a warning if the first stage with a rate term has not lowered the rate."""
        stages, stage = self.recipe.stages, self._stage_run.stage
        bits = [line["train"]["bits"] for line in self.history if line["stage"] == stage.name]
        if len(bits) < max(3, 2 * stage.rate_warmup) or any(
            earlier.rate_lambda for earlier in stages[: self.position.stage]
        ):
            return None
        return rate_idle(bits[0], bits[-1], stage.rate_lambda)

    def _warn(self, sentence: str) -> None:
        self.warnings.append(sentence)
        self.log.write("warning", step=self.position.step, message=sentence)
        self.progress.print(f"warning: {sentence}")

    def _validate(self, last: bool) -> Validation | None:
        """Validate with the average of the weights, if it is due and there is a validation set."""
        run, every = self._stage_run, self.options.validate_every
        if not every or not (last or (self.position.epoch + 1) % every == 0):
            return None
        loader = self.run.loaders.val(run.stage.batch_size)
        if loader is None:
            return None
        batches = (step_batch(batch, self.run.val_classes, run.device) for batch in loader.epoch(0))
        images, probe = len(loader) * run.stage.batch_size, last or run.stage.patience > 0
        with run.average.swapped() if run.average else contextlib.nullcontext(), run.fabric.autocast():
            validation = validate(self.model, batches, images=images, classes=self.run.val_classes, probe=probe)
            if self._best is not None and self.position.epoch + 1 >= min(run.stage.rate_warmup, run.stage.epochs):
                self._best.update(self.model, validation, self.position.epoch)
            if self.options.pictures and not self._undrawable and devices.rank() == 0:
                self._draw()
            return validation

    def _draw(self) -> None:
        """Write a sheet of predictions; a head that cannot draw does not end the training."""
        run, at, loaders = self._stage_run, self.position, self.run.loaders
        if loaders.datasets.val is None or loaders.change is not None:  # latents in place of images
            return
        path = self.run.folder / PREDICTIONS / f"{run.stage.name}-{at.epoch + 1:04d}.jpg"
        try:
            data = predictions_jpeg(
                self.model, loaders.datasets.val, self.run.val_classes, self.options.pictures, run.device
            )
        except Exception as error:  # a plugin's drawing
            self._undrawable = True
            self._warn(f"predictions are not drawn: {type(error).__name__}: {error}")
            return
        with disk_errors(path, TrainingError, "free some space, then resume"):
            write_atomic(path, data, sync=False)
        self.log.image(PREDICTIONS, path, at.step)

    def _must_stop(self) -> bool:
        run = self._stage_run
        if run.fabric.world_size == 1:
            return bool(self.interrupts.received)
        received = torch.tensor(float(self.interrupts.received), device=run.device)
        return bool(run.fabric.all_reduce(received, reduce_op="max"))  # all stop after the same step

    def _stop(self) -> None:
        self._save(run=self._stage_run)
        number = self.interrupts.received or int(signal.SIGTERM)
        raise TrainingInterrupted(
            f"stopped by {signal.Signals(number).name} after step {self.position.step}; the checkpoint is in "
            f"{self.checkpoints.folder}; the same command with --resume continues (in Python: TrainOptions(resume=True))",
            number,
        )

    def _checkpoint_due(self) -> bool:
        every, seconds = self.options.checkpoint_steps, self.options.checkpoint_seconds
        late = bool(seconds) and time.monotonic() - self._written > seconds
        return late or bool(every and self.position.step % every == 0)

    def _save(self, *, run: StageRun | None) -> None:
        """Write a checkpoint; ``run``: the stage that continues, None between stages."""
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            self._fail(f"weights are not finite after step {self.position.step}")
        self._written = time.monotonic()
        if devices.rank() != 0:
            return
        state = {
            "recipe": self.recipe.to_mapping(), "base": self.run.base,
            "teacher": self.run.teacher.identity if self.run.teacher else "",
            "position": dataclasses.asdict(self.position), "model": dict(self.model.state_dict()),
            "stage": None if run is None else {**run.state_dict(), **self._best_state()},
            "best": None if self._best is None else {"score": self._best.score, "epoch": self._best.epoch},
            "hooks": self.run.hooks.identity(), "history": self.history, "warnings": self.warnings, "log": self.log.position(),
        }  # fmt: skip
        self.checkpoints.save(self.position.step, state)

    def _best_state(self) -> dict[str, Any]:
        return {} if self._best is None else {"best": self._best.state_dict()}

    def _fail(self, problem: str) -> None:
        at, paths = self.position, self.checkpoints.paths()
        raise TrainingError(
            f"{problem} (stage {self._stage_run.stage.name}, epoch {at.epoch + 1}); last good checkpoint: "
            f"{paths[-1] if paths else 'none'}; try a lower lr, clip = 1.0, a longer warm-up, or precision 32-true"
        )


def _figures(images_per_s: float, values: Mapping[str, float]) -> str:
    """Return the numbers in one line, loss and bits first."""
    ordered = {name: values[name] for name in ("loss", "bits") if name in values} | dict(values)
    return "  ".join([f"{images_per_s:.1f} images/s", *(f"{name} {value:.4g}" for name, value in ordered.items())])


def _summary(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the loss, the bits and each head's first metric of an epoch."""
    val = line.get("val", {})
    firsts = {f"{head}.{next(iter(m))}": next(iter(m.values())) for head, m in val.items() if isinstance(m, dict) and m}
    return {**{name: value for name, value in line["train"].items() if name in ("loss", "bits")}, **firsts}
