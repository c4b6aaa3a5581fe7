"""``RUN/command.json``: what the command line of a run said, so that ``--resume`` alone continues it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from splitreg.errors import TrainingError
from splitreg.files import disk_errors, parse_json, write_json

if TYPE_CHECKING:
    from splitreg.training.hooks import Hooks

_FILE = "command.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommand:
    """Overrides of the recipe, and options that belong to the run and not to the machine.

    Args:
        overrides: ``KEY=VALUE``, in the order in which they apply.
        options: parameter of the command -> its value, where the user gave one.
    """

    overrides: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the command of a run; None if there is none, e.g. if it was started in Python.

        Raises:
            TrainingError: the file is damaged.
        """
        path = folder / _FILE
        try:
            table = parse_json(path.read_text(encoding="utf-8"))
            return cls(overrides=tuple(map(str, table["overrides"])), options=dict(table["options"]))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise TrainingError(
                f"cannot read {path}: {type(cause).__name__}: {cause}; remove it and repeat the options"
            ) from cause

    def then(self, overrides: Sequence[str], options: Mapping[str, Any]) -> Self:
        """Return this command with what a later one adds or changes."""
        return type(self)(overrides=(*self.overrides, *overrides), options={**self.options, **options})

    def write(self, folder: Path) -> None:
        """Write it into the folder of the run.

        Raises:
            TrainingError: the file cannot be written.
        """
        path = folder / _FILE
        with disk_errors(path, TrainingError, "free some space, or choose another folder"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"overrides": list(self.overrides), "options": dict(self.options)})

    def hooks(self) -> Hooks:
        """Return a callback that writes the file when the first step is about to start, after all checks."""
        from splitreg.training.hooks import Callback, Hooks, TrainState

        class Writer(Callback):
            def on_start(_, state: TrainState) -> None:
                if state.rank == 0:
                    self.write(state.folder)

        return Hooks(callbacks=(Writer(),))
