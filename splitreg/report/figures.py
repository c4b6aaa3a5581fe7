"""Sections of a report for the JSON of each command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from splitreg.bench.chart import Trace, chart
from splitreg.errors import ReportError
from splitreg.report.blocks import Bars, Block, Chart, ReportSection, Table, Text
from splitreg.report.timing import speed_sections

#: Rows of a table of an unknown result, and epochs of a training's table.
MAX_ROWS = 200


def benchmark(value: Mapping[str, Any], name: str) -> list[ReportSection]:
    """Return curves, points and comparisons of a ``bench.json``."""
    where = f"{value['images']} images of {value['dataset']}"
    axes = [(c["head"], c["metric"], bool(c["lower_is_better"])) for c in value["comparisons"]]
    charts: list[Block] = [
        Text(text=f"Metrics against bytes per image, on {where}. Points further left send fewer bytes.")
    ]
    for head, metric, lower in axes:
        traces = [
            Trace(name=series, points=[(p["bytes"], p["metrics"][head][metric], p["label"]) for p in measured])
            for series, points in value["series"].items()
            if (measured := [p for p in points if p["metrics"].get(head, {}).get(metric) is not None])
        ]
        if traces:
            label = f"{head} {metric}" + (" (lower is better)" if lower else "")
            svg = chart(f"{head} {metric} on {where}", label, traces)
            charts.append(Chart(svg=svg, caption=f"{head} {metric} against bytes per image", stem=f"{head}-{metric}"))
    sections = [
        ReportSection(title=f"Rate curves: {name}", blocks=charts),
        ReportSection(title="Points", blocks=[_points(value, axes)]),
    ]
    compared = list(_compared(value))
    if compared:
        sections.append(ReportSection(title=f"Compared with {value['anchor']}", blocks=compared))
    return [*sections, *speed_sections(value.get("speed") or {})]


def _points(value: Mapping[str, Any], axes: Sequence[tuple[str, str, bool]]) -> Table:
    rows = []
    for series, points in value["series"].items():
        for point in sorted(points, key=lambda p: p["bytes"]):
            cells = [_with_interval(point, head, metric) for head, metric, _ in axes]
            device = point.get("device", {})
            cost = [_count(device.get("macs")), _count(device.get("parameters"))]
            rows.append([f"{series}, {point['label']}", f"{point['bytes']:,.0f}", *cells, *cost])
    header = ["sent", "bytes per image", *(f"{head} {metric}" for head, metric, _ in axes)]
    return Table(header=[*header, "device MACs", "device weights"], rows=rows)


def _with_interval(point: Mapping[str, Any], head: str, metric: str) -> str:
    text = number(point["metrics"].get(head, {}).get(metric))
    interval = point.get("intervals", {}).get(head, {}).get(metric)
    return text if not interval else f"{text} ({number(interval['low'])} to {number(interval['high'])})"


def _compared(value: Mapping[str, Any]) -> Iterator[Block]:
    names = [name for name in value["series"] if name != value["anchor"]]
    rows = []
    for name in names:
        rates = [c["bd_rate"].get(name) for c in value["comparisons"]]
        if any(rate is not None for rate in rates):
            rows.append([name, *("-" if rate is None else f"{rate:+.1%}" for rate in rates)])
    if rows:
        header = ["series", *(f"{c['head']} {c['metric']}" for c in value["comparisons"])]
        yield Table(header=header, rows=rows, caption="BD-rate: mean change of the bytes at equal accuracy")
    for one in value["comparisons"]:
        levels = one["bytes_at_equal_accuracy"]
        series = [name for name in value["series"] if any((lv["bytes"].get(name) or 0) > 0 for lv in levels)]
        if len(series) > 1:
            cells = [
                [f"{number(level['value'])} ({level['of']})", *(_needed(level, name) for name in series)]
                for level in levels
            ]
            caption = f"Bytes per image for the same {one['head']} {one['metric']} (≤: the smallest point is better)"
            yield Table(header=[f"{one['head']} {one['metric']}", *series], rows=cells, caption=caption)


def _needed(level: Mapping[str, Any], name: str) -> str:
    size = level["bytes"].get(name)
    return "-" if size is None else f"{'≤ ' if name in level['at_most'] else ''}{size:,.0f}"


def comparison(value: Mapping[str, Any], name: str) -> list[ReportSection]:
    """Return the result of ``bench compare``: what is worse, and all numbers."""
    changes = value["changes"]
    worse = [change for change in changes if change["regression"]]
    verdict = "passed" if value["passed"] else f"{len(worse)} of {len(changes)} numbers are worse than tolerated"
    blocks: list[Block] = [Text(text=f"{len(changes)} numbers compared: {verdict}.", lead=True)]
    for caption, rows in (("Worse than tolerated", worse), ("All numbers", changes)):
        if rows:
            cells = [[c["what"], *map(number, (c["before"], c["after"])), _worse(c, c["worse"]), _worse(c, c["tolerance"])]
                     for c in rows]  # fmt: skip
            header = ["", "before", "after", "worse by", "tolerance"]
            blocks.append(Table(header=header, rows=cells, caption=caption))
    return [ReportSection(title=f"Comparison: {name}", blocks=blocks)]


def _worse(change: Mapping[str, Any], value: float) -> str:
    return f"{value:+.1%}" if change["relative"] else f"{value:+.4f}"


def evaluations(value: Sequence[Mapping[str, Any]], name: str) -> list[ReportSection]:
    """Return bytes, metrics and conditions of one or several evaluations."""
    first = value[0]
    sizes = [(one["sent"], [float(one["bytes"]["mean"])]) for one in value]
    spread = [
        [one["sent"], *(f"{one['bytes'][key]:,.0f}" for key in ("mean", "p50", "p95", "largest", "header"))]
        for one in value
    ]
    blocks: list[Block] = [Text(text=f"{first['images']} images of {first['dataset'] or 'the dataset'}.")]
    blocks.append(Bars(rows=sizes, parts=["mean"], unit="bytes", caption="Bytes per image"))
    header = ["sent", "mean", "median", "95th percentile", "largest", "of these header"]
    blocks.append(Table(header=header, rows=spread, caption="Bytes per image"))
    columns = [(head, metric) for head, metrics in first["metrics"].items() for metric in metrics]
    rows = [[one["sent"], *(number(one["metrics"].get(h, {}).get(m)) for h, m in columns)] for one in value]
    blocks.append(Table(header=["sent", *(f"{h} {m}" for h, m in columns)], rows=rows, caption="Metrics"))
    for head, classes in first.get("per_class", {}).items():
        metrics = list(dict.fromkeys(metric for row in classes.values() for metric in row))
        table = [[label, *(number(row.get(metric)) for metric in metrics)] for label, row in classes.items()]
        blocks.append(Table(header=["class", *metrics], rows=table, caption=f"{head}: {first['sent']}, per class"))
    facts = {
        "hardware": first.get("hardware"),
        "seed": first.get("seed"),
        "date": first.get("date"),
        **first.get("versions", {}),
    }
    blocks.append(Table(header=["measured with", ""], rows=[[k, str(v)] for k, v in facts.items() if v is not None]))
    return [ReportSection(title=f"Evaluation: {name}", blocks=blocks)]


def bundle_metrics(value: Mapping[str, Any], name: str) -> list[ReportSection]:
    """Return the figures that a bundle carries."""
    sections = [section for one in value["evaluations"] for section in evaluations([one], name)]
    if not sections:
        raise ReportError(f"the bundle {name} has no evaluation; run splitreg eval and publish it with its figures")
    return sections


def sweep(value: Mapping[str, Any], name: str) -> list[ReportSection]:
    """Return the points of a sweep and how they ended."""
    rows, times = [], []
    for point in value["outcomes"]:
        rows.append(
            [point["label"], point["status"], f"{point['steps']:,}", _validation(point), point["message"] or "-"]
        )
        times.append((point["label"], [float(point["seconds"])]))
    header = ["point", "status", "steps", "last validation", "message"]
    blocks: list[Block] = [
        Table(header=header, rows=rows),
        Bars(rows=times, parts=["duration"], unit="s", caption="Duration"),
    ]
    return [ReportSection(title=f"Sweep: {name}", blocks=blocks)]


def _validation(point: Mapping[str, Any]) -> str:
    flat = dict(_flat(point["validation"]))
    return ", ".join(f"{key} {number(value)}" for key, value in flat.items()) or "-"


def training_log(value: Sequence[Mapping[str, Any]], name: str) -> list[ReportSection]:
    """Return the curves and warnings of a ``log.jsonl``."""
    epochs = [line for line in value if line["event"] == "epoch"]
    if not epochs:
        raise ReportError(f"{name} has no finished epoch yet")
    numbers: dict[str, list[tuple[float, float, str]]] = {}
    for line in epochs:
        for key, figure in _flat({"train": line.get("train") or {}, "val": line.get("val") or {}}):
            if isinstance(figure, int | float) and key != "val images":
                label = f"{line['stage']}, epoch {line['epoch'] + 1}"
                numbers.setdefault(key, []).append((float(line["step"]), float(figure), label))
    blocks: list[Block] = [Text(text=_summary(epochs))]
    for key in ("train loss", *(key for key in numbers if key.startswith("val "))):
        if points := numbers.get(key):
            svg = chart(key, key, [Trace(name=name, points=points)], "step", logarithmic=False)
            blocks.append(
                Chart(svg=svg, caption=f"{key} against the step", stem="".join(c if c.isalnum() else "-" for c in key))
            )
    last = [[key, number(points[-1][1])] for key, points in numbers.items()]
    blocks.append(Table(header=["last epoch", ""], rows=last))
    warnings = list(dict.fromkeys(str(line["message"]) for line in value if line["event"] == "warning"))
    blocks += [Text(text=f"Warning: {message}") for message in warnings]
    return [ReportSection(title=f"Training: {name}", blocks=blocks)]


def _summary(epochs: Sequence[Mapping[str, Any]]) -> str:
    seconds = sum(line.get("seconds") or 0 for line in epochs)
    stages = ", ".join(dict.fromkeys(str(line["stage"]) for line in epochs))
    return f"{len(epochs)} epochs, {epochs[-1]['step']:,} steps, {seconds:,.0f} s; stages: {stages}."


def data_check(value: Mapping[str, Any], name: str) -> list[ReportSection]:
    """Return splits, class counts and problems of ``data check``."""
    blocks: list[Block] = [Text(text=f"Warning: {warning}") for warning in value["warnings"]]
    rows = [
        [split, f"{one['images']:,}", *(f"{one['unlabelled'].get(t, 0):,}" for t in _targets(value))]
        for split, one in value["splits"].items()
    ]
    header = ["split", "images", *(f"without {target}" for target in _targets(value))]
    blocks.append(Table(header=header, rows=rows))
    for target in _targets(value):
        labels = dict.fromkeys(label for one in value["splits"].values() for label in one["counts"].get(target, {}))
        cells = [
            (label, [float(one["counts"].get(target, {}).get(label, 0)) for one in value["splits"].values()])
            for label in labels
        ]
        if cells:
            blocks.append(Bars(rows=cells, parts=list(value["splits"]), unit="count", caption=f"{target}: classes"))
    if value["duplicates"]:
        pairs = [[str(row[0]), ", ".join(map(str, row[1:]))] for row in value["duplicates"][:MAX_ROWS]]
        blocks.append(Table(header=["image", "is also"], rows=pairs, caption="Equal images"))
    return [ReportSection(title=f"Data: {name}", blocks=blocks)]


def _targets(value: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(target for one in value["splits"].values() for target in one["counts"]))


def anything(value: Any, name: str) -> list[ReportSection]:
    """Return tables of any other result: numbers and texts first, then lists of objects."""
    if not isinstance(value, Mapping):
        rows = value if isinstance(value, list) else [value]
        return [ReportSection(title=name, blocks=[_objects(rows, "")])]
    plain = [[key, _cell(one)] for key, one in _flat({k: v for k, v in value.items() if not isinstance(v, list)})]
    lists = {k: v for k, v in value.items() if isinstance(v, list) and v}
    blocks: list[Block] = [Table(header=["", "value"], rows=plain)] if plain else []
    blocks += [_objects(rows, key) for key, rows in lists.items()]
    return [ReportSection(title=name, blocks=blocks or [Text(text="Nothing in it.")])]


def _objects(rows: Sequence[Any], caption: str) -> Table:
    shown, more = rows[:MAX_ROWS], len(rows) - MAX_ROWS
    flat = [dict(_flat(row)) if isinstance(row, Mapping) else {"value": row} for row in shown]
    columns = list(dict.fromkeys(key for row in flat for key in row)) or ["value"]
    if more > 0:
        caption = f"{caption} (first {MAX_ROWS:,} of {len(rows):,})"
    return Table(header=columns, rows=[[_cell(row.get(c)) for c in columns] for row in flat], caption=caption)


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the numbers and texts of nested objects, with their keys joined by spaces."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix} {key}".strip())
    else:
        yield prefix, value


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, list):
        return ", ".join(_cell(one) for one in value[:20]) + (" ..." if len(value) > 20 else "")
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(one)}" for key, one in _flat(value))
    return number(value) if isinstance(value, int | float) else str(value)


def _count(value: Any) -> str:
    return f"{value:,}" if value else "-"


def number(value: Any) -> str:
    """Return a number with four digits after the point, whole numbers as they are; a dash for None.

    >>> number(0.12345), number(1234567), number(1234.5), number(None)
    ('0.1235', '1,234,567', '1,234.5', '-')
    """
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    if abs(value) >= 100:
        return f"{value:,.1f}"
    return f"{value:.4f}" if abs(value) >= 1e-3 or value == 0 else f"{value:.3g}"
