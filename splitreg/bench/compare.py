"""``compare``: a regression gate between two results of a benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splitreg.bench.report import FORMAT, VERSION
from splitreg.bench.tables import markdown_table
from splitreg.errors import BenchError, suggest
from splitreg.files import is_finite, parse_json, value_errors

#: Largest number of digits of an integer in a result.
_MAX_DIGITS = 300
#: Times that ``compare`` reads: processor time divided by that of the reference task, processor time, wall time.
CLOCKS: Mapping[str, str] = {"ratio": "ratio", "cpu": "cpu_ms", "wall": "ms"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerances:
    """What is not a regression.

    Args:
        metric: largest loss of a metric, absolute; .005 is half a point. Losses of metrics without an
            upper bound, such as metres or dB, are measured in the same way.
        bytes: largest relative increase of bytes per image.
        time: largest relative increase of a time.
        min_ms: times below this in the first file are not compared; they are mostly noise.
        clock: one of ``CLOCKS``.
        times: compare times at all.
    """

    metric: float = 0.005
    bytes: float = 0.01
    time: float = 0.10
    min_ms: float = 0.2
    clock: str = "ratio"
    times: bool = True

    def __post_init__(self) -> None:
        if self.clock not in CLOCKS:
            raise BenchError(f"no clock {self.clock!r}.{suggest(self.clock, CLOCKS)} Available: {', '.join(CLOCKS)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One compared number.

    Args:
        relative: whether ``worse`` and ``tolerance`` are shares of ``before``.
        what: e.g. ``"camvid-small: seg mIoU"``.
        before: in the first file.
        after: in the second file.
        worse: how much worse: relative for bytes and times, absolute for metrics; negative is better.
        tolerance: largest value of ``worse`` that passes.
        low: lower end of the 95 % interval of ``worse``, from the same resamples of both files; None
            for bytes and times.
        high: upper end.
    """

    what: str
    relative: bool
    before: float
    after: float
    worse: float
    tolerance: float
    low: float | None = None
    high: float | None = None

    @property
    def regression(self) -> bool:
        """Whether the number is worse by more than its tolerance."""
        return self.worse > self.tolerance


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchChanges:
    """All compared numbers of two files."""

    changes: tuple[Change, ...]

    @property
    def regressions(self) -> tuple[Change, ...]:
        """The numbers that are worse by more than their tolerance."""
        return tuple(change for change in self.changes if change.regression)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "passed": not self.regressions,
            "changes": [{**asdict(change), "regression": change.regression} for change in self.changes],
        }

    def markdown(self, *, everything: bool = False) -> str:
        """Return a table of the regressions, or of all numbers."""
        chosen = self.changes if everything else self.regressions
        summary = f"{len(self.changes)} numbers compared, {len(self.regressions)} worse by more than the tolerance."
        if not chosen:
            return summary
        rows = [
            [c.what, f"{c.before:,.4g}", f"{c.after:,.4g}", _worse(c),
             f"{c.tolerance:.0%}" if c.relative else f"{c.tolerance:.4g}",
             "worse" if c.regression else ""]
            for c in chosen
        ]  # fmt: skip
        return summary + "\n\n" + markdown_table(["", "before", "after", "worse by", "tolerance", ""], rows)


def compare_files(before: str | Path, after: str | Path, tolerances: Tolerances | None = None) -> BenchChanges:
    """Compare two files ``bench.json``.

    Args:
        before: the reference, e.g. of the main branch.
        after: the file to judge.
        tolerances: what is not a regression.

    Raises:
        BenchError: a file is not a result of ``splitreg bench``; or they have other images, settings
            or machines; or the second lacks a series, metric or time of the first.
    """
    return compare_results(read_result(before), read_result(after), tolerances)


def compare_results(
    before: Mapping[str, Any], after: Mapping[str, Any], tolerances: Tolerances | None = None
) -> BenchChanges:
    """Compare two results as ``BenchResult.to_json`` returns them; see ``compare_files``.

    Raises:
        BenchError: as ``compare_files``.
    """
    tolerances = tolerances or Tolerances()
    for key in ("dataset", "images"):
        if before[key] != after[key]:
            raise BenchError(
                f"results of different images cannot be compared: {key} is {before[key]!r} in the first file and "
                f"{after[key]!r} in the second; measure both with the same --data, --split and --limit"
            )
    with damaged_result("a file"):
        changes = list(_points(before, after, tolerances))
        if tolerances.times and "speed" in before:
            changes += _times(before["speed"], after.get("speed"), tolerances)
    return BenchChanges(changes=tuple(changes))


def damaged_result(what: str) -> AbstractContextManager[None]:
    """Return a block in which values that are missing or of another type are the error that a result is damaged.

    Args:
        what: file, for the message.

    Raises:
        BenchError: instead of ``KeyError``, ``TypeError`` and so on.
    """
    return value_errors(
        lambda cause: BenchError(
            f"{what} of splitreg bench is damaged, or of another version: {type(cause).__name__}: {str(cause)[:200]}; "
            "measure again"
        )
    )


def read_result(path: str | Path) -> dict[str, Any]:
    """Read a ``bench.json``, or the one in a folder of ``splitreg bench``.

    Raises:
        BenchError: it cannot be read, is not a result, or one of another version.
    """
    file = Path(path) / "bench.json" if Path(path).is_dir() else Path(path)
    try:
        result = parse_json(file.read_text(encoding="utf-8"), parse_constant=_no_number, parse_int=_integer)
    except (OSError, ValueError) as cause:
        raise BenchError(f"cannot read {file}: {cause}; it must be a bench.json of splitreg bench") from cause
    if not isinstance(result, dict) or result.get("format") != FORMAT:
        raise BenchError(f"{file} is not a result of splitreg bench: it has no format {FORMAT!r}")
    if result.get("version") != VERSION:
        raise BenchError(
            f"{file} has version {result.get('version')!r} of the format, this splitreg reads {VERSION}; measure again"
        )
    missing = [key for key in ("dataset", "images", "series") if key not in result]
    if missing:
        raise BenchError(f"{file} is damaged: it lacks {', '.join(missing)}; measure again")
    return result


def _no_number(text: str) -> float:
    raise ValueError(f"it holds {text}, which compares as neither better nor worse")


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"it holds a number of {len(text)} digits")
    return int(text)


def _points(before: Mapping[str, Any], after: Mapping[str, Any], tolerances: Tolerances) -> Iterator[Change]:
    for series, points in before["series"].items():
        others = after["series"].get(series)
        if others is None:
            raise BenchError(
                f"the second file lacks the series {series!r} of the first.{suggest(series, after['series'])} It has: "
                f"{', '.join(after['series'])}"
            )
        if len(points) != len(others):
            raise BenchError(
                f"series {series!r} has {len(points)} points in the first file and {len(others)} in the second; measure "
                "both with the same --rates and --images"
            )
        for one, other in zip(points, others, strict=True):
            where = f"{series}: " if len(points) == 1 else f"{series}, {one['label']}: "
            if one["bytes"] or other["bytes"]:
                yield Change(
                    what=f"{where}bytes", relative=True, before=one["bytes"], after=other["bytes"],
                    worse=_growth(one["bytes"], other["bytes"]), tolerance=tolerances.bytes,
                )  # fmt: skip
            for head, primary in one["primary"].items():
                change = _metric(where, head, primary, one, other, tolerances)
                if change is not None:
                    yield change


def _metric(
    where: str, head: str, primary: Mapping[str, Any], one: Mapping[str, Any], other: Mapping[str, Any],
    tolerances: Tolerances,
) -> Change | None:  # fmt: skip
    name = primary["metric"]
    value = one["metrics"].get(head, {}).get(name)
    if value is None:
        return None  # not measured in the first file either
    now = other["metrics"].get(head, {}).get(name)
    if now is None:
        raise BenchError(
            f"the second file has no {name} of head {head!r} in {where.rstrip(': ')}; the first has {value}"
        )
    if not is_finite(value) or not is_finite(now):
        raise ValueError(f"{name} of head {head!r} is no number")
    sign = 1.0 if primary["lower_is_better"] else -1.0
    low, high = _paired(one, other, head, name, sign)
    return Change(
        what=f"{where}{head} {name}", relative=False, before=value, after=now, worse=sign * (now - value),
        tolerance=tolerances.metric,
        low=low, high=high,
    )  # fmt: skip


def _paired(
    one: Mapping[str, Any], other: Mapping[str, Any], head: str, name: str, sign: float
) -> tuple[float | None, float | None]:
    """Return the 95 % interval of the difference: both files have the same resamples of the same images."""
    values = [point["intervals"].get(head, {}).get(name, {}).get("values") for point in (one, other)]
    if not all(values) or len(values[0]) != len(values[1]):
        return None, None
    differences = sign * (np.array(values[1], np.float64) - np.array(values[0], np.float64))
    finite = differences[np.isfinite(differences)]
    return (float(np.quantile(finite, 0.025)), float(np.quantile(finite, 0.975))) if len(finite) else (None, None)


def _times(before: Mapping[str, Any], after: Mapping[str, Any] | None, tolerances: Tolerances) -> Iterator[Change]:
    if after is None:
        raise BenchError("the first file has times, the second has none; measure it with --times, or use --no-times")
    for name, values in {
        "hardware": [speed["machine"]["hardware"] for speed in (before, after)],
        "threads": [speed["threads"] for speed in (before, after)],
    }.items():
        if values[0] != values[1]:
            raise BenchError(
                f"times of different {name} cannot be compared: {values[0]!r} and {values[1]!r}; measure both on one "
                "machine, or use --no-times"
            )
    key = CLOCKS[tolerances.clock]
    now = dict(timings(after))
    for what, timing in timings(before):
        if timing["ms"] < tolerances.min_ms:
            continue
        if what not in now:
            raise BenchError(
                f"the second file lacks the time of {what}; measure both with the same bundles and runtimes"
            )
        yield Change(
            what=f"{what}, {tolerances.clock}", relative=True, before=timing[key], after=now[what][key],
            worse=_growth(timing[key], now[what][key]), tolerance=tolerances.time,
        )  # fmt: skip


def timings(speed: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, float]]]:
    """Yield every time of a result of ``measure_speed`` with its name."""

    def walk(name: str, value: Any) -> Iterator[tuple[str, Mapping[str, float]]]:
        if isinstance(value, Mapping):
            if "cpu_ms" in value:
                yield name, value
            else:
                for key, item in value.items():
                    yield from walk(f"{name} {key}", item)

    for part in ("bundles", "codecs"):
        for name, value in speed.get(part, {}).items():
            yield from walk(f"{name}:", value)


def _growth(before: float, after: float) -> float:
    """Return the relative increase; from 0 to more it has no bound."""
    if not is_finite(before) or not is_finite(after):
        raise ValueError(f"{str(before)[:40]} or {str(after)[:40]} is no number")
    return after / before - 1 if before else float("inf") if after else 0.0


def _worse(change: Change) -> str:
    if change.relative:
        return f"{change.worse:+.1%}"
    interval = "" if change.low is None or change.high is None else f" ({change.low:+.4f} to {change.high:+.4f})"
    return f"{change.worse:+.4f}{interval}"
