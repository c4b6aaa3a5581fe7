"""``run``: every point of a recipe's sweep, each in its own folder; what is finished is not done again."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from splitreg.bundle import is_bundle
from splitreg.errors import RecipeError, TrainingError, suggest
from splitreg.recipe import Recipe
from splitreg.sweep.local import run_local
from splitreg.sweep.locking import alone
from splitreg.sweep.on_ray import run_on_ray
from splitreg.sweep.point import COLLAPSED, DONE, Outcome, prepare
from splitreg.training.checkpoint import write_atomically
from splitreg.training.run import check_unchanged
from splitreg.zoo import find_bundle

OnEvent = Callable[[Mapping[str, Any]], None]

#: Where points can be trained.
PLACES = {"local": run_local, "ray": run_on_ray}


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """One point, as it ended.

    Args:
        label: what sets it apart, as ``"rate_lambda=0.5"``.
        folder: where it lies.
        outcome: how it ended.
        known: it had ended before this call.
    """

    label: str
    folder: Path
    outcome: Outcome
    known: bool

    @property
    def bundle(self) -> Path | None:
        """Folder of its bundle, if it is done."""
        return self.folder / "bundle" if self.outcome.status == DONE else None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        found = dataclasses.asdict(self.outcome)
        return {"label": self.label, "folder": self.folder.name, "bundle": bool(self.bundle), **found}


def run(
    recipe: Recipe,
    output: str | Path,
    *,
    on: str = "local",
    jobs: int = 1,
    retries: int = 2,
    device: str = "auto",
    workers: int = 0,
    validate_every: int = 1,
    on_event: OnEvent | None = None,
) -> tuple[SweepPoint, ...]:
    """Train every point of a sweep; called again, it goes on with what is missing.

    A point that fails or collapses does not stop the others. A failed point is tried again by the next call.

    Args:
        recipe: with a ``sweep``; without one it is a sweep of one point.
        output: folder of the sweep: a folder a point, and ``sweep.json``.
        on: ``"local"`` (processes of this machine) or ``"ray"``.
        jobs: points at a time.
        retries: how often a point goes on, from its last checkpoint, whose process was killed.
        device: see ``train``.
        workers: processes a point that load batches ahead.
        validate_every: epochs between validations, each of which looks for a collapse.
        on_event: called with ``event`` ("known", "start", "retry", "end"), ``point`` and ``outcome``.

    Raises:
        RecipeError: the folder holds a sweep of another recipe, or there is no such place to train.
        TrainingInterrupted: SIGINT or SIGTERM; the next call goes on.
        MissingExtra: Ray is wanted and not installed.
        TrainingError: the folder cannot be written, or another process sweeps in it.
    """
    if on not in PLACES:
        raise RecipeError(f"points are trained on {' or '.join(PLACES)}, got {on!r}.{suggest(on, PLACES)}")
    if jobs < 1 or retries < 0:
        raise RecipeError(f"jobs must be at least 1 and retries 0, got {jobs} and {retries}")
    root = Path(output).resolve()
    points = {label or "point": _absolute(point) for label, point in recipe.points()}
    folders = {label: root / _folder(label) for label in points}
    settings = {"device": device, "workers": workers, "validate_every": validate_every, "tensorboard": False}
    with _locked(root):
        return _run(root, points, folders, settings, on, jobs, retries, on_event or (lambda event: None))


def _run(
    root: Path,
    points: Mapping[str, Recipe],
    folders: Mapping[str, Path],
    settings: Mapping[str, Any],
    on: str,
    jobs: int,
    retries: int,
    tell: OnEvent,
) -> tuple[SweepPoint, ...]:
    for label, point in points.items():
        _same(folders[label], point)
    write_atomically(
        root / "sweep.json", json.dumps({"points": {k: f.name for k, f in folders.items()}}).encode() + b"\n"
    )
    known = {label for label, folder in folders.items() if _ended(folder)}
    for label, folder in folders.items():
        if label in known:
            tell({"event": "known", "point": label, "outcome": Outcome.read(folder)})
        else:
            (folder / "outcome.json").unlink(missing_ok=True)
            prepare(folder, points[label], settings)
    labels = {folder: label for label, folder in folders.items()}

    def on_worker(event: str, folder: Path) -> None:
        outcome = Outcome.read(folder) if event == "end" else None
        tell({"event": event, "point": labels[folder], "outcome": outcome})

    missing = [folder for label, folder in folders.items() if label not in known]
    if missing:
        PLACES[on](missing, jobs=jobs, retries=retries, on_worker=on_worker)
    found = tuple(
        SweepPoint(label=label, folder=folder, outcome=outcome, known=label in known)
        for label, folder in folders.items()
        if (outcome := Outcome.read(folder)) is not None
    )
    table = {"points": {p.label: p.folder.name for p in found}, "outcomes": [p.to_json() for p in found]}
    write_atomically(root / "sweep.json", json.dumps(table, indent=1).encode() + b"\n")
    return found


def finished(folder: str | Path) -> list[Path]:
    """Return the bundles of a sweep's finished points, in its order; empty where the folder holds no sweep."""
    try:
        table = json.loads((Path(folder) / "sweep.json").read_text(encoding="utf-8"))
        places: Sequence[str] = list(table["points"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    ended = [(Path(folder) / place, Outcome.read(Path(folder) / place)) for place in places]
    return [place / "bundle" for place, outcome in ended if outcome and outcome.status == DONE]


def _ended(folder: Path) -> bool:
    """Whether there is nothing left to do: done with its bundle, or collapsed, which it would do again."""
    outcome = Outcome.read(folder)
    return outcome is not None and (
        outcome.status == COLLAPSED or (outcome.status == DONE and is_bundle(folder / "bundle"))
    )


def _same(folder: Path, point: Recipe) -> None:
    """Refuse a folder that holds another recipe's point."""
    path = folder / "point.json"
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise RecipeError(f"{path} cannot be read: {cause}; remove the folder, or choose another one") from cause
    try:
        check_unchanged(before, point.to_mapping(), path)
    except TrainingError as cause:
        raise RecipeError(str(cause)) from cause


def _absolute(recipe: Recipe) -> Recipe:
    """Make folders absolute: a worker may run in another one."""
    data = tuple(replace(d, root=None if d.root is None else str(Path(d.root).absolute())) for d in recipe.data)
    teacher = recipe.teacher
    if teacher is not None and teacher.bundle is not None:
        teacher = replace(teacher, bundle=str(find_bundle(teacher.bundle).absolute()))
    return replace(recipe, data=data, teacher=teacher)


def _folder(label: str) -> str:
    """Return a folder's name for a point: its label, or, where file systems or shells refuse that, a part and a hash."""
    plain = "".join(c if c.isalnum() or c in "._-=," else "_" for c in label)
    return (
        label
        if plain == label and len(label) <= 100
        else f"{plain[:90]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"
    )


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as cause:
        raise TrainingError(
            f"cannot write the sweep {root}: {cause.strerror or cause}; choose another folder"
        ) from cause
    with alone(root):
        yield
