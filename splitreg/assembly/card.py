"""Model card: description, costs and results, with the front matter of Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from splitreg.assembly.model import SplitModel
from splitreg.tasks import CLASSIFICATION, DEPTH, DETECTION, MULTILABEL, RECONSTRUCTION, SEGMENTATION

#: Task -> name of the task on the Hub.
HUB_TASKS = {
    CLASSIFICATION: "image-classification", MULTILABEL: "image-classification", DETECTION: "object-detection",
    SEGMENTATION: "image-segmentation", DEPTH: "depth-estimation", RECONSTRUCTION: "image-to-image",
}  # fmt: skip


def card(model: SplitModel, name: str, metrics: Mapping[str, Any], images: Sequence[str] = ()) -> str:
    """Return the model card of a bundle as Markdown.

    Args:
        model: the model.
        name: name of the bundle.
        metrics: content of ``metrics.json``; ``evaluations`` become tables.
        images: file names of example images.
    """
    recipe, plan = model.recipe, model.plan
    datasets = [data.name for data in recipe.data]
    tasks = dict.fromkeys(head.task for head in plan.heads)
    front = ["---", "library_name: splitreg"]
    front += [f"pipeline_tag: {HUB_TASKS[task]}" for task in list(tasks)[:1] if task in HUB_TASKS]
    front += ["tags:", "- split-computing", *(f"- {task}" for task in tasks)]
    if datasets:
        front += ["datasets:", *(f"- {name}" for name in datasets)]
    front += _model_index(name, {head.name: head.task for head in plan.heads}, metrics)
    shapes = plan.shapes
    lines = [*front, "---", "", f"# {name}", ""]
    if not model.trained:
        lines += ["**Untrained**: the weights are initialised, not trained. Use it for tests only.", ""]
    lines += [
        f"A split model: backbone `{recipe.backbone.name}` cut after `{recipe.cut}`, bottleneck `{recipe.bottleneck.name}` "
        f"reading the {recipe.bottleneck.source}, codec `{recipe.codec.name if recipe.codec else ''}`. "
        f"Input {recipe.input.size[1]}x{recipe.input.size[0]} pixels ({recipe.input.mode}), latent "
        f"{'x'.join(map(str, shapes.latent))}.",
        "",
        "| part | parameters | MACs |",
        "| --- | --- | --- |",
        *(f"| {part} | {cost.parameters:,} | {cost.macs:,} |" for part, cost in plan.costs().items()),
        "",
        "| head | task | classes |",
        "| --- | --- | --- |",
        *(f"| {head.name} | {head.task} | {len(head.labels) or '-'} |" for head in plan.heads),
        "",
    ]
    lines += _results(metrics) + _int8(metrics)
    lines += [f"![{Path(image).stem}]({image})\n" for image in images]
    lines += [
        "## Use", "", "```python", "import splitreg", "",
        f'model = splitreg.load("{name}")', 'packets = model.edge.encode(["photo.jpg"])',
        "print(len(packets[0]), model.server.infer(packets)[0])", "```", "",
        "`splitreg verify` checks this folder, including its test vectors, on any machine.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _model_index(name: str, tasks: Mapping[str, str], metrics: Mapping[str, Any]) -> list[str]:
    """Return the results as ``model-index``, which the Hub shows beside the card.

    Args:
        name: name of the bundle.
        tasks: head -> task.
        metrics: content of ``metrics.json``.
    """
    lines: list[str] = []
    for row in metrics.get("evaluations", []):
        dataset, sent = str(row.get("dataset") or "unknown"), str(row.get("sent") or "packet")
        measured = [(head, values) for head, values in row.get("metrics", {}).items() if head in tasks]
        size = row.get("bytes", {}).get("mean")
        for head, values in measured:
            cells = [
                (f"{head} {metric} ({sent})", metric, value) for metric, value in values.items() if value is not None
            ]
            cells += [] if size is None else [(f"mean bytes per image ({sent})", "bytes", size)]
            lines += [
                "  - task:", f"      type: {HUB_TASKS.get(tasks[head], tasks[head])}",
                "    dataset:", f"      type: {_quoted(dataset.split()[0])}", f"      name: {_quoted(dataset)}", "    metrics:",
            ]  # fmt: skip
            for label, metric, value in cells:
                lines += [f"    - type: {_quoted(metric)}", f"      value: {value!r}", f"      name: {_quoted(label)}"]
    return ["model-index:", f"- name: {_quoted(name)}", "  results:", *lines] if lines else []


def _quoted(text: str) -> str:
    """Return a YAML scalar: a JSON string is one."""
    return json.dumps(text)


def _results(metrics: Mapping[str, Any]) -> list[str]:
    """Return a table for each evaluation."""
    rows = metrics.get("evaluations", [])
    if not rows:
        return []
    lines = ["## Results", ""]
    for row in rows:
        rate = row.get("bytes", {})
        lines.append(
            f"**{row.get('sent', 'evaluation')}**: {row.get('images', '?')} images of {row.get('dataset', '?')}"
        )
        if rate:
            lines[-1] += (
                f"; bytes per image: mean {rate['mean']:.0f}, p50 {rate['p50']:.0f}, p95 {rate['p95']:.0f}"
                f" (header {rate['header']:.0f})"
            )
        lines += ["", "| head | metric | value |", "| --- | --- | --- |"]
        for head, values in row.get("metrics", {}).items():
            cells = {metric: "-" if value is None else f"{value:.4f}" for metric, value in values.items()}
            lines += [f"| {head} | {metric} | {cell} |" for metric, cell in cells.items()]
        lines.append("")
        for head, classes in row.get("per_class", {}).items():
            lines += _per_class(head, classes)
    return lines


def _per_class(head: str, classes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the table of a head's classes."""
    columns = list(dict.fromkeys(metric for values in classes.values() for metric in values))
    lines = [f"| {head} | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for name, values in classes.items():
        cells = ("-" if (value := values.get(metric)) is None else f"{value:.4g}" for metric in columns)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def _int8(metrics: Mapping[str, Any]) -> list[str]:
    """Return the table of the 8-bit edge half, if there is one."""
    if "int8" not in metrics:
        return []
    figures = metrics["int8"]
    lines = [
        f"**8-bit edge half** (`edge.int8.onnx`): calibrated on {figures['calibration_images']} images; mean bytes "
        f"{figures['bytes']['float32']:.0f} -> {figures['bytes']['int8']:.0f}, {figures['symbols_changed']:.2%} of the "
        f"symbols change. Largest accepted loss of a head: {figures['gate']:.2%}.",
        "",
        "| head | metric | float32 | int8 | loss |",
        "| --- | --- | --- | --- | --- |",
    ]
    for head, row in figures["heads"].items():
        lines.append(f"| {head} | {row['metric']} | {row['float32']:.4f} | {row['int8']:.4f} | {row['loss']:+.2%} |")
    return [*lines, ""]
