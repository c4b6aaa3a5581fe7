"""What an evaluation found, with all that is needed to believe it: a table for people, JSON for programs."""

from __future__ import annotations

import datetime
import importlib.metadata
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

_LIBRARIES = ("splitreg", "torch", "torchvision", "timm", "compressai", "numpy", "torchmetrics", "faster-coco-eval")


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteCounts:
    """Bytes an image, as they cross the link.

    Args:
        mean: over the images, everything counted.
        p50: median.
        p95: 95th percentile.
        largest: of all.
        header: mean bytes of header and check, part of ``mean``; 0 where an image codec's file is counted whole.
        bits_per_pixel: mean bits over the pixels of the network's input.
        bits_per_original_pixel: all bits over all pixels of the original images.
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
        """Count; ``original_pixels`` is the sum over all images, ``coded_pixels`` those of one network input."""
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
        dataset: which images.
        sent: what crossed the link: ``"packet"``, ``"jpeg 20"``, ...
        images: how many.
        bytes: sizes.
        metrics: head -> metric -> value, measured in the pixels of the original images.
        labelled: head -> images that had its target.
        seconds: whole evaluation.
        seed: of the recipe.
        hardware: of this machine.
        versions: of the libraries.
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
    hardware: str = field(default_factory=lambda: hardware())
    versions: Mapping[str, str] = field(default_factory=lambda: versions())
    date: str = field(default_factory=lambda: f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}")

    def to_json(self) -> dict[str, Any]:
        """Return plain data; metrics that could not be measured (NaN) are left out."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain

    def __str__(self) -> str:
        """A table for a terminal."""
        b = self.bytes
        lines = [
            f"{self.images} images of {self.dataset or 'the dataset'}, {self.sent}, {self.seconds:.1f} s",
            f"  bytes an image   mean {b.mean:.0f}  p50 {b.p50:.0f}  p95 {b.p95:.0f}  largest {b.largest}"
            + (f"  (header {b.header:.0f})" if b.header else ""),
            f"  bits per pixel   {b.bits_per_pixel:.4f} of the input, {b.bits_per_original_pixel:.4f} of the originals",
        ]
        width = max((len(head) for head in self.metrics), default=0)
        for head, values in self.metrics.items():
            shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
            lines.append(f"  {head:<{width}}   {shown}  ({self.labelled[head]} images)")
        return "\n".join(lines)


def table(reports: Sequence[Report]) -> str:
    """Several evaluations of the same heads, one line each, the smallest first."""
    columns = list(
        dict.fromkeys(f"{head} {name}" for r in reports for head, values in r.metrics.items() for name in values)
    )
    rows = [["sent", "bytes", "bpp", *columns]]
    for report in sorted(reports, key=lambda r: r.bytes.mean):
        found = {f"{h} {n}": f"{v:.4f}" for h, values in report.metrics.items() for n, v in values.items()}
        sizes = [f"{report.bytes.mean:.0f}", f"{report.bytes.bits_per_pixel:.4f}"]
        rows.append([report.sent, *sizes, *(found.get(column, "-") for column in columns)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def hardware() -> str:
    """Name this machine's processor, and its accelerator if it has one."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            model = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass  # not Linux: the platform's own name must do
    accelerator = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{model}, {os.cpu_count()} cores{accelerator}"


def versions() -> dict[str, str]:
    """Versions of Python and of what is installed of the libraries that shape a result."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = {
            str(key): item for key, item in value.items() if not (isinstance(item, float) and not math.isfinite(item))
        }
        return {key: _finite(item) for key, item in kept.items()}
    return value
