"""``demo``: from nothing to a trained, published model and a report in a few minutes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from splitreg.assembly import SplitModel, build, save
from splitreg.data.image_codecs import compress, parse_codec
from splitreg.data.loading import Source
from splitreg.demo.estimate import FIRST_STEPS, Estimate
from splitreg.demo.halves import check_halves
from splitreg.demo.report import page
from splitreg.errors import TrainingError
from splitreg.evaluation import EvalOptions, evaluate
from splitreg.evaluation.examples import Example, examples, jpeg, sheet
from splitreg.files import disk_errors, write_atomic
from splitreg.progress import Progress
from splitreg.publishing import verify
from splitreg.recipe import Recipe
from splitreg.registry import Registry, discover
from splitreg.training import TrainOptions, open_datasets, open_split, train

#: Number of held-out images that the server half in the second process gets.
SENT_IMAGES = 12
#: Image codecs that the packet is compared with, and the number of images for that.
CODECS, CODEC_IMAGES = ("png", "jpeg:90", "jpeg:50", "jpeg:10", "webp:80", "webp:20"), 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """Result of the demo.

    Args:
        bundle: the published model.
        report: the HTML file.
        metrics: head -> metric -> value on held-out images; None: could not be measured.
        packet_bytes: mean bytes per image.
        rates: (name, mean bytes per image) of the packet and of ordinary image codecs.
        seconds: duration.
    """

    bundle: Path
    report: Path
    metrics: Mapping[str, Mapping[str, float | None]]
    packet_bytes: float
    rates: Sequence[tuple[str, float]]
    seconds: float


def recipe(overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of the demo."""
    text = resources.files("splitreg.demo").joinpath("recipe.toml")
    with resources.as_file(text) as path:
        return Recipe.read(path, overrides)


def demo(
    folder: str | Path,
    *,
    overrides: Sequence[str] = (),
    registry: Registry | None = None,
    progress: bool = True,
) -> Demo:
    """Train three heads on procedural scenes, publish, run the halves in two processes, write a report.

    Args:
        folder: output folder for ``run/`` (checkpoints, log), ``bundle/`` and ``report.html``; a demo that was
            stopped continues.
        overrides: changes to the recipe, e.g. ``"stages.0.epochs=2"``.
        registry: the installed plugins, by default.
        progress: show progress on stderr.

    Raises:
        TrainingError: the server half fails, or its predictions differ from those of this process.
    """
    folder, display, registry = Path(folder), Progress(progress), registry or discover()
    start, model = time.monotonic(), build(recipe(overrides), registry=registry)
    datasets = open_datasets(model.recipe, registry)
    estimate = Estimate(model.recipe, len(datasets.train), display)
    with estimate.shown():
        heads = ", ".join(head.name for head in model.recipe.heads)
        display.print(f"1/4 training {heads} on {model.recipe.backbone.name}, with images rendered here")
        options = TrainOptions(
            resume=True, datasets=datasets, validate_every=0, log_every=FIRST_STEPS, progress=progress,
            on_event=estimate.on_event,
        )  # fmt: skip
        train(model.recipe, folder / "run", model=model, options=options, registry=registry)
        training_s = time.monotonic() - start
        estimate.finish_training()
        display.print("2/4 measuring with real packets")
        held_out = open_split(model.recipe, "val", registry)
        report = evaluate(model, held_out, EvalOptions(dataset="scenes val", progress=progress)).to_json()
        estimate.finish_evaluation()
        samples = [held_out[index] for index in range(min(SENT_IMAGES, len(held_out)))]
        display.print(f"3/4 sending {len(samples)} held-out images to the server half in a second process")
        drawn = examples(model, samples)
        bundle = _publish(model, folder / "bundle", report, drawn)
        check_halves(bundle, model, samples)
        estimate.finish_sending()
        display.print("4/4 writing the report")
        rates = [("packet", float(report["bytes"]["mean"])), *codec_rates(held_out)]
        seconds = time.monotonic() - start
        facts = _facts(model, report) | {"training": f"{training_s:.0f} s", "whole demo": f"{seconds:.0f} s"}
        out = folder / "report.html"
        with disk_errors(out, TrainingError, "free some space, then run the same command again"):
            write_atomic(out, _page(model, report, rates, drawn, facts).encode())
    return Demo(
        bundle=bundle, report=out, metrics=report["metrics"], packet_bytes=rates[0][1], rates=rates, seconds=seconds
    )


def codec_rates(source: Source) -> list[tuple[str, float]]:
    """Return (codec, mean bytes per image) of ordinary image codecs, on the first images of a dataset."""
    images = [source[index].array() for index in range(min(CODEC_IMAGES, len(source)))]
    rates = []
    for text in CODECS:
        codec, quality = parse_codec(text)
        sizes = [compress(image, codec, quality or 75)[1] for image in images]
        rates.append((f"{codec} {quality}" if quality else codec, float(np.mean(sizes))))
    return rates


def _publish(model: SplitModel, folder: Path, report: Mapping[str, Any], drawn: Sequence[Example]) -> Path:
    """Write the bundle and verify it."""
    images = {"examples.jpg": jpeg(sheet(drawn[:4]))}
    bundle = save(model, folder, metrics={"evaluations": [report]}, images=images, overwrite=True)
    failed = [check for check in verify(bundle, registry=model.plan.registry) if not check.passed]
    if failed:
        raise TrainingError(f"the bundle does not verify: {failed[0].name}: {failed[0].detail}")
    return bundle


def _page(
    model: SplitModel, report: Mapping[str, Any], rates: Sequence[tuple[str, float]], drawn: Sequence[Example],
    facts: Mapping[str, str],
) -> str:  # fmt: skip
    height, width = model.recipe.input.size
    return page(
        title="splitreg demo: one small packet, three tasks",
        summary=[
            f"An image of {width}x{height} pixels is sent in {rates[0][1]:.0f} bytes; as PNG it takes "
            f"{dict(rates)['png']:.0f} bytes."
        ],
        rates=rates, metrics=report["metrics"], examples=drawn, facts=facts,
    )  # fmt: skip


def _facts(model: SplitModel, report: Mapping[str, Any]) -> dict[str, str]:
    costs = model.plan.costs()
    edge, server = costs["edge"], costs["server"]
    return {
        "backbone": f"{model.recipe.backbone.name}, cut after {model.recipe.cut}",
        "edge half": f"{edge.parameters:,} parameters, {edge.macs:,} MACs per image",
        "server half": f"{server.parameters:,} parameters, {server.macs:,} MACs per image, without heads",
        "held-out images": str(report["images"]),
        "seed": str(model.recipe.seed),
        "command": "splitreg demo",
    }
