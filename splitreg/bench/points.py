"""Points of a curve: what is sent to which network, measured once and stored on disk."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import splitreg
from splitreg.assembly import SplitModel, load
from splitreg.bundle import Bundle
from splitreg.data.classes import match_heads
from splitreg.data.image_codecs import parse_codec
from splitreg.data.loading import Source
from splitreg.errors import TrainingError
from splitreg.evaluation import EvalOptions, evaluate, evaluate_image_codec
from splitreg.evaluation.intervals import Bootstrap
from splitreg.evaluation.packets import spread
from splitreg.files import IMAGE_CODECS, disk_errors, parse_json, write_json
from splitreg.parsing import check_name
from splitreg.recipe import IGNORE, REFUSE, DataPart
from splitreg.registry import Registry
from splitreg.training.data import open_split
from splitreg.zoo import bundles

#: Values of ``Sent.how`` beside the image codecs: a packet; or nothing, the whole network runs on the device.
PACKET, LOCAL = "packet", "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """What is sent at one point.

    Args:
        bundle: folder of the bundle that predicts.
        how: ``"packet"``, ``"local"`` (the whole network runs on the device, nothing is sent) or an image codec.
        quality: quality of the image codec, 1 to 100; 0 if it has none.
        rate: rate of the packets, 0 to 1, for a model with several; None: its only rate.

    Raises:
        RecipeError: unknown value of ``how``.
    """

    bundle: Path
    how: str = PACKET
    quality: int = 0
    rate: float | None = None

    def __post_init__(self) -> None:
        check_name(self.how, (PACKET, LOCAL, *IMAGE_CODECS), "way to send")

    @property
    def label(self) -> str:
        """Name of the point: the bundle's name for a packet, otherwise what is sent."""
        if self.how == PACKET:
            return bundle_name(self.bundle) + ("" if self.rate is None else f", rate {self.rate:g}")
        return f"{self.how} {self.quality}" if self.quality else self.how


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured point.

    Args:
        label: what was sent.
        bytes: mean bytes per image.
        metrics: head -> metric -> value; None: could not be measured.
        primary: head -> (primary metric, whether lower is better).
        parameters: weights on the device; 0 if it runs only an image codec.
        macs: multiply-accumulates per image on the device; 0 if it runs only an image codec.
        report: the whole evaluation.
        intervals: head -> metric -> ``low`` and ``high`` of its 95 % interval, and its ``values`` in
            the resamples; empty if none were drawn. See ``splitreg.evaluation.intervals``.
        sent: what was sent, as plain data: ``how``, ``quality``, ``rate``, and the name and place of
            the bundle.
        cached: whether it was measured before.
    """

    label: str
    bytes: float
    metrics: Mapping[str, Mapping[str, float | None]]
    primary: Mapping[str, tuple[str, bool]]
    parameters: int
    macs: int
    report: Mapping[str, Any]
    intervals: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    sent: Mapping[str, Any] = field(default_factory=dict)
    cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The images on which all points are measured.

    Args:
        data: the datasets; ``val`` is the split.
        limit: number of images, spread evenly; None: all of them.
        resamples: number of bootstrap resamples of the images; 0: no intervals.
    """

    data: tuple[DataPart, ...]
    limit: int | None = None
    resamples: int = 0

    @property
    def dataset(self) -> str:
        """Names of datasets and splits."""
        return "+".join(f"{part.name} {part.val}" for part in self.data)

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the images, with absolute paths."""
        parts = [{**p.to_mapping(), "root": None if p.root is None else str(Path(p.root).resolve())} for p in self.data]
        return {"data": [{k: v for k, v in p.items() if k != "train"} for p in parts], "limit": self.limit,
                "resamples": self.resamples}  # fmt: skip


class Points:
    """Measures points, each only once per folder.

    Args:
        folder: folder of the results, one file per point.
        setting: the images.
        registry: the installed plugins, by default.
        progress: show bars on stderr.
    """

    def __init__(
        self, folder: Path, setting: Setting, *, registry: Registry | None = None, progress: bool = False
    ) -> None:
        self._folder, self._setting, self._registry = folder, setting, registry
        unknown = IGNORE if any(part.unknown_classes == IGNORE for part in setting.data) else REFUSE
        self._options = EvalOptions(
            dataset=setting.dataset, limit=setting.limit, progress=progress, unknown_classes=unknown
        )  # fmt: skip
        self._open: Callable[[Path], tuple[SplitModel, Source]] = functools.lru_cache(maxsize=1)(self._load)

    def measure(self, sent: Sent) -> Point:
        """Return a point, from the folder if it was measured before.

        Raises:
            SplitregError: the bundle or the dataset cannot be read, or it has no such baseline.
        """
        key = self._key(sent)
        path = self._folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}.json"
        result = _read_result(path, key)
        cached = result is not None
        if result is None:
            result = self._evaluate(sent)
            with disk_errors(path, TrainingError, "free some space, or choose another folder"):
                write_json(path, {"key": key, **result})
        report = result["report"]
        cost = result["costs"].get(sent.how, {"parameters": 0, "macs": 0})
        return Point(
            label=sent.label, bytes=0.0 if sent.how == LOCAL else report["bytes"]["mean"], metrics=report["metrics"],
            primary={head: (name, lower) for head, (name, lower) in result["primary"].items()},
            parameters=cost["parameters"], macs=cost["macs"], report=report, intervals=result["intervals"],
            sent={
                "how": sent.how, "quality": sent.quality, "rate": sent.rate, "bundle": bundle_name(sent.bundle),
                "place": bundle_place(sent.bundle),
            },
            cached=cached,
        )  # fmt: skip

    def images(self, bundle: Path, count: int = 8) -> list[NDArray[np.uint8]]:
        """Return the first images, (H, W, 3), of the dataset of a bundle."""
        _, source = self._open(bundle)
        return [source[index].array() for index in spread(len(source), min(count, len(source)))]

    def _key(self, sent: Sent) -> dict[str, Any]:
        # The predictions are the same with and without packets, up to rounding.
        how = PACKET if sent.how == LOCAL else sent.how
        return {
            "bundle": Bundle.open(sent.bundle).config.digest, "sent": how, "quality": sent.quality, "rate": sent.rate,
            **self._setting.to_json(),
            "splitreg": splitreg.__version__,
        }  # fmt: skip

    def _load(self, bundle: Path) -> tuple[SplitModel, Source]:
        model = load(bundle, registry=self._registry)
        return model, open_split(replace(model.recipe, data=self._setting.data), "val", self._registry)

    def _evaluate(self, sent: Sent) -> dict[str, Any]:
        model, source = self._open(sent.bundle)
        classes = match_heads(model.plan.heads, source.targets, self._options.unknown_classes)
        bootstrap = Bootstrap(model, classes, resamples=self._setting.resamples)
        options = replace(self._options, observer=bootstrap.add) if self._setting.resamples else self._options
        if sent.how in (PACKET, LOCAL):
            report = evaluate(model, source, options, rate=sent.rate)
        else:  # without the bottleneck, if that is possible
            split = model.prefix is None
            report = evaluate_image_codec(
                model, source, sent.how, sent.quality or 75, split=split, options=options
            )  # fmt: skip
        costs = {part: asdict(cost) for part, cost in model.plan.costs().items() if part != "unsplit"}
        whole = {key: sum(cost[key] for cost in costs.values()) for key in ("parameters", "macs")}
        primary = {
            name: (head.primary, head.lower_is_better) for name in model.heads if (head := model.head(name)).primary
        }
        return {
            "report": report.to_json(), "primary": primary, "costs": {PACKET: costs["edge"], LOCAL: whole},
            "intervals": _intervals(bootstrap) if self._setting.resamples else {},
        }  # fmt: skip


def _intervals(bootstrap: Bootstrap) -> dict[str, Any]:
    """Return the intervals as plain data, with values of six digits."""
    return {
        head: {
            name: {"low": one.low, "high": one.high, "values": [float(f"{value:.6g}") for value in one.values]}
            for name, one in metrics.items()
        }
        for head, metrics in bootstrap.intervals().items()
    }


def packet_points(bundle: Path, rates: Sequence[float] = ()) -> tuple[Sent, ...]:
    """Return a bundle's packets as points: one per rate if its model has several, otherwise one.

    Raises:
        BundleError: there is no bundle.
    """
    several = bool(rates) and Bundle.open(bundle).config.variable_rate
    return tuple(Sent(bundle=bundle, rate=rate) for rate in rates) if several else (Sent(bundle=bundle),)


def image_points(bundle: Path, codecs: Sequence[str]) -> dict[str, tuple[Sent, ...]]:
    """Return images of ordinary codecs as points: codec -> its points.

    Args:
        bundle: the network that sees the images.
        codecs: e.g. ``["png", "webp:80", "webp:50"]``.

    Raises:
        RecipeError: unknown codec, or quality out of range.
    """
    points: dict[str, tuple[Sent, ...]] = {}
    for text in codecs:
        codec, quality = parse_codec(text)
        points[codec] = (*points.get(codec, ()), Sent(bundle=bundle, how=codec, quality=quality))
    return points


def bundle_name(bundle: Path) -> str:
    """Return the name of a bundle: its folder, or the folder above if that is called ``bundle``."""
    path = bundle.resolve()
    return path.parent.name if path.name == "bundle" else path.name


def bundle_place(bundle: Path) -> str:
    """Return ``zoo:NAME`` for a bundle of the zoo, otherwise its path."""
    return next((f"zoo:{name}" for name, path in bundles().items() if path.resolve() == bundle.resolve()), str(bundle))


def _read_result(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a stored result of exactly these settings; None if there is none, or it is damaged."""
    try:
        result: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        return result if result["key"] == key and {"report", "primary", "costs", "intervals"} <= result.keys() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
