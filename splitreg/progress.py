"""Progress on stderr: bars on a terminal, plain lines elsewhere. stdout is left to results.

::

    progress = Progress()
    with progress.bar("training", total=500) as bar:
        for step in range(500):
            bar.update(step + 1, "loss 0.51")
    progress.print("done")

All bars of a process share one display: a bar that is opened inside another one appears below it.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

_T = TypeVar("_T")
#: Seconds between two drawings of a bar.
_INTERVAL = 0.2
#: Characters of a bar, its percentage and its remaining time.
_BAR_WIDTH = 42


class Progress:
    """Bars and lines on stderr.

    Args:
        enabled: False shows nothing.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    @contextlib.contextmanager
    def bar(self, title: str, total: float, *, done: float = 0) -> Iterator[Bar]:
        """Show a bar while the context is open; without a terminal, show nothing.

        Args:
            title: text before the bar.
            total: value of ``Bar.update`` at the end.
            done: value at the start.
        """
        if not (self.enabled and sys.stderr.isatty()):
            yield Bar()
            return
        with _display.shared() as live:
            task = live.add_task(title, total=total, completed=done, note="")
            try:
                yield Bar(live, task, title)
            finally:
                live.remove_task(task)
                live.refresh()

    def track(self, items: Iterable[_T], total: int, title: str) -> Iterator[_T]:
        """Yield items, with a bar that counts them."""
        with self.bar(title, total) as bar:
            for number, item in enumerate(items, 1):
                yield item
                bar.update(number)

    def print(self, line: str) -> None:
        """Print a line, above the bars if there are any."""
        if self.enabled:
            _display.print(line)


class Bar:
    """One bar; without a display, ``update`` does nothing."""

    def __init__(self, live: Any = None, task: Any = None, title: str = "") -> None:
        self._live, self._task, self._title, self._drawn = live, task, title, 0.0

    def update(self, done: float, note: str = "") -> None:
        """Set the value, and the text after the bar; drawn at most five times per second."""
        if self._live is None or time.monotonic() - self._drawn < _INTERVAL:
            return
        self._drawn = time.monotonic()
        room = max(0, self._live.console.width - len(self._title) - _BAR_WIDTH)
        self._live.update(self._task, completed=done, note=note[:room], refresh=True)


class _Display:
    """The display of this process: started with the first bar, stopped with the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._live: Any = None
        self._bars = 0

    @contextlib.contextmanager
    def shared(self) -> Iterator[Any]:
        with self._lock:
            if self._live is None:
                self._live = _new_display()
                self._live.start()
            self._bars += 1
            live = self._live
        try:
            yield live
        finally:
            with self._lock:
                self._bars -= 1
                if not self._bars:
                    live.stop()
                    self._live = None

    def print(self, line: str) -> None:
        live = self._live
        if live is None:
            print(line, file=sys.stderr, flush=True)
        else:
            live.console.print(line, markup=False, highlight=False)


_display = _Display()


def _new_display() -> Any:
    from rich import progress  # imported here: commands without a bar start faster
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"), progress.BarColumn(bar_width=20), progress.TaskProgressColumn(),
        progress.TimeRemainingColumn(), progress.TextColumn("{task.fields[note]}"),
        console=Console(stderr=True), transient=True, auto_refresh=False,  # Bar.update refreshes
    )  # fmt: skip
