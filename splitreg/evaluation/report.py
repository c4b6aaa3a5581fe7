"""Result of an evaluation: a table for people, JSON for programs."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from splitreg.files import json_safe

_LIBRARIES = ("splitreg", "torch", "torchvision", "timm", "compressai", "numpy", "torchmetrics", "faster-coco-eval")


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteCounts:
    """Bytes per image on the link.

    Args:
        mean: mean of all bytes.
        p50: median.
        p95: 95th percentile.
        largest: maximum.
        header: mean bytes of header and checksum, part of ``mean``; 0 for files of image codecs.
        bits_per_pixel: mean bits divided by the pixels of the network's input.
        bits_per_original_pixel: all bits divided by all pixels of the original images.
    """

    mean: float
    p50: float
    p95: float
    largest: int
    header: float
    bits_per_pixel: float
    bits_per_original_pixel: float

    @classmethod
    def of(cls, sizes: Sequence[int], headers: Sequence[int], coded_pixels: int, original_pixels: int) -> ByteCounts:
        """Compute the numbers.

        Args:
            sizes: bytes per image.
            headers: header bytes per image.
            coded_pixels: pixels of the network's input.
            original_pixels: pixels of all original images together.
        """
        total = np.asarray(sizes, np.float64)
        return cls(
            mean=float(total.mean()), p50=float(np.percentile(total, 50)), p95=float(np.percentile(total, 95)),
            largest=int(total.max()), header=float(np.mean(headers)), bits_per_pixel=float(total.mean() * 8 / coded_pixels),
            bits_per_original_pixel=float(total.sum() * 8 / original_pixels),
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Result of one evaluation.

    Args:
        dataset: name of the dataset.
        sent: what was sent: ``"packet"``, ``"jpeg 20"``, ...
        images: number of images.
        bytes: bytes per image.
        metrics: head -> metric -> value, in the pixels of the original images.
        labelled: head -> number of images that have its target.
        seconds: duration of the evaluation.
        classes: head -> which classes were measured, where dataset and model have different ones.
        per_class: head -> class -> metric -> value, if details were measured.
        seed: seed of the recipe.
        hardware: processor and accelerator of this machine.
        versions: versions of the libraries.
        date: UTC.
    """

    dataset: str
    sent: str
    images: int
    bytes: ByteCounts
    metrics: Mapping[str, Mapping[str, float]]
    labelled: Mapping[str, int]
    seconds: float
    seed: int
    classes: Mapping[str, str] = field(default_factory=dict)
    per_class: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    hardware: str = field(default_factory=lambda: hardware())
    versions: Mapping[str, str] = field(default_factory=lambda: versions())
    date: str = field(default_factory=lambda: f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}")

    def to_json(self) -> dict[str, Any]:
        """Return plain data; metrics that could not be measured (NaN) are None."""
        plain: dict[str, Any] = json_safe(asdict(self))
        if not self.per_class:
            del plain["per_class"]
        return plain

    def __str__(self) -> str:
        """Return a table for a terminal."""
        b = self.bytes
        lines = [
            f"{self.images} images of {self.dataset or 'the dataset'}, {self.sent}, {self.seconds:.1f} s",
            f"  bytes per image  mean {b.mean:.0f}  p50 {b.p50:.0f}  p95 {b.p95:.0f}  largest {b.largest}"
            + (f"  (header {b.header:.0f})" if b.header else ""),
            f"  bits per pixel   {b.bits_per_pixel:.4f} of the input, {b.bits_per_original_pixel:.4f} of the originals",
        ]
        width = max((len(head) for head in self.metrics), default=0)
        for head, values in self.metrics.items():
            cells = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
            lines.append(f"  {head:<{width}}   {cells}  ({self.labelled[head]} images)")
        lines += [f"  {head}: {sentence}" for head, sentence in self.classes.items()]
        for head, rows in self.per_class.items():
            wide = max(len(name) for name in rows)
            for name, values in rows.items():
                cells = "  ".join(f"{metric} {value:.4g}" for metric, value in values.items())
                lines.append(f"  {head}: {name:<{wide}}  {cells}")
        return "\n".join(lines)


def table(reports: Sequence[Report]) -> str:
    """Return several evaluations of the same heads as a table, fewest bytes first."""
    columns = list(
        dict.fromkeys(f"{head} {name}" for r in reports for head, values in r.metrics.items() for name in values)
    )
    rows = [["sent", "bytes", "bpp", *columns]]
    for report in sorted(reports, key=lambda r: r.bytes.mean):
        cells = {f"{h} {n}": f"{v:.4f}" for h, values in report.metrics.items() for n, v in values.items()}
        sizes = [f"{report.bytes.mean:.0f}", f"{report.bytes.bits_per_pixel:.4f}"]
        rows.append([report.sent, *sizes, *(cells.get(column, "-") for column in columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def hardware() -> str:
    """Return the name of this machine's processor, and of its accelerator if there is one."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass  # not Linux: use the platform's name
    accelerator = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {os.cpu_count()} cores{accelerator}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed libraries that influence a result."""
    numbers = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            numbers[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return numbers
