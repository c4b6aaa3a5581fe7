"""Predictions from what crossed the link."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from splitreg.errors import CorruptAnswer
from splitreg.predictions import (
    CLASSIFICATION,
    DEPTH,
    DETECTION,
    GENERIC,
    IGNORE,
    MULTILABEL,
    RECONSTRUCTION,
    SEGMENTATION,
    Classification,
    Depth,
    Detections,
    GenericPrediction,
    MultiLabel,
    Prediction,
    Reconstruction,
    Segmentation,
)

#: kind -> type, and array -> the kinds of its numbers and its shape: K as many as names, digits as they are.
_PARTS: Mapping[str, tuple[type[Prediction], Mapping[str, tuple[str, str]]]] = {
    CLASSIFICATION: (Classification, {"probabilities": ("f", "K")}),
    MULTILABEL: (MultiLabel, {"probabilities": ("f", "K")}),
    DETECTION: (Detections, {"boxes": ("f", "N4"), "scores": ("f", "N"), "labels": ("iu", "N")}),
    SEGMENTATION: (Segmentation, {"mask": ("u", "HW")}),
    DEPTH: (Depth, {"depth": ("f", "HW")}),
    RECONSTRUCTION: (Reconstruction, {"image": ("u", "HW3")}),
}


def from_parts(meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Prediction:
    """Put a prediction together from its ``meta`` and its ``arrays``, neither of which is trusted.

    Raises:
        CorruptAnswer: they are not those of one prediction.
    """
    kind = meta.get("kind")
    if kind == GENERIC:
        if not isinstance(meta.get("json"), dict):
            raise CorruptAnswer("a prediction of a plugin's own type lacks what it prints")
        return GenericPrediction(json_data=meta["json"], array_data=dict(arrays))
    if not isinstance(kind, str) or kind not in _PARTS:
        raise CorruptAnswer(f"a prediction of kind {str(kind)[:40]!r} is not known here; upgrade splitreg")
    made, wanted = _PARTS[kind]
    names, threshold = meta.get("names", []), meta.get("threshold", 0.5)
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise CorruptAnswer(f"the names of a {kind} prediction are not a list of names")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or set(arrays) != set(wanted):
        raise CorruptAnswer(f"a {kind} prediction has {sorted(arrays)}, wanted {sorted(wanted)} and a threshold")
    sizes = {"K": len(names)}
    for name, (numbers, shape) in wanted.items():
        there = arrays[name].shape
        fits = len(there) == len(shape) and arrays[name].dtype.kind in numbers
        if not fits or any(n != (int(s) if s.isdigit() else sizes.setdefault(s, n)) for s, n in zip(shape, there)):  # noqa: B905
            raise CorruptAnswer(f"{name} of a {kind} prediction has shape {there} and type {arrays[name].dtype}")
    _check_indexes(kind, arrays, len(names))
    given: dict[str, Any] = {"names": tuple(names)} if "names" in meta else {}
    given |= {"threshold": float(threshold)} if "threshold" in meta else {}
    try:
        return made(**arrays, **given)
    except TypeError as cause:
        raise CorruptAnswer(f"a {kind} prediction has the fields {sorted(meta)}") from cause


def _check_indexes(kind: str, arrays: Mapping[str, NDArray[Any]], classes: int) -> None:
    """Refuse classes that have no name."""
    for name in {DETECTION: ("labels",), SEGMENTATION: ("mask",)}.get(kind, ()):
        beyond = (arrays[name] < 0) | (arrays[name] >= classes)
        if (beyond & (arrays[name] != IGNORE) if name == "mask" else beyond).any():
            raise CorruptAnswer(f"{name} of a {kind} prediction name classes beyond the {classes} that there are")
