"""Progress of the whole demo, with an estimate of its duration from the first training steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from splitreg.progress import Bar, Progress
from splitreg.recipe import Recipe

#: Duration of the steps after training, in training images; measured on two CPU cores.
MEASURING, SENDING, REPORTING = 400, 450, 250
#: Training steps after which the duration is estimated.
FIRST_STEPS = 10


class Estimate:
    """The bar of the whole demo; its unit is one training image.

    Args:
        recipe: recipe of the demo.
        train_images: images per epoch.
        progress: where to show it.
    """

    def __init__(self, recipe: Recipe, train_images: int, progress: Progress) -> None:
        self._progress, self._start, self._stated = progress, time.monotonic(), False
        self._batch_size = recipe.stages[0].batch_size
        self._training = sum(stage.epochs for stage in recipe.stages) * train_images
        self._bar = Bar()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar while the context is open."""
        with self._progress.bar("demo", self._training + MEASURING + SENDING + REPORTING) as self._bar:
            yield

    def on_event(self, line: Mapping[str, Any]) -> None:
        """Read a line of the training's log; states the duration once, after the first steps."""
        if line["event"] != "step":
            return
        done = line["step"] * self._batch_size
        self._bar.update(done)
        if not self._stated:
            self._stated = True
            left = self._training - done + MEASURING + SENDING + REPORTING
            seconds = time.monotonic() - self._start + left / max(line["images_per_s"], 1e-9)
            self._progress.print(f"the demo takes about {_duration(seconds)} on this machine")

    def finish_training(self) -> None:
        """Set the bar to the end of training."""
        self._bar.update(self._training)

    def finish_evaluation(self) -> None:
        """Set the bar to the end of the evaluation."""
        self._bar.update(self._training + MEASURING)

    def finish_sending(self) -> None:
        """Set the bar to the point where the server half has answered."""
        self._bar.update(self._training + MEASURING + SENDING)


def _duration(seconds: float) -> str:
    """Return a rounded duration.

    >>> _duration(45), _duration(100), _duration(170)
    ('50 seconds', '2 minutes', '3 minutes')
    """
    if seconds < 90:
        return f"{max(10, round(seconds / 10 + 0.49) * 10)} seconds"
    return f"{round(seconds / 60)} minutes"
