"""Progress on stderr: a live line on a terminal, one line an epoch elsewhere. stdout is left to results."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any


class Progress:
    """Shows how a run goes; ``enabled=False`` shows nothing."""

    def __init__(self, enabled: bool = True) -> None:
        self._enabled = enabled
        self._live: Any = None
        self._task: Any = None
        self._shown = 0.0

    def begin(self, title: str, steps: int, done: int) -> None:
        """Start the bar of one epoch of ``steps`` steps, of which ``done`` are done."""
        if not (self._enabled and sys.stderr.isatty()):
            return
        if self._live is None:
            self._live = _bar()
            self._live.start()
        self._task = self._live.add_task(title, total=steps, completed=done, figures="")

    def step(self, done: int, images_per_s: float, parts: Mapping[str, float]) -> None:
        """Show a step; drawn at most five times a second."""
        if self._task is None or time.monotonic() - self._shown < 0.2:
            return
        self._shown = time.monotonic()
        self._live.update(self._task, completed=done, figures=figures(images_per_s, parts))

    def end(self, line: str) -> None:
        """Replace the bar by a line that stays."""
        if self._task is not None:
            self._live.remove_task(self._task)
            self._task = None
        self.say(line)

    def say(self, line: str) -> None:
        """Print a line."""
        if not self._enabled:
            return
        if self._live is not None:
            self._live.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._live is not None:
            self._live.stop()
            self._live = self._task = None


def figures(images_per_s: float, parts: Mapping[str, float]) -> str:
    """One line of numbers.

    >>> figures(12.34, {"loss": 0.51234, "bits": 4801.5})
    '12.3 images/s  loss 0.5123  bits 4802'
    """
    return "  ".join([f"{images_per_s:.1f} images/s", *(f"{name} {value:.4g}" for name, value in parts.items())])


def _bar() -> Any:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"), progress.BarColumn(bar_width=20), progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[figures]}"), progress.TimeRemainingColumn(),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip
