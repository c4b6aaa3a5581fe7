"""Predictions of heads: the base class, and the types of the built-in tasks; no torch.

A prediction has numpy arrays and class names, in pixels of the network's input; ``restore(geometry)``
maps it to pixels of the original image. Ground truth has the same types (``Head.truth``). ``meta`` and
``arrays`` are the complete content; ``splitreg.wire.from_parts`` rebuilds a prediction from them.

Shape letters: N objects, K classes, H x W pixels.
"""

from __future__ import annotations

import abc
import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from splitreg import drawing
from splitreg.imaging import Geometry
from splitreg.masks import decode_mask, encode_mask
from splitreg.registry import extensions

if TYPE_CHECKING:
    from typing import Self

__all__ = [
    "CLASSIFICATION", "DEPTH", "DETECTION", "GENERIC", "IGNORE", "MULTILABEL", "POSE", "RECONSTRUCTION", "SEGMENTATION",
    "Classification", "Depth", "Detections", "GenericPrediction", "MultiLabel", "Prediction", "Reconstruction",
    "Segmentation", "decode_mask", "draw_all", "encode_mask",
]  # fmt: skip

CLASSIFICATION = "classification"
MULTILABEL = "multilabel"
DETECTION = "detection"
SEGMENTATION = "segmentation"
DEPTH = "depth"
POSE = "pose"
RECONSTRUCTION = "reconstruction"
#: Kind, in ``meta``, of a prediction of a plugin's own type.
GENERIC = "other"

#: Class index of pixels that losses and metrics ignore.
IGNORE = 255
#: Number of colours of tracked objects.
_IDENTITY_COLOURS = 60


class Prediction(abc.ABC):
    """Prediction of a head for one image.

    Attributes:
        type_name: of a plugin's own type: the name of its entry point ``splitreg.prediction``, by which
            a client finds the class; empty: a client receives a ``GenericPrediction``.
        covers: whether the drawing replaces the image instead of marking it.
    """

    type_name: ClassVar[str] = ""
    covers: ClassVar[bool] = False

    @abc.abstractmethod
    def restore(self, geometry: Geometry) -> Self:
        """Return the prediction in pixels of the original image."""

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a drawing on the (H, W, 3) uint8 original; its size may differ from the original's.

        By default ``shapes`` are drawn.
        """
        canvas, factor = drawing.enlarge(image)
        return drawing.shapes(canvas, self.shapes(), factor)

    def shapes(self) -> Sequence[Mapping[str, Any]]:
        """Return what to draw as plain data, so that the page and a client without this class can, too.

        Each shape is a mapping: ``points``, a list of ``[x, y]`` in pixels of the original image (one: a
        dot; several: a line), and optionally ``closed`` (True: back to the first point), ``label`` (a
        caption at the first point) and ``colour`` (an index into ``drawing.palette``). Types that draw
        themselves return none.
        """
        return ()

    @abc.abstractmethod
    def to_json(self) -> dict[str, Any]:
        """Return plain data that is small enough to print (masks as run lengths)."""

    @abc.abstractmethod
    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return name -> exact array, for test vectors and binary answers."""

    def above(self, score: float) -> Self:
        """Return the prediction without objects of a lower score; by default itself."""
        return self

    def meta(self) -> dict[str, Any]:
        """Return everything but the arrays as plain data: ``kind``, class names.

        Types of plugins use this default: JSON with the shapes and, if the type has a ``type_name``, also
        the name, ``fields`` and the package, from which a client rebuilds it.
        """
        shapes = list(self.shapes())
        meta: dict[str, Any] = {"kind": GENERIC, "json": {**self.to_json(), **({"shapes": shapes} if shapes else {})}}
        if self.type_name:
            entry = extensions("prediction").get(self.type_name)
            meta |= {"type": self.type_name, "fields": self.fields(), "package": entry.package if entry else ""}
        return meta

    def fields(self) -> dict[str, Any]:
        """Return what ``from_fields`` needs beside the arrays, as plain data; by default a dataclass's fields."""
        if not dataclasses.is_dataclass(self):
            return {}
        arrays = self.arrays()
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in arrays}

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Rebuild a prediction on a client; by default the dataclass of both, with lists as tuples.

        Both come from the network. A class that relies on shapes or types checks them here or in
        ``__post_init__``; whatever is raised becomes a ``CorruptAnswer``.

        Args:
            fields: from ``fields``.
            arrays: from ``arrays``.
        """
        return cls(**arrays, **{name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()})


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
        """Return itself: a class has no position."""
        return self

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Write the three most probable classes below the image."""
        shown = [f"{name} {share:.0%}" for name, share in self.top(3) if share >= 0.005]
        return drawing.legend(drawing.enlarge(image)[0], shown)

    def to_json(self) -> dict[str, Any]:
        """Return the five most probable classes."""
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
        probabilities: (K,) float32, independent of each other; NaN: unknown ground truth.
        names: K label names.
        threshold: smallest probability of a label that applies.
    """

    probabilities: NDArray[np.float32]
    names: tuple[str, ...]
    threshold: float = 0.5

    def present(self) -> list[tuple[str, float]]:
        """Return the labels that apply, most probable first."""
        order = np.argsort(-np.nan_to_num(self.probabilities, nan=-1.0), kind="stable")
        return [(self.names[i], float(self.probabilities[i])) for i in order if self.probabilities[i] >= self.threshold]

    def restore(self, geometry: Geometry) -> Self:
        """Return itself: a label has no position."""
        return self

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Write the labels that apply below the image."""
        shown = [f"{name} {share:.0%}" for name, share in self.present()] or ["(no label)"]
        return drawing.legend(drawing.enlarge(image)[0], shown)

    def to_json(self) -> dict[str, Any]:
        """Return the labels that apply, and the probability of every label (null: unknown)."""
        every = {
            n: None if np.isnan(p) else _short(p) for n, p in zip(self.names, self.probabilities, strict=True)
        }  # fmt: skip
        return {"task": MULTILABEL, "labels": [name for name, _ in self.present()], "probabilities": every}

    def meta(self) -> dict[str, Any]:
        """Return the kind, the names and the threshold."""
        return {"kind": MULTILABEL, "names": list(self.names), "threshold": self.threshold}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``probabilities``."""
        return {"probabilities": self.probabilities}


@dataclass(frozen=True, slots=True, kw_only=True)
class Detections(Prediction):
    """Objects, highest score first.

    Args:
        boxes: (N, 4) float32 x0, y0, x1, y1 in pixels.
        scores: (N,) float32 in 0 to 1.
        labels: (N,) int64.
        names: K class names.
        threshold: smallest score of drawn objects; the arrays have all objects, for metrics.
        identities: (N,) int64, equal for one object in all frames of a video, see
            ``splitreg.tracking``; None: not tracked.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    names: tuple[str, ...]
    threshold: float = 0.3
    identities: NDArray[np.int64] | None = None

    def restore(self, geometry: Geometry) -> Self:
        """Map and clip the boxes, and remove those in the letterbox's border."""
        boxes = geometry.boxes(self.boxes)
        return replace(self, boxes=boxes)._select((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))

    def above(self, score: float) -> Self:
        """Return only objects with at least this score."""
        return self._select(self.scores >= score) if score > 0 else self

    def _select(self, selected: NDArray[np.bool_]) -> Self:
        identities = None if self.identities is None else self.identities[selected]
        return replace(
            self, boxes=self.boxes[selected], scores=self.scores[selected], labels=self.labels[selected],
            identities=identities,
        )  # fmt: skip

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw boxes with at least the threshold's score, with name and score.

        Tracked objects have their identity in the caption and a colour per identity, others a colour
        per class. Without any such box, a line below the image says so, with the best score.
        """
        canvas, factor = drawing.enlarge(image)
        order = [i for i in np.argsort(self.scores, kind="stable") if self.scores[i] >= self.threshold]
        if not order:
            return drawing.legend(canvas, [f"no object with a score of {self.threshold:.2g} or more", *self._best()])
        captions = [f"{self.names[self.labels[i]]} {self.scores[i]:.2f}" for i in order]
        colours = drawing.palette(len(self.names))[self.labels[order]]
        if self.identities is not None:
            numbers = self.identities[order]
            captions = [
                f"{self.names[self.labels[i]]} #{n} {self.scores[i]:.2f}" for i, n in zip(order, numbers, strict=True)
            ]
            colours = drawing.palette(_IDENTITY_COLOURS)[numbers % _IDENTITY_COLOURS]
        return drawing.boxes(canvas, self.boxes[order] * factor, captions, colours)

    def _best(self) -> list[str]:
        """Return the object with the best score, in a list; an empty list without objects."""
        if not len(self.scores):
            return []
        best = int(self.scores.argmax())
        return [f"best: {self.names[self.labels[best]]} {self.scores[best]:.2f}"]

    def to_json(self) -> dict[str, Any]:
        """Return label, score and box of every object, and ``id`` if they are tracked."""
        objects = [
            {"label": self.names[label], "score": _short(score), "box": [round(float(v), 2) for v in box]}
            for box, score, label in zip(self.boxes, self.scores, self.labels, strict=True)
        ]
        if self.identities is not None:
            objects = [{"id": int(n), **item} for n, item in zip(self.identities, objects, strict=True)]
        return {"task": DETECTION, "objects": objects}

    def meta(self) -> dict[str, Any]:
        """Return the kind, the names and the threshold."""
        return {"kind": DETECTION, "names": list(self.names), "threshold": self.threshold}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``boxes``, ``scores`` and ``labels``, and ``identities`` if they are tracked."""
        arrays: dict[str, NDArray[Any]] = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        return arrays if self.identities is None else {**arrays, "identities": self.identities}


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation(Prediction):
    """A class for every pixel.

    Args:
        mask: (H, W) uint8 class indexes; ``IGNORE``: unknown ground truth.
        names: K class names.
    """

    mask: NDArray[np.uint8]
    names: tuple[str, ...]

    def shares(self) -> dict[int, float]:
        """Return class index -> share of the pixels, largest first, without ``IGNORE``."""
        counts = np.bincount(self.mask.ravel(), minlength=256)
        order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i] and i != IGNORE]
        return {i: float(counts[i] / self.mask.size) for i in order}

    def restore(self, geometry: Geometry) -> Self:
        """Map the mask by nearest neighbour."""
        return replace(self, mask=np.ascontiguousarray(geometry.labels(self.mask)))

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Tint the image by class, except the class ``background``, with a legend of the tinted classes in it."""
        colours = drawing.palette(len(self.names))
        mask = self.mask
        if "background" in self.names:
            mask = np.where(mask == self.names.index("background"), np.uint8(IGNORE), mask)
        tinted, _ = drawing.enlarge(drawing.overlay(image, mask, colours))
        present = [i for i in self.shares() if self.names[i] != "background"]
        return drawing.legend(tinted, [self.names[i] for i in present], colours[present])

    def to_json(self) -> dict[str, Any]:
        """Return share and run lengths of every class in the mask."""
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
    """Depth of every pixel.

    Args:
        depth: (H, W) float32 in metres; 0: unknown ground truth.
    """

    covers: ClassVar[bool] = True

    depth: NDArray[np.float32]

    def restore(self, geometry: Geometry) -> Self:
        """Map the depths by bilinear interpolation."""
        return replace(self, depth=geometry.values(self.depth))

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Colour the depths, light is near, and write the range below."""
        near, middle, far = self._range()
        coloured, _ = drawing.enlarge(drawing.depth_colours(self.depth, near, far))
        return drawing.legend(coloured, [f"near {near:.2f} m", f"median {middle:.2f} m", f"far {far:.2f} m"])

    def to_json(self) -> dict[str, Any]:
        """Return near, median and far; ``arrays`` has the map."""
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
    """The image as restored from its packet.

    Args:
        image: (H, W, 3) uint8.
    """

    covers: ClassVar[bool] = True

    image: NDArray[np.uint8]

    def restore(self, geometry: Geometry) -> Self:
        """Remove the border and resize."""
        return replace(self, image=geometry.pixels(self.image))

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the reconstruction."""
        return drawing.enlarge(self.image)[0]

    def to_json(self) -> dict[str, Any]:
        """Return size and mean colour; ``arrays`` has the pixels."""
        colour = [_short(v) for v in self.image.reshape(-1, 3).mean(axis=0)]
        return {"task": RECONSTRUCTION, "size": list(self.image.shape[:2]), "mean_rgb": colour}

    def meta(self) -> dict[str, Any]:
        """Return the kind."""
        return {"kind": RECONSTRUCTION}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``image``."""
        return {"image": self.image}


@dataclass(frozen=True, slots=True, kw_only=True)
class GenericPrediction(Prediction):
    """A prediction of a plugin's own type, as received from a server.

    Args:
        json_data: result of its ``to_json``.
        array_data: result of its ``arrays``.
        origin: ``type``, ``fields`` and ``package`` of the type; empty if it has no name.
        reason: why the type's class is not used; empty if it is not installed.
    """

    json_data: dict[str, Any]
    array_data: dict[str, NDArray[Any]]
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reason: str = ""

    @property
    def note(self) -> str:
        """What is missing to read the prediction fully; empty if it has no type of its own."""
        if not self.origin:
            return ""
        name, package = str(self.origin.get("type"))[:60], str(self.origin.get("package") or "")
        if self.reason:
            return f"the prediction type {name!r} cannot be used: {self.reason}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", package):
            return f"the prediction type {name!r} is not installed"
        return f"the prediction type {name!r} is not installed: pip install {package}"

    def restore(self, geometry: Geometry) -> Self:
        """Return itself: the server has restored it."""
        return self

    def draw(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draw the shapes, and write below the image what is missing."""
        drawn = super(GenericPrediction, self).draw(image)
        return drawing.legend(drawn, [self.note]) if self.note else drawn

    def shapes(self) -> Sequence[Mapping[str, Any]]:
        """Return the shapes that came with the prediction."""
        shapes = self.json_data.get("shapes")
        return shapes if isinstance(shapes, list) else ()

    def to_json(self) -> dict[str, Any]:
        """Return ``json_data``, with a ``note`` if the type's class is not installed here."""
        return {"note": self.note, **self.json_data} if self.note else self.json_data

    def meta(self) -> dict[str, Any]:
        """Return what was received."""
        return {"kind": GENERIC, "json": self.json_data, **self.origin}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return ``array_data``."""
        return self.array_data


def draw_all(image: NDArray[np.uint8], predictions: Mapping[str, Prediction]) -> NDArray[np.uint8]:
    """Draw the predictions for an image in one drawing.

    Masks, boxes and captions are drawn over each other; predictions that cover the image (depth, a
    reconstruction), and all of an image that is enlarged, are beside each other.

    Args:
        image: (H, W, 3) uint8, in the pixels of the predictions.
        predictions: head -> prediction.

    Returns:
        A larger image; a copy of the image without predictions.
    """
    # Tints first, so that boxes and captions stay on top.
    ordered = sorted(predictions.values(), key=lambda each: not isinstance(each, Segmentation))
    enlarged = max(image.shape[:2]) < drawing.MIN_SIDE
    beside = [each for each in ordered if each.covers or enlarged]
    marked = image.copy()
    for each in ordered:
        if not (each.covers or enlarged):
            marked = each.draw(marked)
    return drawing.beside(([] if enlarged and beside else [marked]) + [each.draw(image) for each in beside])


def _short(value: float) -> float:
    return round(float(value), 4)
