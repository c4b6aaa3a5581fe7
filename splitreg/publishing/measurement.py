"""Measure a model while it is published: results and examples for its card, and its 8-bit edge half."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from splitreg.assembly.model import SplitModel
from splitreg.data.classes import match_heads
from splitreg.data.loading import Source
from splitreg.evaluation.details import WORST, Details
from splitreg.evaluation.examples import examples, jpeg, sheet
from splitreg.evaluation.packets import EvalOptions, evaluate
from splitreg.evaluation.plots import figures
from splitreg.imaging import ImageLike
from splitreg.publishing.int8 import GATE, Int8Edge, Int8Options, quantise_edge
from splitreg.recipe import REFUSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What to measure, and on which dataset.

    Args:
        source: the dataset.
        dataset: name of the dataset in reports.
        limit: largest number of images, spread evenly over the dataset; None: all.
        examples: number of example images in the card, and of the worst images per head.
        calibration: images to calibrate an 8-bit edge half on; None: publish none.
        gate: see ``Int8Options``.
        progress: show progress bars on stderr.
        unknown_classes: ``"refuse"`` or ``"ignore"`` classes of the dataset that a head lacks.
    """

    source: Source
    dataset: str = ""
    limit: int | None = None
    examples: int = 4
    calibration: Iterable[ImageLike] | None = None
    gate: float = GATE
    progress: bool = False
    unknown_classes: str = REFUSE


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """Results: ``metrics`` and ``images`` of the card, and the 8-bit edge half if there is one."""

    metrics: Mapping[str, Any]
    images: Mapping[str, bytes]
    int8: Int8Edge | None


def measure(model: SplitModel, measurement: Measurement) -> Measured:
    """Evaluate a model, draw examples and, if there are calibration images, quantise its edge half.

    Raises:
        BundleError: a head loses more than the gate by the 8-bit edge half.
        DataError: the dataset or the calibration images are empty, or no head can be measured.
        MissingExtra: onnx or onnxruntime is not installed.
    """
    source = measurement.source
    common: dict[str, Any] = {
        "dataset": measurement.dataset, "limit": measurement.limit, "progress": measurement.progress,
        "unknown_classes": measurement.unknown_classes,
    }  # fmt: skip
    metrics: dict[str, Any] = {}
    int8, details = None, Details(model, worst=min(WORST, measurement.examples))
    common["observer"] = details.add
    if measurement.calibration is None:
        report = evaluate(model, source, EvalOptions(**common))
        metrics["evaluations"] = [replace(report, per_class=details.per_class()).to_json()]
    else:  # evaluates both edge halves
        options = Int8Options(gate=measurement.gate, **common)
        int8 = quantise_edge(model, measurement.calibration, source, options)
        first, *others = int8.reports
        int8 = replace(int8, reports=(replace(first, per_class=details.per_class()), *others))
    count = measurement.examples
    classes = match_heads(model.plan.heads, source.targets, measurement.unknown_classes)
    samples = [source[index * len(source) // count] for index in range(count)]
    images = {"examples.jpg": jpeg(sheet(examples(model, samples, classes=classes)))} if samples else {}
    return Measured(metrics=metrics, images=images | figures(details, source, classes), int8=int8)
