"""Details of an evaluation: metrics per class, confusion matrices, precision-recall curves and the worst images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from splitreg.assembly import SplitModel
from splitreg.boxes import Floats, box_coverage, box_iou
from splitreg.evaluation.packets import Observed
from splitreg.predictions import Classification, Detections, MultiLabel, Segmentation
from splitreg.tasks import CLASSIFICATION, DETECTION, IGNORE, MULTILABEL, SEGMENTATION, Prediction

#: Boxes match from this intersection over union on.
MATCH_IOU = 0.5
#: Detections from this score on count in the confusion matrix, as in Ultralytics.
CONFUSION_SCORE = 0.25
#: Number of the worst images that are kept.
WORST = 8
#: Name of the class that is no object: missed ones and false ones.
NOTHING = "(nothing)"


@dataclass(frozen=True, slots=True, kw_only=True)
class PrecisionRecallCurve:
    """Precision by recall of one class.

    Args:
        name: the class.
        recall: (P,) rising.
        precision: (P,).
        average: average precision: the area under the curve after it is made monotone.
        truths: number of objects, or of images of the class.
    """

    name: str
    recall: Floats
    precision: Floats
    average: float
    truths: int

    @classmethod
    def of(cls, name: str, scores: Sequence[float], right: Sequence[bool], truths: int) -> PrecisionRecallCurve:
        """Compute the curve.

        Args:
            name: the class.
            scores: of all predictions of the class.
            right: whether each is right.
            truths: number of objects in the truth.
        """
        order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
        hits = np.cumsum(np.asarray(right, np.float64)[order])
        recall = hits / max(1, truths)
        precision = hits / np.arange(1, len(hits) + 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]
        average = float(np.sum(np.diff(recall, prepend=0.0) * envelope)) if truths else math.nan
        return cls(name=name, recall=recall, precision=precision, average=average, truths=truths)


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Counts of (truth, prediction): ``counts`` (K, K), ``names`` K; pixels, images or objects."""

    names: tuple[str, ...]
    counts: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadDetails:
    """Details of one head.

    Args:
        classes: class -> metric -> value.
        confusion: None where the task has none.
        curves: precision-recall curves; empty where the task has none.
        worst: (score, index, prediction, packet bytes) of the worst images, worst first.
    """

    classes: Mapping[str, Mapping[str, float]]
    confusion: Confusion | None
    curves: Sequence[PrecisionRecallCurve]
    worst: Sequence[tuple[float, int, Prediction, int]]


class Details:
    """Collects the details of an evaluation: pass ``add`` as ``EvalOptions.observer``.

    Args:
        model: gives heads and class names.
        worst: number of images to keep per head.
    """

    def __init__(self, model: SplitModel, worst: int = WORST) -> None:
        self.model, self.worst = model, worst
        self._counters: dict[str, _Counter] = {}
        self._metrics: dict[str, Any] = {}
        self._worst: dict[str, list[tuple[float, int, Prediction, int]]] = {}

    def add(self, observed: Observed) -> None:
        """Add one image."""
        for name, target in observed.targets.items():
            head, prediction = self.model.head(name), observed.predictions[name]
            if name not in self._counters:
                labels = next(planned.labels for planned in self.model.plan.heads if planned.name == name)
                self._counters[name] = _COUNTERS.get(head.task, _Counter)(labels)
                self._metrics[name] = head.metric()
            self._counters[name].add(prediction, target)
            metric = self._metrics[name]
            metric.reset()
            metric.update([prediction], [target])
            value = float(metric.compute()[head.primary])
            if math.isfinite(value):
                rows = self._worst.setdefault(name, [])
                rows.append((value, observed.index, prediction, observed.packet_bytes))
                rows.sort(key=lambda row: row[0], reverse=head.lower_is_better)
                del rows[self.worst :]

    def heads(self) -> dict[str, HeadDetails]:
        """Return head -> details."""
        return {
            name: HeadDetails(
                classes=counter.classes(), confusion=counter.confusion(), curves=counter.curves(),
                worst=tuple(self._worst.get(name, ())),
            )
            for name, counter in self._counters.items()
        }  # fmt: skip

    def per_class(self) -> dict[str, Mapping[str, Mapping[str, float]]]:
        """Return head -> class -> metric -> value, for heads with classes."""
        return {name: classes for name, counter in self._counters.items() if (classes := counter.classes())}


class _Counter:
    """Counts nothing: tasks without classes."""

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = tuple(labels)

    def add(self, prediction: Any, target: Any) -> None:
        """Count one image."""

    def classes(self) -> dict[str, dict[str, float]]:
        """Return class -> metric -> value."""
        return {}

    def confusion(self) -> Confusion | None:
        """Return the confusion matrix."""
        return None

    def curves(self) -> list[PrecisionRecallCurve]:
        """Return the precision-recall curves."""
        return []


class _Scored(_Counter):
    """Tasks with scores per class."""

    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__(labels)
        self.scores: list[list[float]] = [[] for _ in labels]
        self.right: list[list[bool]] = [[] for _ in labels]
        self.truths = [0] * len(labels)

    def curves(self) -> list[PrecisionRecallCurve]:
        """Return a curve for each class that the truth has."""
        rows = zip(self.labels, self.scores, self.right, self.truths, strict=True)
        return [PrecisionRecallCurve.of(*row) for row in rows if row[-1]]

    def _precisions(self, metric: str, unit: str) -> dict[str, dict[str, float]]:
        return {curve.name: {metric: curve.average, unit: float(curve.truths)} for curve in self.curves()}


class _Boxes(_Scored):
    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__(labels)
        self.counts = np.zeros((len(labels) + 1, len(labels) + 1))

    def add(self, prediction: Detections, target: Any) -> None:
        order = np.argsort(-prediction.scores, kind="stable")
        boxes, scores = prediction.boxes[order].astype(np.float64), prediction.scores[order]
        labels = prediction.labels[order]
        corners = target.boxes.as_subclass(Tensor).cpu().numpy().astype(np.float64).reshape(-1, 4)
        crowd, kinds = target.crowd.cpu().numpy(), target.labels.cpu().numpy()
        truth, classes = corners[~crowd], kinds[~crowd]
        grouped = box_coverage(boxes, corners[crowd]) >= MATCH_IOU  # neither right nor wrong, as COCO has it
        ignored = (grouped & (labels[:, None] == kinds[crowd][None])).any(1)
        overlaps = box_iou(boxes, truth)
        matched = _greedy(np.where(labels[:, None] == classes[None], overlaps, 0.0))
        for label, score, match, skip in zip(labels.tolist(), scores.tolist(), matched, ignored.tolist(), strict=True):
            if match >= 0 or not skip:
                self.scores[label].append(score)
                self.right[label].append(match >= 0)
        for label in classes.tolist():
            self.truths[label] += 1
        sure = scores >= CONFUSION_SCORE
        places = np.array(_greedy(overlaps[sure]), np.int64)
        counted = (places >= 0) | ~grouped[sure].any(1)
        self._confuse(labels[sure][counted], classes, places[counted].tolist())

    def _confuse(self, labels: NDArray[Any], classes: NDArray[Any], matched: Sequence[int]) -> None:
        nothing = len(self.labels)
        for label, match in zip(labels.tolist(), matched, strict=True):
            self.counts[nothing if match < 0 else int(classes[match]), label] += 1
        for index, label in enumerate(classes.tolist()):
            if index not in matched:
                self.counts[label, nothing] += 1

    def classes(self) -> dict[str, dict[str, float]]:
        return self._precisions("AP50", "objects")

    def confusion(self) -> Confusion:
        return Confusion(names=(*self.labels, NOTHING), counts=self.counts)


class _Pixels(_Counter):
    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__(labels)
        self.counts = np.zeros((len(labels), len(labels)))

    def add(self, prediction: Segmentation, target: Any) -> None:
        truth = target.mask.as_subclass(Tensor).cpu().numpy().astype(np.int64)
        known, count = truth != IGNORE, len(self.labels)
        pairs = truth[known] * count + prediction.mask[known]
        self.counts += np.bincount(pairs, minlength=count**2).reshape(count, count)

    def classes(self) -> dict[str, dict[str, float]]:
        right, truths = self.counts.diagonal(), self.counts.sum(1)
        union = truths + self.counts.sum(0) - right
        whole = max(1.0, float(self.counts.sum()))
        return {
            name: {"IoU": float(right[i] / union[i]), "pixels": float(truths[i] / whole)}
            for i, name in enumerate(self.labels)
            if union[i]
        }

    def confusion(self) -> Confusion:
        return Confusion(names=self.labels, counts=self.counts)


class _Images(_Scored):
    def __init__(self, labels: Sequence[str]) -> None:
        super().__init__(labels)
        self.counts = np.zeros((len(labels), len(labels)))

    def add(self, prediction: Classification, target: Any) -> None:
        self.counts[target.index, int(prediction.probabilities.argmax())] += 1
        for label, score in enumerate(prediction.probabilities.tolist()):
            self.scores[label].append(score)
            self.right[label].append(label == target.index)
        self.truths[target.index] += 1

    def classes(self) -> dict[str, dict[str, float]]:
        right, truths, predicted = self.counts.diagonal(), self.counts.sum(1), self.counts.sum(0)
        return {
            name: {
                "recall": float(right[i] / truths[i]) if truths[i] else math.nan,
                "precision": float(right[i] / predicted[i]) if predicted[i] else math.nan,
                "images": float(truths[i]),
            }
            for i, name in enumerate(self.labels)
            if truths[i] or predicted[i]
        }

    def confusion(self) -> Confusion:
        return Confusion(names=self.labels, counts=self.counts)


class _Labels(_Scored):
    def add(self, prediction: MultiLabel, target: Any) -> None:
        pairs = zip(prediction.probabilities.tolist(), target.present.cpu().tolist(), strict=True)
        for label, (score, present) in enumerate(pairs):
            if not math.isnan(present):
                self.scores[label].append(score)
                self.right[label].append(present > 0.5)
                self.truths[label] += present > 0.5

    def classes(self) -> dict[str, dict[str, float]]:
        return self._precisions("AP", "images")


_COUNTERS: Mapping[str, type[_Counter]] = {
    DETECTION: _Boxes, SEGMENTATION: _Pixels, CLASSIFICATION: _Images, MULTILABEL: _Labels,
}  # fmt: skip


def _greedy(overlaps: Floats) -> list[int]:
    """Match rows, best first, with the free column of the largest overlap; -1: none of ``MATCH_IOU`` or more."""
    free = np.ones(overlaps.shape[1], bool)
    matches = []
    for row in overlaps:
        row = np.where(free, row, 0.0)
        best = int(row.argmax()) if len(row) else -1
        if best >= 0 and row[best] >= MATCH_IOU:
            free[best] = False
            matches.append(best)
        else:
            matches.append(-1)
    return matches
