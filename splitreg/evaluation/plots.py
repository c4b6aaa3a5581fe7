"""Figures of an evaluation as PNG and JPEG: confusion matrices, precision-recall curves and the worst images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from splitreg import drawing
from splitreg.assembly import SplitModel
from splitreg.data.classes import ClassMapping, match_heads
from splitreg.data.loading import Source
from splitreg.evaluation.details import Confusion, Details, PrecisionRecallCurve
from splitreg.evaluation.examples import example, jpeg, sheet
from splitreg.evaluation.packets import EvalOptions, evaluate
from splitreg.evaluation.report import Report

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

#: Largest number of classes in a figure: those with the largest counts.
MAX_CLASSES = 30
_CELL, _MARGIN, _TEXT = 44, 12, 13
_SIDE = 420


def evaluate_with_figures(
    model: SplitModel, source: Source, options: EvalOptions | None = None, *, rate: float | None = None
) -> tuple[Report, dict[str, bytes]]:
    """Evaluate as ``evaluate`` does, with metrics per class.

    Args:
        model: see ``evaluate``.
        source: see ``evaluate``.
        options: see ``evaluate``.
        rate: see ``evaluate``.

    Returns:
        The report with ``per_class``, and file name -> figure.
    """
    details, options = Details(model), options or EvalOptions()
    report = evaluate(model, source, replace(options, observer=details.add), rate=rate)
    classes = match_heads(model.plan.heads, source.targets, options.unknown_classes)
    return replace(report, per_class=details.per_class()), figures(details, source, classes)


def figures(details: Details, source: Source, classes: Mapping[str, ClassMapping] | None = None) -> dict[str, bytes]:
    """Draw all figures.

    Args:
        details: of an evaluation.
        source: its dataset, from which the worst images are read again.
        classes: head -> classes of the dataset.

    Returns:
        File name -> PNG or JPEG: ``HEAD-confusion.png``, ``HEAD-curves.png``, ``HEAD-worst.jpg``.
    """
    files: dict[str, bytes] = {}
    for name, head in details.heads().items():
        if head.confusion is not None and head.confusion.counts.any():
            files[f"{name}-confusion.png"] = confusion_png(head.confusion, f"{name}: truth (rows) and prediction")
        if head.curves:
            files[f"{name}-curves.png"] = curves_png(head.curves, f"{name}: precision by recall")
        rows = [
            example(details.model, source[index], size, {name: prediction}, classes)
            for _, index, prediction, size in head.worst
        ]
        if rows:
            files[f"{name}-worst.jpg"] = jpeg(sheet(rows, 320))
    return files


def confusion_png(confusion: Confusion, title: str) -> bytes:
    """Draw a confusion matrix: the share of each row in colour, and in percent."""
    from PIL import Image, ImageDraw, ImageFont

    counts, names = _largest(confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1e-9)
    font = ImageFont.load_default(_TEXT)
    left = round(max(font.getlength(name) for name in names)) + 2 * _MARGIN
    top = left + 2 * _TEXT
    image = Image.new("RGB", (left + _CELL * len(names) + _MARGIN, top + _CELL * len(names) + _MARGIN), "white")
    pen = ImageDraw.Draw(image)
    pen.text((_MARGIN, _MARGIN), title, fill="black", font=font)
    for i, name in enumerate(names):
        middle = top + _CELL * i + _CELL // 2
        pen.text((left - _MARGIN // 2, middle), name, fill="black", font=font, anchor="rm")
        _vertical(image, name, (left + _CELL * i + _CELL // 2, top - _MARGIN // 2), font)
        for j in range(len(names)):
            share = float(shares[i, j])
            paint = tuple(round(255 - (255 - full) * share) for full in (0, 90, 160))
            corner = (left + _CELL * j, top + _CELL * i)
            pen.rectangle((*corner, corner[0] + _CELL - 2, corner[1] + _CELL - 2), fill=paint)
            if counts[i, j]:
                text = f"{100 * share:.0f}" if share >= 0.005 else "<1"
                ink = "white" if share > 0.5 else "black"
                pen.text((corner[0] + _CELL // 2, corner[1] + _CELL // 2), text, fill=ink, font=font, anchor="mm")
    return _png(image)


def curves_png(curves: Sequence[PrecisionRecallCurve], title: str) -> bytes:
    """Draw precision by recall, a line per class; the legend has the average precisions."""
    from PIL import Image, ImageDraw, ImageFont

    chosen = sorted(curves, key=lambda curve: -curve.truths)[:MAX_CLASSES]
    font, colours = ImageFont.load_default(_TEXT), drawing.palette(len(chosen))
    names = [f"{curve.name}  {curve.average:.3f}" for curve in chosen]
    left, top = 50, 2 * _MARGIN + _TEXT
    right = left + _SIDE + round(max(font.getlength(name) for name in names)) + 4 * _MARGIN
    image = Image.new("RGB", (right, max(top + _SIDE + 50, top + 18 * (len(names) + 2))), "white")
    pen = ImageDraw.Draw(image)
    pen.text((_MARGIN, _MARGIN), title, fill="black", font=font)
    for tick in range(6):
        x, y = left + _SIDE * tick / 5, top + _SIDE - _SIDE * tick / 5
        pen.line((x, top, x, top + _SIDE), fill=(225, 225, 225))
        pen.line((left, y, left + _SIDE, y), fill=(225, 225, 225))
        pen.text((x, top + _SIDE + 6), f"{tick / 5:.1f}", fill="black", font=font, anchor="mt")
        pen.text((left - 6, y), f"{tick / 5:.1f}", fill="black", font=font, anchor="rm")
    pen.text((left + _SIDE / 2, top + _SIDE + 28), "recall", fill="black", font=font, anchor="mt")
    for number, (curve, name) in enumerate(zip(chosen, names, strict=True)):
        paint = tuple(int(channel) for channel in colours[number])
        points = [
            (left + _SIDE * float(r), top + _SIDE * (1 - float(p)))
            for r, p in zip(curve.recall, curve.precision, strict=True)
        ]
        if len(points) > 1:
            pen.line(points, fill=paint, width=2)
        corner = (left + _SIDE + 2 * _MARGIN, top + 18 * number)
        pen.rectangle((*corner, corner[0] + 10, corner[1] + 10), fill=paint)
        pen.text((corner[0] + 16, corner[1] + 5), name, fill="black", font=font, anchor="lm")
    return _png(image)


def _largest(confusion: Confusion) -> tuple[Any, list[str]]:
    """Return counts and names of the classes with the largest counts, in their order."""
    totals = confusion.counts.sum(0) + confusion.counts.sum(1)
    keep = np.sort(np.argsort(-totals, kind="stable")[:MAX_CLASSES])
    return confusion.counts[np.ix_(keep, keep)], [confusion.names[i] for i in keep]


def _vertical(image: Image.Image, text: str, foot: tuple[int, int], font: ImageFont.FreeTypeFont | Any) -> None:
    """Write text upwards from a point at its foot."""
    from PIL import Image, ImageDraw

    size = (round(font.getlength(text)) + 2, _TEXT + 4)
    label = Image.new("RGB", size, "white")
    pen: ImageDraw.ImageDraw = ImageDraw.Draw(label)
    pen.text((0, size[1] // 2), text, fill="black", font=font, anchor="lm")
    turned = label.rotate(90, expand=True)
    image.paste(turned, (foot[0] - turned.width // 2, foot[1] - turned.height))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
