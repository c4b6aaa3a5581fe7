"""Predictions from the metadata and arrays of an answer, both untrusted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from splitreg.components import place_of
from splitreg.errors import CorruptAnswer, SplitregError
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
from splitreg.registry import extensions, load_extension

#: kind -> type, and array name -> the accepted ``dtype.kind`` letters and the shape. In a shape, K
#: is the number of class names, N, H and W are free but equal wherever they appear, a digit is that
#: size. An array with ``?`` after its name may be absent.
_ARRAYS: Mapping[str, tuple[type[Prediction], Mapping[str, tuple[str, str]]]] = {
    CLASSIFICATION: (Classification, {"probabilities": ("f", "K")}),
    MULTILABEL: (MultiLabel, {"probabilities": ("f", "K")}),
    DETECTION: (
        Detections,
        {"boxes": ("f", "N4"), "scores": ("f", "N"), "labels": ("iu", "N"), "identities?": ("iu", "N")},
    ),
    SEGMENTATION: (Segmentation, {"mask": ("u", "HW")}),
    DEPTH: (Depth, {"depth": ("f", "HW")}),
    RECONSTRUCTION: (Reconstruction, {"image": ("u", "HW3")}),
}


def from_parts(meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Prediction:
    """Return the prediction with this ``Prediction.meta`` and these ``Prediction.arrays``.

    Raises:
        CorruptAnswer: they do not describe one prediction.
    """
    kind = meta.get("kind")
    if kind == GENERIC:
        if not isinstance(meta.get("json"), dict):
            raise CorruptAnswer("a prediction of a plugin's own type has no 'json' object in its metadata")
        return _third_party(meta, arrays)
    if not isinstance(kind, str) or kind not in _ARRAYS:
        raise CorruptAnswer(f"unknown kind of prediction: {str(kind)[:40]!r}; upgrade splitreg")
    prediction_type, expected = _ARRAYS[kind]
    names, threshold = meta.get("names", []), meta.get("threshold", 0.5)
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise CorruptAnswer(f"the names of a {kind} prediction are not a list of strings")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise CorruptAnswer(f"the threshold of a {kind} prediction is not a number")
    expected = {
        name.removesuffix("?"): rule for name, rule in expected.items() if not name.endswith("?") or name[:-1] in arrays
    }
    if set(arrays) != set(expected):
        raise CorruptAnswer(f"a {kind} prediction has arrays {sorted(expected)}, got {sorted(arrays)}")
    _check_shapes(kind, expected, arrays, len(names))
    _check_indexes(kind, arrays, len(names))
    fields: dict[str, Any] = {"names": tuple(names)} if "names" in meta else {}
    fields |= {"threshold": float(threshold)} if "threshold" in meta else {}
    try:
        return prediction_type(**arrays, **fields)
    except TypeError as cause:
        raise CorruptAnswer(f"a {kind} prediction does not have the fields {sorted(meta)}") from cause


def _third_party(meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Prediction:
    """Return a prediction of a plugin's own type: of its class where that is installed."""
    origin = {key: meta[key] for key in ("type", "fields", "package") if key in meta}
    name, fields = origin.get("type"), origin.get("fields")
    generic = GenericPrediction(json_data=meta["json"], array_data=dict(arrays), origin=origin)
    if not origin:
        return generic
    if not isinstance(name, str) or not isinstance(fields, dict):
        raise CorruptAnswer("a prediction of a plugin's own type has a 'type' that is no name, or 'fields' no object")
    entry = extensions("prediction").get(name)
    if entry is None:
        return generic
    try:
        prediction_type = load_extension(entry)
    except SplitregError as cause:
        return replace(generic, reason=str(cause))
    try:
        prediction = prediction_type.from_fields(fields, dict(arrays))
    except Exception as cause:  # a plugin may raise anything
        raise CorruptAnswer(
            f"{entry.package} cannot read a prediction of type {name!r}: {type(cause).__name__}: {cause} "
            f"({place_of(cause, entry.module.partition('.')[0])})"
        ) from cause
    if not isinstance(prediction, Prediction):
        return replace(generic, reason=f"{entry.module}:{entry.attribute} is no class of predictions")
    return prediction


def _check_shapes(
    kind: str, expected: Mapping[str, tuple[str, str]], arrays: Mapping[str, NDArray[Any]], classes: int
) -> None:
    sizes = {"K": classes}
    for name, (numbers, shape) in expected.items():
        actual = arrays[name].shape
        fits = len(actual) == len(shape) and arrays[name].dtype.kind in numbers
        for letter, size in zip(shape, actual, strict=False):
            fits = fits and size == (int(letter) if letter.isdigit() else sizes.setdefault(letter, size))
        if not fits:
            raise CorruptAnswer(f"{name} of a {kind} prediction has shape {actual} and type {arrays[name].dtype}")


def _check_indexes(kind: str, arrays: Mapping[str, NDArray[Any]], classes: int) -> None:
    """Refuse class indexes without a name."""
    for name in {DETECTION: ("labels",), SEGMENTATION: ("mask",)}.get(kind, ()):
        unnamed = (arrays[name] < 0) | (arrays[name] >= classes)
        if (unnamed & (arrays[name] != IGNORE) if name == "mask" else unnamed).any():
            raise CorruptAnswer(f"{name} of a {kind} prediction has class indexes beyond its {classes} class names")
