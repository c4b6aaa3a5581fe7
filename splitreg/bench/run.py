"""``run``: bundles and baselines into rate-accuracy curves.

::

    found = run(
        {"camvid-small": ["zoo:camvid-small"], "webp": pictures(unsplit, ["webp:80", "webp:20"])},
        "bench", data=DataPart(name="camvid", root="camvid"),
    )
    print(found)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from splitreg.bench.curves import Line, axes, compare, usual_anchor
from splitreg.bench.points import Point, Points, Sent, Setting
from splitreg.bench.report import Result
from splitreg.errors import DataError, RecipeError, suggest
from splitreg.recipe import DataPart
from splitreg.registry import Registry
from splitreg.training.checkpoint import write_atomically
from splitreg.zoo import find_bundle


def run(
    series: Mapping[str, Sequence[Sent | str | Path]],
    output: str | Path,
    *,
    data: DataPart | Sequence[DataPart],
    limit: int | None = None,
    anchor: str | None = None,
    registry: Registry | None = None,
    progress: bool = False,
    on_point: Callable[[str, Point], None] | None = None,
) -> Result:
    """Measure every point of every series, and hold the series against each other.

    A point that was measured before in ``output``, of the same bundle on the same images, is not measured again.

    Args:
        series: name -> points; a bundle (a folder or ``"zoo:NAME"``) stands for its packets.
        output: folder for ``bench.json``, ``bench.md``, an SVG a metric, and ``points/``.
        data: dataset or datasets; their ``val`` split is measured.
        limit: only so many images, spread evenly.
        anchor: series that the others are held against; by default the first one that has several points.
        registry: the installed plugins, by default.
        progress: show bars on stderr.
        on_point: called with series and point as each is there.

    Raises:
        RecipeError: there is no series, an empty one, or no such anchor.
        BundleError: a bundle cannot be read.
        DataError: the dataset cannot be read, or no head has a metric on it.
        TrainingError: the folder cannot be written.
    """
    if not series or not all(series.values()):
        raise RecipeError("a bench needs series of at least one point each; name a bundle")
    if anchor is not None and anchor not in series:
        raise RecipeError(
            f"no series {anchor!r} to hold the others against.{suggest(anchor, series)} There are: {', '.join(series)}"
        )
    folder = Path(output)
    setting = Setting(data=(data,) if isinstance(data, DataPart) else tuple(data), limit=limit)
    points = Points(folder / "points", setting, registry=registry, progress=progress)
    lines = []
    for name, wanted in series.items():
        found = []
        for item in wanted:
            point = points.measure(item if isinstance(item, Sent) else Sent(bundle=find_bundle(item)))
            found.append(point)
            if on_point is not None:
                on_point(name, point)
        lines.append(Line(name=name, points=tuple(found)))
    wanted_axes = axes(lines)
    if not wanted_axes:
        raise DataError(
            f"{setting.dataset} has no target for any head of these bundles, so there is nothing to compare"
        )
    against = anchor or usual_anchor(lines)
    result = Result(
        dataset=setting.dataset, images=lines[0].points[0].report["images"], anchor=against, lines=tuple(lines),
        comparisons=tuple(compare(axis, lines, against) for axis in wanted_axes), output=folder,
    )  # fmt: skip
    write_atomically(folder / "bench.json", json.dumps(result.to_json(), indent=1).encode() + b"\n")
    charts = result.charts()
    text = result.markdown() + "".join(f"\n![{Path(name).stem}]({name})\n" for name in charts)
    for name, content in {"bench.md": text, **charts}.items():
        write_atomically(folder / name, content.encode())
    return result
