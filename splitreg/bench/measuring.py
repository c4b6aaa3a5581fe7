"""``run``: measure bundles and baselines as rate-accuracy curves.

::

    result = run(
        {"camvid-small": ["zoo:camvid-small"], "webp": image_points(unsplit, ["webp:80", "webp:20"])["webp"]},
        "bench", data=DataPart(name="camvid", root="camvid"),
    )
    print(result)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from splitreg.bench.curves import Series, axes, compare, default_anchor
from splitreg.bench.points import Point, Points, Sent, Setting, bundle_name
from splitreg.bench.report import BenchResult
from splitreg.bench.speed import SpeedOptions, measure_speed
from splitreg.errors import DataError, RecipeError, TrainingError
from splitreg.evaluation.intervals import RESAMPLES
from splitreg.files import IMAGE_CODECS, disk_errors, write_atomic, write_json
from splitreg.parsing import check_name
from splitreg.recipe import DataPart
from splitreg.registry import Registry
from splitreg.zoo import find_bundle


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchOptions:
    """How to measure and compare series.

    Args:
        limit: number of images, spread evenly; None: all of them.
        anchor: series that the others are compared with; None: the first one with several points.
        progress: show bars on stderr.
        on_point: called with the series and each point.
        resamples: number of bootstrap resamples for the intervals of the metrics; 0: none.
        speed: also measure times of the bundles; None: do not.
    """

    limit: int | None = None
    anchor: str | None = None
    progress: bool = False
    on_point: Callable[[str, Point], None] | None = None
    resamples: int = RESAMPLES
    speed: SpeedOptions | None = None


def run(
    series: Mapping[str, Sequence[Sent | str | Path]],
    output: str | Path,
    *,
    data: DataPart | Sequence[DataPart],
    options: BenchOptions | None = None,
    registry: Registry | None = None,
) -> BenchResult:
    """Measure every point of every series, and compare the series.

    A point that was measured before in ``output``, for the same bundle and images, is not measured again.

    Args:
        series: name -> points; a bundle (a folder or ``"zoo:NAME"``) stands for its packets.
        output: folder for ``bench.json``, ``bench.md``, one SVG per metric, and ``points/``.
        data: dataset or datasets; their ``val`` split is measured.
        options: number of images, anchor and so on.
        registry: the installed plugins, by default.

    Raises:
        RecipeError: there is no series, a series is empty, or no such anchor.
        BundleError: a bundle cannot be read.
        DataError: the dataset cannot be read, or no head has a metric on it.
        TrainingError: the folder cannot be written.
    """
    options, folder = options or BenchOptions(), Path(output)
    if not series or not all(series.values()):
        raise RecipeError("a benchmark needs series with at least one point each; name a bundle")
    if options.anchor is not None:
        check_name(options.anchor, series, "series")
    setting = Setting(
        data=(data,) if isinstance(data, DataPart) else tuple(data), limit=options.limit, resamples=options.resamples
    )
    points = Points(folder / "points", setting, registry=registry, progress=options.progress)
    measured = []
    for name, items in series.items():
        row = []
        for item in items:
            row.append(points.measure(item if isinstance(item, Sent) else Sent(bundle=find_bundle(item))))
            if options.on_point is not None:
                options.on_point(name, row[-1])
        measured.append(Series(name=name, points=tuple(row)))
    metrics = axes(measured)
    if not metrics:
        raise DataError(f"{setting.dataset} has no target for any head of these bundles, so nothing can be compared")
    anchor = options.anchor or default_anchor(measured)
    result = BenchResult(
        dataset=setting.dataset, images=measured[0].points[0].report["images"], anchor=anchor, series=tuple(measured),
        comparisons=tuple(compare(axis, measured, anchor) for axis in metrics), output=folder,
        speed=_speed(series, points, options, registry),
    )  # fmt: skip
    _write(result)
    return result


def _speed(
    series: Mapping[str, Sequence[Sent | str | Path]], points: Points, options: BenchOptions, registry: Registry | None
) -> dict[str, Any]:
    """Measure the times of all bundles and image codecs of the series on the first images."""
    if options.speed is None:
        return {}
    sent = [
        item if isinstance(item, Sent) else Sent(bundle=find_bundle(item))
        for items in series.values()
        for item in items
    ]
    bundles = {bundle_name(one.bundle): one.bundle for one in sent}
    codecs = dict.fromkeys(
        f"{one.how}:{one.quality}" if one.quality else one.how for one in sent if one.how in IMAGE_CODECS
    )
    chosen = replace(options.speed, codecs=options.speed.codecs or tuple(codecs))
    return measure_speed(bundles, points.images(sent[0].bundle), chosen, registry=registry)


def _write(result: BenchResult) -> None:
    charts = result.charts()
    text = result.markdown() + "".join(f"\n![{Path(name).stem}]({name})\n" for name in charts)
    with disk_errors(result.output, TrainingError, "free some space, or choose another folder"):
        write_json(result.output / "bench.json", result.to_json())
        for name, content in {"bench.md": text, **charts}.items():
            write_atomic(result.output / name, content.encode())
