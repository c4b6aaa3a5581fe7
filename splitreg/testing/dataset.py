"""Conformance suite of datasets."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torchvision import tv_tensors

from splitreg import tasks
from splitreg.assembly.labels import LABELLED
from splitreg.errors import DataError
from splitreg.interfaces import Dataset, TargetSpec
from splitreg.tasks import IGNORE, BoxTarget, ClassTarget, DepthTarget, MaskTarget, MultiLabelTarget, Sample, Target
from splitreg.testing.suite import Suite, expect, raises

_TYPES: Mapping[str, type[Target]] = {
    tasks.CLASSIFICATION: ClassTarget,
    tasks.MULTILABEL: MultiLabelTarget,
    tasks.DETECTION: BoxTarget,
    tasks.SEGMENTATION: MaskTarget,
    tasks.DEPTH: DepthTarget,
}
_SAMPLES = 8


class DatasetSuite(Suite):
    """Samples match the description of the dataset.

    Attributes:
        root: folder of the dataset; may also be in ``options``.
        split: name of a split; may also be in ``options``.
    """

    kind: ClassVar[str] = "dataset"
    interface: ClassVar[type[Any]] = Dataset
    leading: ClassVar[int] = 2
    root: ClassVar[str | None] = None
    split: ClassVar[str] = "train"

    def described(self) -> Mapping[str, TargetSpec]:
        """Return the targets from ``describe``."""
        root, _, options = self._arguments()
        targets: Mapping[str, TargetSpec] = self.load().describe(root, **options)
        return targets

    def make(self, split: str | None = None) -> Dataset:
        """Return the dataset."""
        root, own, options = self._arguments()
        dataset: Dataset = self.load()(root, split or own, **options)
        return dataset

    def _arguments(self) -> tuple[str | None, str, dict[str, Any]]:
        options = dict(self.options)
        return options.pop("root", self.root), options.pop("split", self.split), options

    def samples(self) -> list[Sample]:
        """Return up to eight samples."""
        dataset = self.make()
        return [
            dataset[index]
            for index in np.linspace(0, len(dataset) - 1, min(_SAMPLES, len(dataset))).astype(int).tolist()
        ]

    def test_describe(self) -> None:
        """``describe`` returns the targets of the dataset, with labels if the task has classes.

        Only videos may have no target.
        """
        described = self.described()
        expect(described or self.make().clips, "describe returns no target, and the dataset has no clips")
        expect(dict(described) == dict(self.make().targets), "describe and the dataset have different targets")
        for name, spec in described.items():
            expect(isinstance(spec, TargetSpec), f"target {name!r} must be a TargetSpec")
            expect(spec.labels or spec.task not in LABELLED, f"target {name!r} has no labels")
            expect(len(set(spec.labels)) == len(spec.labels), f"target {name!r} has duplicate labels")

    def test_recognise(self) -> None:
        """``recognise`` returns None or one line, and None for an empty folder; it is optional."""
        kind = self.load()
        with tempfile.TemporaryDirectory() as empty:
            expect(kind.recognise(empty) is None, "recognise must return None for an empty folder")
        root = self._arguments()[0]
        line = None if root is None else kind.recognise(root)
        fine = line is None or (isinstance(line, str) and line.strip() and "\n" not in line)
        expect(fine, f"recognise must return None or one line, got {line!r}")

    def test_length_and_indexes(self) -> None:
        """It has samples, and an index past the end raises ``IndexError``."""
        dataset = self.make()
        expect(len(dataset) > 0, "the dataset is empty")
        with raises(f"index {len(dataset)}", IndexError):
            dataset[len(dataset)]

    def test_clips(self) -> None:
        """Clips of a video are ranges of indexes that do not overlap, with unique names; they are optional."""
        dataset = self.make()
        frames = [index for clip in dataset.clips for index in clip.frames]
        expect(len(set(frames)) == len(frames), "two clips have a frame in common")
        expect(all(0 <= index < len(dataset) for index in frames), "a clip has a frame that is no index of a sample")
        expect(all(len(clip.frames) for clip in dataset.clips), "a clip has no frame")
        expect(all(clip.rate >= 0 for clip in dataset.clips), "the frame rate of a clip is negative")
        names = {clip.name for clip in dataset.clips}
        expect(len(names) == len(dataset.clips), "two clips have one name")

    def test_samples(self) -> None:
        """Images are (3, H, W) uint8, and targets match their description."""
        described = self.described()
        for sample in self.samples():
            what = f"sample {sample.name!r}"
            expect(isinstance(sample, Sample), "samples must be of type splitreg.tasks.Sample")
            image = sample.image
            three = image.ndim == 3 and image.shape[0] == 3
            valid = three and isinstance(image, tv_tensors.Image) and image.dtype == torch.uint8
            expect(valid, f"{what}: the image must be a (3, H, W) uint8 tv_tensors.Image")
            unknown = set(sample.targets) - set(described)
            expect(not unknown, f"{what} has targets that describe does not return: {', '.join(sorted(unknown))}")
            for name, target in sample.targets.items():
                if target is not None:
                    _check_target(f"{what}, target {name!r}", target, described[name], tuple(image.shape[1:]))

    def test_each_target_occurs(self) -> None:
        """Each described target is in at least one of the checked samples."""
        present = {name for sample in self.samples() for name, target in sample.targets.items() if target is not None}
        missing = set(self.described()) - present
        expect(not missing, f"none of the checked samples has a target for {', '.join(sorted(missing))}")

    def test_deterministic_samples(self) -> None:
        """An index gives the same image and name on each call and from each instance."""
        first, second = self.make(), self.make()
        for index in {0, len(first) - 1}:
            one, again, other = first[index], first[index], second[index]
            same = torch.equal(one.image, again.image) and torch.equal(one.image, other.image)
            expect(same and one.name == other.name, f"index {index} gives different samples")

    def test_sample_names_are_unique(self) -> None:
        """Sample names are not empty, and unique."""
        names = [sample.name for sample in self.samples()]
        expect(all(names) and len(set(names)) == len(names), "sample names must be unique and not empty")

    def test_unknown_split(self) -> None:
        """An unknown split raises ``DataError``."""
        with raises("the split 'no-such-split'", DataError):
            self.make("no-such-split")


def _check_target(what: str, target: Target, spec: TargetSpec, size: tuple[int, ...]) -> None:
    required, classes = _TYPES.get(spec.task, Target), len(spec.labels)
    expect(isinstance(target, required), f"{what} must be a {required.__name__}, got {type(target).__name__}")
    match target:
        case ClassTarget():
            expect(0 <= target.index < classes, f"{what}: class {target.index} of {classes}")
        case MultiLabelTarget():
            expect(tuple(target.present.shape) == (classes,), f"{what} must have one number per label")
            known = target.present[~target.present.isnan()]
            expect(((known == 0) | (known == 1)).all(), f"{what} must be 0, 1 or NaN")
        case BoxTarget():
            boxes, count = target.boxes.as_subclass(torch.Tensor), len(target.labels)
            expect(
                tuple(boxes.shape) == (count, 4) and len(target.crowd) == count,
                f"{what}: boxes, labels and crowd must have one length",
            )
            expect(
                tuple(target.boxes.canvas_size) == size, f"{what}: the canvas size of the boxes is not the image size"
            )
            expect((boxes[:, 2:] > boxes[:, :2]).all(), f"{what} has a box without an area")
            inside = (boxes >= -1).all() and (boxes[:, 2] <= size[1] + 1).all() and (boxes[:, 3] <= size[0] + 1).all()
            expect(inside, f"{what} has a box outside the image")
            expect(
                ((target.labels >= 0) & (target.labels < classes)).all(),
                f"{what} has a label that is not a class index",
            )
            if target.masks is not None:
                expect(tuple(target.masks.shape) == (count, *size), f"{what}: masks must be (N, H, W)")
            if target.identities is not None:
                expect(tuple(target.identities.shape) == (count,), f"{what}: identities must be (N,)")
                known = target.identities[~target.crowd]
                expect(len(set(known.tolist())) == len(known), f"{what} has an identity twice in one image")
        case MaskTarget():
            expect(tuple(target.mask.shape) == size, f"{what} must have the size of the image")
            known = target.mask[target.mask != IGNORE]
            expect(((known >= 0) & (known < classes)).all(), f"{what} has a value that is not a class index")
        case DepthTarget():
            expect(tuple(target.depth.shape) == size, f"{what} must have the size of the image")
            expect(
                (torch.isfinite(target.depth) & (target.depth >= 0)).all(), f"{what} must be finite, and 0 if unknown"
            )
