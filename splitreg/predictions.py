"""What heads say of an image: the base class, and the prediction types of the first-party tasks (no torch).

They are numpy arrays with the labels' names, in the pixels they were made in; ``restore(geometry)`` takes them to the
original image. The same types show the truth (``Head.truth``). ``meta`` and ``arrays`` are all of a prediction, and
``splitreg.wire.from_parts`` puts it together again on the other side of a link.
Shape letters: N objects, K classes, H x W pixels.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from splitreg import drawing
from splitreg.imaging import Geometry
from splitreg.masks import decode_mask, encode_mask

__all__ = [
    "CLASSIFICATION", "DEPTH", "DETECTION", "IGNORE", "MULTILABEL", "OTHER", "RECONSTRUCTION", "SEGMENTATION",
    "Classification", "Depth", "Detections", "MultiLabel", "Other", "Prediction", "Reconstruction", "Segmentation",
    "decode_mask", "encode_mask",
]  # fmt: skip

CLASSIFICATION = "classification"
MULTILABEL = "multilabel"
DETECTION = "detection"
SEGMENTATION = "segmentation"
DEPTH = "depth"
RECONSTRUCTION = "reconstruction"
#: What ``meta`` calls a prediction of a plugin's own type.
OTHER = "other"

#: Pixels of a segmentation target that count nowhere.
IGNORE = 255


class Prediction(abc.ABC):
    """What a head says of one image."""

    @abc.abstractmethod
    def restore(self, geometry: Geometry) -> Self:
        """Return the same prediction in the pixels of the original image."""

    @abc.abstractmethod
    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return (H, W, 3) uint8: the prediction on the (H, W, 3) original, at any size the picture needs."""

    @abc.abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings, small enough to print (masks as run lengths)."""

    @abc.abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the exact arrays, for test vectors and binary answers."""

    def above(self, score: float) -> Self:
        """Return the same prediction without objects that score less; by default itself."""
        return self

    def meta(self) -> dict[str, Any]:
        """Return what is not an array, as plain data: ``kind``, the names of the classes.

        A plugin's own type need not say more than this: across a link it becomes ``Other``.
        """
        return {"kind": OTHER, "json": self.to_json()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Classification(Prediction):
    """The class of the whole image.

    Args:
        probabilities: (K,) float32, sums to 1.
        names: K class names.
    """

    probabilities: NDArray[np.float32]
    names: tuple[str, ...]

    @property
    def index(self) -> int:
        """Index of the most probable class."""
        return int(self.probabilities.argmax())

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """Return the most probable classes, name and probability."""
        order = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.names[i], float(self.probabilities[i])) for i in order]

    def restore(self, geometry: Geometry) -> Self:
        """Return itself: a class has no place."""
        return self

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Write the three best classes below the picture."""
        shown = [f"{name} {share:.0%}" for name, share in self.top(3) if share >= 0.005]
        return drawing.legend(drawing.enlarged(image)[0], shown)

    def to_json(self) -> dict[str, Any]:
        """Return the five best classes."""
        best = [{"label": name, "probability": _short(share)} for name, share in self.top()]
        return {"task": CLASSIFICATION, "label": self.names[self.index], "top": best}

    def meta(self) -> dict[str, Any]:
        """Return the kind and the names."""
        return {"kind": CLASSIFICATION, "names": list(self.names)}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``probabilities``."""
        return {"probabilities": self.probabilities}


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiLabel(Prediction):
    """Which labels apply to the image.

    Args:
        probabilities: (K,) float32, each on its own; NaN where the truth is not known.
        names: K label names.
        threshold: labels from this probability on are named as present.
    """

    probabilities: NDArray[np.float32]
    names: tuple[str, ...]
    threshold: float = 0.5

    def present(self) -> list[tuple[str, float]]:
        """Return the labels that apply, most probable first."""
        order = np.argsort(-np.nan_to_num(self.probabilities, nan=-1.0), kind="stable")
        return [(self.names[i], float(self.probabilities[i])) for i in order if self.probabilities[i] >= self.threshold]

    def restore(self, geometry: Geometry) -> Self:
        """Return itself: a label has no place."""
        return self

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Write the labels that apply below the picture."""
        shown = [f"{name} {share:.0%}" for name, share in self.present()] or ["(no label)"]
        return drawing.legend(drawing.enlarged(image)[0], shown)

    def to_json(self) -> dict[str, Any]:
        """Return the labels that apply, and the probability of every label (null: unknown)."""
        every = {
            n: None if np.isnan(p) else _short(p) for n, p in zip(self.names, self.probabilities, strict=True)
        }  # fmt: skip
        return {"task": MULTILABEL, "labels": [name for name, _ in self.present()], "probabilities": every}

    def meta(self) -> dict[str, Any]:
        """Return the kind and the names and the threshold."""
        return {"kind": MULTILABEL, "names": list(self.names), "threshold": self.threshold}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``probabilities``."""
        return {"probabilities": self.probabilities}


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections(Prediction):
    """Objects, best first.

    Args:
        boxes: (N, 4) float32 x0, y0, x1, y1 in pixels.
        scores: (N,) float32 in 0 to 1.
        labels: (N,) int64.
        names: K class names.
        threshold: objects from this score on are drawn; all are kept (a precision-recall curve needs them).
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    threshold: float = 0.3

    def restore(self, geometry: Geometry) -> Self:
        """Map the boxes, clip them to the picture and leave out those that lie in the letterbox's border."""
        boxes = geometry.boxes(self.boxes)
        return replace(self, boxes=boxes)._only((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))

    def above(self, score: float) -> Self:
        """Leave out the objects that score less."""
        return self._only(self.scores >= score) if score > 0 else self

    def _only(self, kept: NDArray[np.bool_]) -> Self:
        return replace(self, boxes=self.boxes[kept], scores=self.scores[kept], labels=self.labels[kept])

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw the boxes whose score reaches the threshold, with name and score."""
        canvas, factor = drawing.enlarged(image)
        order = [i for i in np.argsort(self.scores, kind="stable") if self.scores[i] >= self.threshold]
        captions = [f"{self.names[self.labels[i]]} {self.scores[i]:.2f}" for i in order]
        colours = drawing.palette(len(self.names))[self.labels[order]]
        return drawing.boxes(canvas, self.boxes[order] * factor, captions, colours)

    def to_json(self) -> dict[str, Any]:
        """Return label, score and box of every object."""
        objects = [
            {"label": self.names[label], "score": _short(score), "box": [round(float(v), 2) for v in box]}
            for box, score, label in zip(self.boxes, self.scores, self.labels, strict=True)
        ]
        return {"task": DETECTION, "objects": objects}

    def meta(self) -> dict[str, Any]:
        """Return the kind and the names and the threshold."""
        return {"kind": DETECTION, "names": list(self.names), "threshold": self.threshold}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``boxes``, ``scores`` and ``labels``."""
        return {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation(Prediction):
    """A class for every pixel.

    Args:
        mask: (H, W) uint8 class indexes; ``IGNORE`` where the truth is not known.
        names: K class names.
    """

    mask: NDArray[np.uint8]
    names: tuple[str, ...]

    def shares(self) -> dict[int, float]:
        """Return class index -> share of the pixels, the largest first, without ``IGNORE``."""
        counts = np.bincount(self.mask.ravel(), minlength=256)
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i] and i != IGNORE]
        return {i: float(counts[i] / self.mask.size) for i in order}

    def restore(self, geometry: Geometry) -> Self:
        """Map the mask by nearest neighbour."""
        return replace(self, mask=np.ascontiguousarray(geometry.labels(self.mask)))

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Tint the picture and name the classes that are there."""
        colours = drawing.palette(len(self.names))
        tinted, _ = drawing.enlarged(drawing.overlay(image, self.mask, colours))
        present = list(self.shares())
        return drawing.legend(tinted, [self.names[i] for i in present], colours[present])

    def to_json(self) -> dict[str, Any]:
        """Return share and run lengths of every class that is there."""
        classes = [
            {"label": self.names[i], "share": _short(share), "mask": encode_mask(self.mask == i)}
            for i, share in self.shares().items()
        ]
        return {"task": SEGMENTATION, "size": list(self.mask.shape), "classes": classes}

    def meta(self) -> dict[str, Any]:
        """Return the kind and the names."""
        return {"kind": SEGMENTATION, "names": list(self.names)}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``mask``."""
        return {"mask": self.mask}


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth(Prediction):
    """Metres for every pixel.

    Args:
        depth: (H, W) float32; 0 where the truth is not known.
    """

    depth: NDArray[np.float32]

    def restore(self, geometry: Geometry) -> Self:
        """Map the depths by bilinear interpolation."""
        return replace(self, depth=geometry.values(self.depth))

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Colour the depths, near is light, and write the range below."""
        near, middle, far = self._range()
        coloured, _ = drawing.enlarged(drawing.depth_colours(self.depth, near, far))
        return drawing.legend(coloured, [f"near {near:.2f} m", f"median {middle:.2f} m", f"far {far:.2f} m"])

    def to_json(self) -> dict[str, Any]:
        """Return near, median and far; the map itself is in ``arrays``."""
        near, middle, far = (_short(v) for v in self._range())
        return {"task": DEPTH, "size": list(self.depth.shape), "near_m": near, "median_m": middle, "far_m": far}

    def meta(self) -> dict[str, Any]:
        """Return the kind."""
        return {"kind": DEPTH}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``depth``."""
        return {"depth": self.depth}

    def _range(self) -> tuple[float, float, float]:
        known = self.depth[np.isfinite(self.depth) & (self.depth > 0)]
        if not known.size:
            return 0.0, 0.0, 0.0
        near, middle, far = np.quantile(known, [0.02, 0.5, 0.98])
        return float(near), float(middle), float(far)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconstruction(Prediction):
    """The image itself, as far as the bits carry it.

    Args:
        image: (H, W, 3) uint8.
    """

    image: NDArray[np.uint8]

    def restore(self, geometry: Geometry) -> Self:
        """Cut the border away and resize."""
        return replace(self, image=geometry.pixels(self.image))

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the reconstruction."""
        return drawing.enlarged(self.image)[0]

    def to_json(self) -> dict[str, Any]:
        """Return size and mean colour; the pixels are in ``arrays``."""
        colour = [_short(v) for v in self.image.reshape(-1, 3).mean(axis=0)]
        return {"task": RECONSTRUCTION, "size": list(self.image.shape[:2]), "mean_rgb": colour}

    def meta(self) -> dict[str, Any]:
        """Return the kind."""
        return {"kind": RECONSTRUCTION}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``image``."""
        return {"image": self.image}


@dataclass(frozen=True, slots=True, kw_only=True)
class Other(Prediction):
    """A prediction of a plugin's own type, as it comes across a link: what it prints, and its arrays.

    Args:
        printed: what its ``to_json`` returned.
        found: its exact arrays.
    """

    printed: dict[str, Any]
    found: dict[str, NDArray[Any]]

    def restore(self, geometry: Geometry) -> Self:
        """Return itself: the server has restored it."""
        return self

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the picture: how to draw it only the plugin knows."""
        return drawing.enlarged(image)[0]

    def to_json(self) -> dict[str, Any]:
        """Return what the prediction printed."""
        return self.printed

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return its arrays."""
        return self.found


def _short(value: float) -> float:
    return round(float(value), 4)
