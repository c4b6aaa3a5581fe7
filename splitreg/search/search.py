"""``search``: train models at points that optuna proposes; the same call continues."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from splitreg.bench import BenchOptions, run
from splitreg.bench.points import Point
from splitreg.errors import MissingExtra, PlanError, RecipeError, SplitregError, TrainingError, suggest
from splitreg.files import disk_errors, parse_json, write_json
from splitreg.recipe import Recipe
from splitreg.search.space import Range, Space, default_space, one_point
from splitreg.sweep import SweepOptions
from splitreg.sweep import run as sweep

#: What is optimised, in this order; metrics are made larger, the others smaller.
OBJECTIVES = ("metric", "bytes", "macs")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How to search.

    Args:
        trials: number of models in all, those of earlier calls included.
        metric: ``"head.metric"``; None: the mean of all primary metrics, errors negated.
        limit: number of validation images of each measurement; None: all.
        seed: of the sampler.
        sweep: where and how each model is trained.
        on_trial: called with each finished trial.
    """

    trials: int = 20
    metric: str | None = None
    limit: int | None = None
    seed: int = 0
    sweep: SweepOptions = field(default_factory=SweepOptions)
    on_trial: Callable[[Trial], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One model.

    Args:
        number: its number.
        values: recipe key -> value.
        metric: what is made larger; None if the trial failed.
        bytes: mean bytes per image.
        macs: multiply-accumulates of the device per image.
        bundle: its folder; None if the trial failed.
        error: why it failed; empty otherwise.
        best: whether no other trial is at least as good in everything.
    """

    number: int
    values: Mapping[str, Any]
    metric: float | None = None
    bytes: float | None = None
    macs: float | None = None
    bundle: str | None = None
    error: str = ""
    best: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """All trials of a search."""

    trials: tuple[Trial, ...]

    @property
    def front(self) -> tuple[Trial, ...]:
        """The Pareto front, fewest bytes first; a point that was proposed twice is in it once."""
        points = {json.dumps(dict(t.values), sort_keys=True): t for t in self.trials if t.best}
        return tuple(sorted(points.values(), key=lambda t: t.bytes or 0.0))

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {"objectives": list(OBJECTIVES), "trials": [asdict(trial) for trial in self.trials]}


def search(
    recipe: Recipe, output: str | Path, space: Space | None = None, options: SearchOptions | None = None
) -> SearchResult:
    """Look for the Pareto front of a metric, bytes and device work.

    optuna's multi-objective TPE (Ozaki et al. 2022, doi:10.1613/jair.1.13188) proposes points; each is
    trained as a sweep of one point, so that an interrupted training continues from its checkpoint.

    Args:
        recipe: what is trained; its ``sweep`` is not used.
        output: folder for ``study.log``, ``search.json`` and one subfolder per model.
        space: recipe key -> ``Range`` or choices; None: ``default_space``.
        options: number of models and so on.

    Raises:
        MissingExtra: optuna is not installed.
        RecipeError: an invalid space, or another one than that of the folder.
        TrainingInterrupted: SIGINT or SIGTERM; the next call continues.
        TrainingError: the folder cannot be written.
    """
    optuna = _optuna()
    options, root = options or SearchOptions(), Path(output).resolve()
    _check_metric(options.metric, recipe)
    space = default_space(recipe) if space is None else space
    with disk_errors(root, TrainingError, "free some space, or choose another folder"):
        root.mkdir(parents=True, exist_ok=True)
        _check_same(root / "space.json", recipe, space)
    study = _study(optuna, root, options)
    while (ended := _ended(study)) < options.trials:
        study.sampler = optuna.samplers.TPESampler(seed=options.seed + ended)  # an interruption changes no proposal
        proposal = study.ask(_distributions(optuna, space))
        trial = _train(recipe, root, proposal.number, dict(proposal.params), options)
        proposal.set_user_attr("trial", asdict(trial))
        if trial.error:
            study.tell(proposal, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(proposal, [trial.metric, trial.bytes, trial.macs])
        if options.on_trial is not None:
            options.on_trial(trial)
    result = SearchResult(trials=_trials(study))
    with disk_errors(root, TrainingError, "free some space, or choose another folder"):
        write_json(root / "search.json", result.to_json())
    return result


def pareto(trials: Sequence[Trial]) -> list[bool]:
    """Return for each trial whether no other one is at least as good in everything and better in something."""
    rows = [None if t.metric is None else (-t.metric, t.bytes or 0.0, t.macs or 0.0) for t in trials]
    return [
        row is not None
        and not any(
            other is not None and other != row and all(a <= b for a, b in zip(other, row, strict=True))
            for other in rows
        )
        for row in rows
    ]


def _optuna() -> Any:
    try:
        import optuna
    except ModuleNotFoundError as cause:
        raise MissingExtra("optuna is not installed; pip install 'splitreg[search]'") from cause
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(optuna: Any, root: Path, options: SearchOptions) -> Any:
    """Open or create the study; trials that a killed call has left are proposed again."""
    backend = optuna.storages.journal.JournalFileBackend(str(root / "study.log"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # parts of optuna are marked experimental
        study = optuna.create_study(
            study_name="search", storage=optuna.storages.JournalStorage(backend), load_if_exists=True,
            directions=["maximize", "minimize", "minimize"],
        )  # fmt: skip
        for left in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            study.enqueue_trial(left.params)
            study.tell(left.number, state=optuna.trial.TrialState.FAIL)
    return study


def _ended(study: Any) -> int:
    return sum("trial" in trial.user_attrs for trial in study.get_trials(deepcopy=False))


def _trials(study: Any) -> tuple[Trial, ...]:
    rows = [Trial(**trial.user_attrs["trial"]) for trial in study.get_trials() if "trial" in trial.user_attrs]
    return tuple(Trial(**{**asdict(row), "best": best}) for row, best in zip(rows, pareto(rows), strict=True))


def _distributions(optuna: Any, space: Space) -> dict[str, Any]:
    kinds = optuna.distributions
    return {
        key: kinds.CategoricalDistribution(list(one)) if not isinstance(one, Range)
        else kinds.IntDistribution(int(one.low), int(one.high), log=one.log) if one.whole
        else kinds.FloatDistribution(one.low, one.high, log=one.log)
        for key, one in space.items()
    }  # fmt: skip


def _train(recipe: Recipe, root: Path, number: int, values: dict[str, Any], options: SearchOptions) -> Trial:
    """Train and measure one model; a plan that does not fit, or a failed training, is a failed trial."""
    name = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]  # the same after a restart
    try:
        (point,) = sweep(one_point(recipe, values), root / name, options.sweep)
    except (PlanError, RecipeError) as error:
        return Trial(number=number, values=values, error=str(error))
    if point.bundle is None:
        return Trial(number=number, values=values, error=f"{point.outcome.status}: {point.outcome.message}")
    result = run(
        {"trial": [point.bundle]}, root / name / "bench", data=recipe.data,
        options=BenchOptions(resamples=0, limit=options.limit),
    )  # fmt: skip
    measured = result.series[0].points[0]
    metric = _metric(measured, options.metric)
    return Trial(
        number=number, values=values, metric=metric, bytes=measured.bytes, macs=float(measured.macs),
        bundle=str(point.bundle),
    )  # fmt: skip


def _check_metric(wanted: str | None, recipe: Recipe) -> None:
    """Check the head of a metric before anything is trained; its name is known when it is measured."""
    if wanted is None:
        return
    heads = [head.name for head in recipe.heads]
    head, dot, name = wanted.partition(".")
    if head not in heads or not dot or not name:
        raise RecipeError(
            f"a metric is HEAD.METRIC, with a head of {', '.join(heads)}; got {wanted!r}.{suggest(head, heads)}"
        )


def _metric(point: Point, wanted: str | None) -> float:
    values = {
        f"{head}.{name}": -value if lower else value
        for head, (name, lower) in point.primary.items()
        if (value := point.metrics.get(head, {}).get(name)) is not None
    }
    if not values:
        raise RecipeError("no metric was measured: the validation images have no label for any head")
    if wanted is None:
        return sum(values.values()) / len(values)
    if wanted not in values:
        raise RecipeError(f"no primary metric {wanted}; measured: {', '.join(values)}")
    return values[wanted]


def _check_same(path: Path, recipe: Recipe, space: Space) -> None:
    """Store recipe and space, or compare them with those of the folder.

    Raises:
        RecipeError: they are others.
    """
    table = {
        "recipe": recipe.to_mapping(),
        "space": {key: asdict(one) if isinstance(one, Range) else list(one) for key, one in space.items()},
    }
    text = json.loads(json.dumps(table, default=str))
    if not path.exists():
        write_json(path, text)
        return
    try:
        same = parse_json(path.read_text(encoding="utf-8")) == text
    except ValueError as cause:
        raise SplitregError(f"cannot read {path}: {cause}; choose another folder") from cause
    if not same:
        raise RecipeError(f"{path.parent} holds a search of another recipe or space; choose another folder")
