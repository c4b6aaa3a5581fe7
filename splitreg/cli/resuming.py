"""The folder of a run, and ``RUN/command.json``: what its command line said, so that ``--resume`` alone continues it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from splitreg.errors import TrainingError
from splitreg.files import disk_errors, parse_json, write_json

if TYPE_CHECKING:
    from splitreg.training.hooks import Hooks

_FILE = "command.json"
#: Folder of runs without ``--run``.
_RUNS = Path("runs")


def run_folder(recipe: str, output: str | None, *, resume: bool) -> Path:
    """Return the folder of a run without ``--run``: ``runs/BUNDLE``, or ``runs/RECIPE`` without a bundle to write.

    So the same recipe can be trained into several bundles. Where another bundle of that name has a run, the name of
    its folder is added: ``runs/FOLDER-BUNDLE``.

    Args:
        recipe: file or name of the recipe.
        output: the bundle, if the command names it.
        resume: look for the run that wrote the bundle, or else for a run of the recipe; for one that is not finished, if
            there is any.

    Raises:
        TrainingError: several runs of the recipe could be resumed.
    """
    bundles = {path.parent: _command(path.parent) for path in sorted(_RUNS.glob(f"*/{_FILE}"))}
    bundle = None if output is None else Path(output).resolve()
    for folder, command in bundles.items():
        if bundle is not None and command.bundle() == bundle:
            return folder
    name = Path(recipe).stem
    if resume:
        if (_RUNS / name).exists():
            return _RUNS / name
        runs = {folder: command for folder, command in bundles.items() if command.recipe == name}
        runs = {folder: command for folder, command in runs.items() if not command.finished(folder)} or runs
        if len(runs) > 1:
            listed = ", ".join(map(str, runs))
            raise TrainingError(f"several runs of recipe {name}: {listed}; choose one with --run, or repeat its -o")
        if runs:
            return next(iter(runs))
    if bundle is None or not bundle.name:
        return _RUNS / name
    free = _RUNS / bundle.name not in bundles and (_RUNS / bundle.name).resolve() != bundle
    return _RUNS / (bundle.name if free else f"{bundle.parent.name}-{bundle.name}")


def _command(folder: Path) -> RunCommand:
    try:
        return RunCommand.read(folder) or RunCommand()
    except TrainingError:
        return RunCommand()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCommand:
    """Overrides of the recipe, and options that belong to the run and not to the machine.

    Args:
        overrides: ``KEY=VALUE``, in the order in which they apply.
        options: parameter of the command -> its value, where the user gave one.
        recipe: name of the recipe, without the folder and the ending of its file.
    """

    overrides: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """Return the command of a run; None if there is none, e.g. if it was started in Python.

        Raises:
            TrainingError: the file is damaged.
        """
        path = folder / _FILE
        try:
            table = parse_json(path.read_text(encoding="utf-8"))
            return cls(
                overrides=tuple(map(str, table["overrides"])), options=dict(table["options"]),
                recipe=str(table.get("recipe", "")),
            )  # fmt: skip
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as cause:
            raise TrainingError(
                f"cannot read {path}: {type(cause).__name__}: {cause}; remove it and repeat the options"
            ) from cause

    def bundle(self) -> Path | None:
        """Return the place of the bundle that the run writes; None if the command named none."""
        output = self.options.get("output")
        return Path(output).resolve() if isinstance(output, str) else None

    def finished(self, folder: Path) -> bool:
        """Whether a bundle was written since the run in ``folder`` started."""
        config = (self.bundle() or folder / "bundle") / "config.json"
        return config.exists() and config.stat().st_mtime >= (folder / _FILE).stat().st_mtime

    def then(self, overrides: Sequence[str], options: Mapping[str, Any]) -> Self:
        """Return this command with what a later one adds or changes."""
        return replace(self, overrides=(*self.overrides, *overrides), options={**self.options, **options})

    def write(self, folder: Path) -> None:
        """Write it into the folder of the run.

        Raises:
            TrainingError: the file cannot be written.
        """
        path = folder / _FILE
        with disk_errors(path, TrainingError, "free some space, or choose another folder"):
            path.parent.mkdir(parents=True, exist_ok=True)
            table = {"recipe": self.recipe, "overrides": list(self.overrides), "options": dict(self.options)}
            write_json(path, table)

    def hooks(self) -> Hooks:
        """Return a callback that writes the file when the first step is about to start, after all checks."""
        from splitreg.training.hooks import Callback, Hooks, TrainState

        class Writer(Callback):
            def on_start(_, state: TrainState) -> None:
                if state.rank == 0:
                    self.write(state.folder)

        return Hooks(callbacks=(Writer(),))
