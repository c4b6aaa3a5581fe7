"""``check_dataset``: counts, sizes, unknown pixels, and images that are in two splits; sheets of samples."""

from __future__ import annotations

import hashlib
import statistics
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from splitreg import drawing, imaging
from splitreg.data.loading import Source, seeded
from splitreg.data.pasting import check_outlines
from splitreg.data.selection import open_dataset
from splitreg.data.transforms import Augment
from splitreg.errors import DataError
from splitreg.recipe import DataPart
from splitreg.registry import Registry, discover
from splitreg.specs import TargetSpec
from splitreg.tasks import IGNORE, BoxTarget, ClassTarget, MaskTarget, MultiLabelTarget, Sample, Target

#: Splits that are looked at.
SPLITS = ("train", "val", "test")
#: Height and width of an image in a sheet.
TILE = 320


@dataclass(slots=True, kw_only=True)
class SplitReport:
    """What a split contains.

    Args:
        images: number of images.
        checked: number of those that were read; all numbers below are of these.
        sizes: smallest, median and largest (width, height) by area.
        counts: target -> class -> number of objects, of images with its pixels, or of images of the class.
        unlabelled: target -> number of images without it, or without any object.
        unknown: target -> share of pixels without a class.
    """

    images: int = 0
    checked: int = 0
    sizes: tuple[tuple[int, int], ...] = ()
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    unlabelled: Counter[str] = field(default_factory=Counter)
    unknown: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class DataReport:
    """What a dataset contains.

    Args:
        splits: by name.
        duplicates: (split, name, other split, name) of images with equal pixels in two splits.
        warnings: problems, one sentence each.
    """

    splits: dict[str, SplitReport] = field(default_factory=dict)
    duplicates: list[tuple[str, str, str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        splits = {
            name: {
                "images": split.images, "checked": split.checked,
                "sizes": [list(size) for size in split.sizes], "unknown": split.unknown,
                "counts": {target: dict(counts) for target, counts in split.counts.items()},
                "unlabelled": dict(split.unlabelled),
            }
            for name, split in self.splits.items()
        }  # fmt: skip
        return {"splits": splits, "duplicates": [list(row) for row in self.duplicates], "warnings": self.warnings}


def open_splits(
    name: str, root: str | None, options: Mapping[str, Any], registry: Registry | None = None
) -> dict[str, Source]:
    """Open the splits that a dataset has.

    Args:
        name: name of the dataset.
        root: its folder.
        options: its options, and the keys of ``DataPart``, such as ``classes``.
        registry: the installed plugins, by default.

    Raises:
        DataError: it has none of ``SPLITS``, or is damaged.
    """
    registry = registry or discover()
    part = replace(DataPart.parse({"name": name, **options}, "dataset"), root=root)
    sources: dict[str, Source] = {}
    problem: DataError | None = None
    for split in SPLITS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sources[split] = open_dataset(part, split, registry)
        except DataError as error:
            problem = problem or error
    if not sources and problem is not None:
        raise problem
    return sources


def check_dataset(sources: Mapping[str, Source], limit: int | None = None) -> DataReport:
    """Read the images of every split.

    Args:
        sources: split -> dataset.
        limit: largest number of images per split; None: all.
    """
    report = DataReport()
    seen: dict[bytes, tuple[str, str]] = {}
    for split, source in sources.items():
        count = len(source) if limit is None else min(limit, len(source))
        result, sizes, known = SplitReport(images=len(source), checked=count), [], dict[str, list[float]]()
        for index in range(count):
            sample = source[index]
            pixels = sample.array()
            sizes.append((pixels.shape[1], pixels.shape[0]))
            key = hashlib.sha256(str(pixels.shape).encode() + pixels.tobytes()).digest()
            other = seen.setdefault(key, (split, sample.name))
            if other[0] != split:
                report.duplicates.append((*other, split, sample.name))
            for name, spec in source.targets.items():
                _count(name, spec, sample.targets.get(name), result, known)
        ordered = sorted(sizes, key=lambda size: size[0] * size[1])
        result.sizes = (ordered[0], ordered[len(ordered) // 2], ordered[-1]) if ordered else ()
        result.unknown = {name: statistics.fmean(shares) for name, shares in known.items()}
        report.splits[split] = result
    report.warnings = _warnings(report, sources)
    return report


def _count(
    name: str, spec: TargetSpec, target: Target | None, result: SplitReport, unknown: dict[str, list[float]]
) -> None:
    counts = result.counts.setdefault(name, Counter())
    labels: list[int] = []
    if isinstance(target, BoxTarget):
        labels = target.labels.tolist()
    elif isinstance(target, ClassTarget):
        labels = [target.index]
    elif isinstance(target, MultiLabelTarget):
        labels = [int(index) for index in (target.present == 1).nonzero()]
    elif isinstance(target, MaskTarget):
        classes, pixels = np.unique(target.mask.numpy(), return_counts=True)
        labels = [int(index) for index in classes if index != IGNORE]
        unknown.setdefault(name, []).append(float(pixels[classes == IGNORE].sum() / pixels.sum()))
    counts.update(spec.labels[label] for label in labels if label < len(spec.labels))
    if target is None or (isinstance(target, BoxTarget) and not labels):
        result.unlabelled[name] += 1


def _warnings(report: DataReport, sources: Mapping[str, Source]) -> list[str]:
    lines = []
    if report.duplicates:
        first = report.duplicates[0]
        lines.append(
            f"{len(report.duplicates)} images are in two splits, such as {first[1]} ({first[0]}) and {first[3]} "
            f"({first[2]}): metrics are too good"
        )
    for split, result in report.splits.items():
        for name, counts in result.counts.items():
            missing = [label for label in sources[split].targets[name].labels if not counts[label]]
            if counts and missing:
                among = "" if result.checked == result.images else f" in the {result.checked} images checked"
                listed = ", ".join(missing[:8]) + (" ..." if len(missing) > 8 else "")
                lines.append(f"{split}: {name} has no {listed}{among}")
        for name, share in result.unknown.items():
            if share > 0.2:
                lines.append(
                    f"{split}: {share:.0%} of the pixels of {name} are unknown; losses and metrics leave them out"
                )
    return lines


def sheet(samples: Sequence[Sample], truth: Callable[[str, Target], Any], columns: int = 4) -> NDArray[np.uint8]:
    """Return a sheet of samples: one row of tiles per sample and target.

    Args:
        samples: the samples.
        truth: target's name and target -> what can be drawn on the image (a prediction), or None.
        columns: tiles per row.
    """
    tiles = []
    for sample in samples:
        image = sample.array()
        drawn = [truth(name, target) for name, target in sample.targets.items() if target is not None]
        tiles += [_tile(item.draw(image)) for item in drawn if item is not None] or [_tile(image)]
    empty = np.full((TILE, TILE, 3), imaging.FILL, np.uint8)
    tiles += [empty] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[start : start + columns], 1) for start in range(0, len(tiles), columns)]
    return np.concatenate(rows, 0)


def augmented(source: Source, augment: Callable[[Sample], Sample], index: int, count: int) -> list[Sample]:
    """Return one sample as it is, and with ``count`` random augmentations."""
    samples = [source[index]]
    if isinstance(augment, Augment) and augment.copy_paste:
        check_outlines(source, range(min(len(source), count)))
    for number in range(count):
        with seeded(0, number):
            sample = source[index]
            if isinstance(augment, Augment):
                sample = augment.combined(sample, lambda: source[int(torch.randint(0, len(source), ()))])
            samples.append(augment(sample))
    return samples


def _tile(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    geometry = imaging.Geometry(original=(image.shape[0], image.shape[1]), coded=(TILE, TILE), mode="letterbox")
    return imaging.letterbox(image, geometry)


def truth_of(specs: Mapping[str, TargetSpec]) -> Callable[[str, Target], Any]:
    """Return what draws the targets of a dataset: boxes, classes of pixels, and the class of the image."""
    from splitreg.predictions import Segmentation

    def truth(name: str, target: Target) -> Any:
        labels = specs[name].labels if name in specs else ()
        if isinstance(target, BoxTarget):
            return _Objects(target, labels)
        if isinstance(target, MaskTarget):
            return Segmentation(mask=target.mask.numpy().astype(np.uint8), names=labels)
        if isinstance(target, ClassTarget):
            return _Caption(labels[target.index])
        return None

    return truth


@dataclass(frozen=True, slots=True)
class _Objects:
    """Boxes with their classes, and outlines where there are some, which tint the pixels."""

    target: BoxTarget
    names: tuple[str, ...]

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        labels = self.target.labels.tolist()
        if not labels:
            return drawing.legend(drawing.enlarge(image)[0], ["no object"])
        table = drawing.palette(max(len(self.names), max(labels) + 1))
        if self.target.masks is not None:
            image = image.copy()
            for mask, label in zip(self.target.masks.numpy().astype(bool), labels, strict=True):
                image[mask] = (image[mask] // 2 + table[label] // 2).astype(np.uint8)
        canvas, factor = drawing.enlarge(image)
        return drawing.boxes(
            canvas, self.target.boxes.numpy() * factor, [self.names[label] for label in labels], table[labels]
        )


@dataclass(frozen=True, slots=True)
class _Caption:
    """A line below an image."""

    text: str

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        return drawing.legend(drawing.enlarge(image)[0], [self.text])
