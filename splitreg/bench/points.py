"""The points of a curve: what is sent to whose network, measured once and remembered on disk."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import splitreg
from splitreg.assembly import load
from splitreg.bundle import Bundle
from splitreg.data.compressed import CODECS
from splitreg.errors import RecipeError
from splitreg.evaluation import evaluate, evaluate_image_codec
from splitreg.recipe import DataPart
from splitreg.registry import Registry
from splitreg.training.checkpoint import write_atomically
from splitreg.training.data import open_split

if TYPE_CHECKING:
    from splitreg.assembly import SplitModel
    from splitreg.data.loading import Source

#: Ways to reach a bundle's network, beside the image codecs: its own packets, or not at all (all of it on the device).
PACKET, LOCAL = "packet", "local"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """One point to measure.

    Args:
        bundle: folder of the bundle whose network answers.
        how: ``"packet"``, ``"local"`` (the whole network on the device, nothing sent) or an image codec.
        quality: of the image codec, 1 to 100; 0 where there is none.
        rate: of the packets, 0 to 1, where the model has several; None: its own.

    Raises:
        RecipeError: there is no such way.
    """

    bundle: Path
    how: str = PACKET
    quality: int = 0
    rate: float | None = None

    def __post_init__(self) -> None:
        ways = (PACKET, LOCAL, *CODECS)
        if self.how not in ways:
            from splitreg.errors import suggest

            raise RecipeError(f"nothing is sent as {self.how!r}.{suggest(self.how, ways)} There are: {', '.join(ways)}")

    @property
    def label(self) -> str:
        """What the point is called: the bundle's name for a packet, else what is sent."""
        if self.how == PACKET:
            return bundle_name(self.bundle) + ("" if self.rate is None else f", rate {self.rate:g}")
        return f"{self.how} {self.quality}" if self.quality else self.how


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One measured point.

    Args:
        label: what was sent.
        bytes: mean bytes an image.
        metrics: head -> metric -> value.
        primary: head -> (the metric that sums it up, whether lower is better).
        parameters: weights on the device; 0 where that only runs an image codec.
        macs: multiply-accumulates on the device for an image; likewise.
        report: the whole evaluation.
        cached: it was measured before.
    """

    label: str
    bytes: float
    metrics: Mapping[str, Mapping[str, float]]
    primary: Mapping[str, tuple[str, bool]]
    parameters: int
    macs: int
    report: Mapping[str, Any]
    cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What all points are measured on.

    Args:
        data: the datasets; ``val`` is the split.
        limit: only so many images, spread evenly.
    """

    data: tuple[DataPart, ...]
    limit: int | None = None

    @property
    def dataset(self) -> str:
        """What to call the images."""
        return "+".join(f"{part.name} {part.val}" for part in self.data)

    def to_json(self) -> dict[str, Any]:
        """Return what identifies the images, with absolute folders."""
        parts = [{**p.to_mapping(), "root": None if p.root is None else str(Path(p.root).resolve())} for p in self.data]
        return {"data": [{k: v for k, v in p.items() if k != "train"} for p in parts], "limit": self.limit}


class Points:
    """Measures points, each only once for a folder: the results lie in it by what they depend on.

    Args:
        folder: of the results.
        setting: the images.
        registry: the installed plugins, by default.
        progress: show bars on stderr.
    """

    def __init__(
        self, folder: Path, setting: Setting, *, registry: Registry | None = None, progress: bool = False
    ) -> None:
        self._folder, self._setting, self._registry, self._progress = folder, setting, registry, progress
        self._open: Callable[[Path], tuple[SplitModel, Source]] = functools.lru_cache(maxsize=1)(self._opened)

    def measure(self, sent: Sent) -> Point:
        """Return a point, from the folder if it is there already.

        Raises:
            SplitregError: the bundle or the dataset cannot be read, or there is no such baseline for it.
        """
        key = self._key(sent)
        path = self._folder / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}.json"
        found = _remembered(path, key)
        cached = found is not None
        if found is None:
            found = self._evaluate(sent)
            write_atomically(path, json.dumps({"key": key, **found}, indent=1).encode() + b"\n")
        report = found["report"]
        cost = found["costs"].get(sent.how, {"parameters": 0, "macs": 0})
        return Point(
            label=sent.label, bytes=0.0 if sent.how == LOCAL else report["bytes"]["mean"], metrics=report["metrics"],
            primary={head: (name, lower) for head, (name, lower) in found["primary"].items()},
            parameters=cost["parameters"], macs=cost["macs"], report=report, cached=cached,
        )  # fmt: skip

    def _key(self, sent: Sent) -> dict[str, Any]:
        # The same predictions: packets lose only what rounding does.
        way = PACKET if sent.how == LOCAL else sent.how
        return {
            "bundle": Bundle.open(sent.bundle).config.digest, "sent": way, "quality": sent.quality, "rate": sent.rate,
            **self._setting.to_json(),
            "splitreg": splitreg.__version__,
        }  # fmt: skip

    def _opened(self, bundle: Path) -> tuple[SplitModel, Source]:
        model = load(bundle, registry=self._registry)
        return model, open_split(replace(model.recipe, data=self._setting.data), "val", self._registry)

    def _evaluate(self, sent: Sent) -> dict[str, Any]:
        model, source = self._open(sent.bundle)
        settings: dict[str, Any] = {
            "dataset": self._setting.dataset, "limit": self._setting.limit, "progress": self._progress,
        }  # fmt: skip
        if sent.how in (PACKET, LOCAL):
            report = evaluate(model, source, rate=sent.rate, **settings)
        else:  # around the bottleneck where there is a way
            split = model.prefix is None
            report = evaluate_image_codec(model, source, sent.how, sent.quality or 75, split=split, **settings)
        costs = {part: asdict(cost) for part, cost in model.plan.costs().items() if part != "unsplit"}
        whole = {key: sum(cost[key] for cost in costs.values()) for key in ("parameters", "macs")}
        primary = {
            name: (head.primary, head.lower_is_better) for name in model.heads if (head := model.head(name)).primary
        }
        return {"report": report.to_json(), "primary": primary, "costs": {PACKET: costs["edge"], LOCAL: whole}}


def packets(bundle: Path, rates: Sequence[float] = ()) -> tuple[Sent, ...]:
    """Return a bundle's packets as points: at each of these rates where its model has several, else one.

    Raises:
        BundleError: there is no bundle.
    """
    several = bool(rates) and Bundle.open(bundle).config.variable_rate
    return tuple(Sent(bundle=bundle, rate=rate) for rate in rates) if several else (Sent(bundle=bundle),)


def bundle_name(bundle: Path) -> str:
    """Return what a bundle is called: its folder, or the one above where that is only ``bundle``."""
    path = bundle.resolve()
    return path.parent.name if path.name == "bundle" else path.name


def _remembered(path: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a result of exactly these settings; None where there is none that is whole."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found if found["key"] == key and {"report", "primary", "costs"} <= found.keys() else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def pictures(bundle: Path, images: Sequence[str]) -> dict[str, tuple[Sent, ...]]:
    """Read ``["png", "webp:80", "webp:50"]``: codec -> its points.

    Raises:
        RecipeError: no such codec or quality.
    """
    found: dict[str, list[Sent]] = {}
    for item in images:
        codec, _, quality = item.strip().partition(":")
        if codec not in CODECS or (quality and not (quality.isdigit() and 1 <= int(quality) <= 100)):
            raise RecipeError(
                f"a picture is CODEC or CODEC:QUALITY, of {', '.join(CODECS)} and 1 to 100, as in webp:50; got {item!r}"
            )
        found.setdefault(codec, []).append(
            Sent(bundle=bundle, how=codec, quality=0 if codec == "png" else int(quality or 75))
        )
    return {codec: tuple(points) for codec, points in found.items()}
