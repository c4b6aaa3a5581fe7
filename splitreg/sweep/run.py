"""``run``: train every point of a recipe's sweep, each in its own folder; finished points are kept."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from splitreg.bundle import check_free, is_bundle
from splitreg.errors import RecipeError, TrainingError
from splitreg.files import disk_errors, parse_json
from splitreg.parsing import check_name
from splitreg.recipe import Recipe
from splitreg.sweep.local import run_here, run_local
from splitreg.sweep.on_ray import run_on_ray
from splitreg.sweep.outcome import COLLAPSED, DONE, Outcome, write_table
from splitreg.sweep.point import PointJob
from splitreg.training import TrainOptions
from splitreg.training.devices import rank
from splitreg.training.locking import locked
from splitreg.training.run import check_unchanged
from splitreg.zoo import find_bundle

OnEvent = Callable[[Mapping[str, Any]], None]

#: Where points can be trained.
PLACES = {"local": run_local, "ray": run_on_ray, "here": run_here}
#: Options of a point's training, by default.
DEFAULTS = TrainOptions(resume=True, tensorboard=False, progress=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """How to run a sweep.

    Args:
        on: ``"local"`` (processes of this machine), ``"ray"`` or ``"here"`` (this process, one by one).
        jobs: points at a time.
        retries: how often a point is continued, from its last checkpoint, whose process was killed.
        train: options of each point's training; ``datasets`` and ``on_event`` are not used. Each validation
            looks for a collapse.
        bundles: folder for the bundles, one subfolder per point; None: in the folders of the points.
        overwrite: replace bundles, also those of finished points.
        on_event: called with ``event`` ("known", "start", "retry", "end"), ``point`` and ``outcome``.

    Raises:
        RecipeError: unknown place, or a number out of range.
    """

    on: str = "local"
    jobs: int = 1
    retries: int = 2
    train: TrainOptions = DEFAULTS
    bundles: Path | None = None
    overwrite: bool = False
    on_event: OnEvent | None = None

    def __post_init__(self) -> None:
        check_name(self.on, PLACES, "place to train")
        if self.jobs < 1 or self.retries < 0:
            raise RecipeError(f"jobs must be at least 1 and retries at least 0, got {self.jobs} and {self.retries}")

    def emit(self, event: str, point: str, outcome: Outcome | None) -> None:
        """Call ``on_event``."""
        if self.on_event is not None:
            self.on_event({"event": event, "point": point, "outcome": outcome})


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPoint:
    """One point after a sweep.

    Args:
        label: its values, e.g. ``"rate_lambda=0.5"``.
        folder: its folder.
        outcome: how it ended.
        known: whether it had ended before this call.
        bundle: folder of its bundle; None if it is not done.
    """

    label: str
    folder: Path
    outcome: Outcome
    known: bool
    bundle: Path | None

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        outcome = dataclasses.asdict(self.outcome)
        return {"label": self.label, "folder": self.folder.name, "bundle": bool(self.bundle), **outcome}


def run(recipe: Recipe, output: str | Path, options: SweepOptions | None = None) -> tuple[SweepPoint, ...]:
    """Train every point of a sweep; called again, it trains what is missing.

    A point that fails or collapses does not stop the others. A failed point is tried again by the next call.

    Args:
        recipe: with a ``sweep``; without one there is one point.
        output: folder of the sweep, with one subfolder per point and ``sweep.json``.
        options: where and how to train.

    Returns:
        The points, in the order of the recipe.

    Raises:
        RecipeError: the folder holds a sweep of another recipe.
        BundleError: a bundle cannot be written to its place.
        TrainingInterrupted: SIGINT or SIGTERM; the next call continues.
        MissingExtra: Ray is wanted and not installed.
        TrainingError: the folder cannot be written, or another process runs a sweep in it.
    """
    options, root = options or SweepOptions(), Path(output).resolve()
    jobs: dict[Path, PointJob] = {}
    labels: dict[Path, str] = {}
    for label, point in recipe.points():
        name = _folder_name(label or "point")
        folder = root / name
        bundle = folder / "bundle" if options.bundles is None else options.bundles.resolve() / name
        jobs[folder] = PointJob(recipe=_with_absolute_paths(point), bundle=bundle, train=options.train)
        labels[folder] = label or "point"
    with _locked(root):
        return _run(root, jobs, labels, options)


def _run(
    root: Path, jobs: Mapping[Path, PointJob], labels: Mapping[Path, str], options: SweepOptions
) -> tuple[SweepPoint, ...]:
    resume, first = options.train.resume, rank() == 0
    for folder, job in jobs.items():
        _check_same(folder, job.recipe)
    keep = resume and not options.overwrite
    known = {folder for folder, job in jobs.items() if keep and _has_ended(folder, job)}
    missing = {folder: job for folder, job in jobs.items() if folder not in known}
    for job in missing.values():
        check_free(job.bundle, overwrite=options.overwrite or resume)
    names = {labels[folder]: folder.name for folder in jobs}
    if first:
        write_table(root / "sweep.json", {"points": names})
        for folder, job in missing.items():
            (folder / "outcome.json").unlink(missing_ok=True)
            job.write(folder)
    for folder in jobs:
        if folder in known:
            options.emit("known", labels[folder], Outcome.read(folder))

    def on_worker(event: str, folder: Path) -> None:
        options.emit(event, labels[folder], Outcome.read(folder) if event == "end" else None)

    if missing:
        PLACES[options.on](missing, jobs=options.jobs, retries=options.retries, on_worker=on_worker)
    points = tuple(
        SweepPoint(
            label=labels[folder], folder=folder, outcome=outcome, known=folder in known,
            bundle=job.bundle if outcome.status == DONE else None,
        )
        for folder, job in jobs.items()
        if (outcome := Outcome.read(folder)) is not None
    )  # fmt: skip
    if first:
        write_table(root / "sweep.json", {"points": names, "outcomes": [point.to_json() for point in points]})
    return points


def finished(folder: str | Path) -> list[Path]:
    """Return the bundles of a sweep's finished points, in its order; empty if the folder holds no sweep."""
    root = Path(folder)
    try:
        table = parse_json((root / "sweep.json").read_text(encoding="utf-8"))
        names: Sequence[str] = list(table["points"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    outcomes = {root / name: Outcome.read(root / name) for name in names}
    return [PointJob.read(point).bundle for point, outcome in outcomes.items() if outcome and outcome.status == DONE]


def _has_ended(folder: Path, job: PointJob) -> bool:
    """Whether a point is done and its bundle is there, or it has collapsed, which it would do again."""
    outcome = Outcome.read(folder)
    return outcome is not None and (
        outcome.status == COLLAPSED or (outcome.status == DONE and is_bundle(job.bundle))
    )  # fmt: skip


def _check_same(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder with a point of another recipe."""
    path = folder / "point.json"
    try:
        before = parse_json(path.read_text(encoding="utf-8"))["recipe"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as cause:
        raise RecipeError(f"cannot read {path}: {cause}; remove the folder, or choose another one") from cause
    try:
        check_unchanged(before, recipe.to_mapping(), path)
    except TrainingError as cause:
        raise RecipeError(str(cause)) from cause


def _with_absolute_paths(recipe: Recipe) -> Recipe:
    """Make paths absolute: a worker may run in another folder."""
    data = tuple(replace(d, root=None if d.root is None else str(Path(d.root).absolute())) for d in recipe.data)
    teacher = recipe.teacher
    if teacher is not None and teacher.bundle is not None:
        teacher = replace(teacher, bundle=str(find_bundle(teacher.bundle).absolute()))
    return replace(recipe, data=data, teacher=teacher)


def _folder_name(label: str) -> str:
    """Return the label, or a part of it and a hash if it is too long or not valid as a name in file systems or shells."""
    plain = "".join(c if c.isalnum() or c in "._-=," else "_" for c in label)
    if plain == label and len(label) <= 100:
        return label
    return f"{plain[:90]}-{hashlib.sha256(label.encode()).hexdigest()[:8]}"


@contextlib.contextmanager
def _locked(root: Path) -> Iterator[None]:
    with disk_errors(root, TrainingError, "choose another folder"):
        root.mkdir(parents=True, exist_ok=True)
    with locked(root) if rank() == 0 else contextlib.nullcontext():
        yield
