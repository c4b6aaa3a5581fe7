"""``demo``: from nothing to a report in a few minutes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splitreg.assembly import EdgeModel, SplitModel, load, save
from splitreg.demo.report import page
from splitreg.errors import TrainingError
from splitreg.evaluation import EvalOptions, evaluate
from splitreg.evaluation.examples import Example, example, jpeg, sheet
from splitreg.files import write_atomic
from splitreg.publishing import verify
from splitreg.recipe import Recipe
from splitreg.registry import Registry
from splitreg.training import TrainOptions, train
from splitreg.training.data import open_split

#: Images that cross to the second process.
SENT = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What the demo leaves behind.

    Args:
        bundle: the published model.
        report: the HTML file.
        metrics: head -> metric -> value on held-out images.
        packet_bytes: mean bytes an image.
        rates: (what, mean bytes an image) of the packet and of ordinary image codecs.
        seconds: wall time of the whole.
    """

    bundle: Path
    report: Path
    metrics: Mapping[str, Mapping[str, float]]
    packet_bytes: float
    rates: Sequence[tuple[str, float]]
    seconds: float


def recipe(overrides: Sequence[str] = ()) -> Recipe:
    """Return the demo's recipe."""
    text = resources.files("splitreg.demo").joinpath("recipe.toml")
    with resources.as_file(text) as path:
        return Recipe.read(path, overrides)


def demo(
    folder: str | Path,
    *,
    overrides: Sequence[str] = (),
    registry: Registry | None = None,
    progress: bool = True,
    say: Callable[[str], None] = lambda line: None,
) -> Demo:
    """Train three heads on procedural scenes, publish, run the halves in two processes, write a report.

    Args:
        folder: gets ``run/`` (checkpoints, logs), ``bundle/`` and ``report.html``; a run that stopped goes on.
        overrides: changes to the recipe, e.g. ``"stages.0.epochs=2"``.
        registry: the installed plugins, by default.
        progress: show progress bars on stderr.
        say: called with a line at each step.

    Raises:
        TrainingError: the server half did not answer, or not with what this process finds.
    """
    start, folder = time.monotonic(), Path(folder)
    asked = recipe(overrides)
    say(f"1/4 training {', '.join(h.name for h in asked.heads)} on {asked.backbone.name}, on images drawn here")
    options = TrainOptions(resume=True, validate_every=4, progress=progress)
    result = train(asked, folder / "run", options=options, registry=registry)
    trained = time.monotonic()
    say("2/4 measuring with real packets")
    held_out = open_split(result.model.recipe, "val", registry)
    report = evaluate(result.model, held_out, EvalOptions(dataset="scenes val", progress=progress)).to_json()
    bundle = save(result.model, folder / "bundle", metrics={"evaluations": [report]}, overwrite=True)
    failed = [check for check in verify(bundle, registry=registry) if not check.passed]
    if failed:
        raise TrainingError(f"the bundle does not verify: {failed[0].name}: {failed[0].detail}")
    say(f"3/4 sending {SENT} held-out images to the server half in a second process")
    samples = [held_out[index] for index in range(min(SENT, len(held_out)))]
    found = cross(bundle, load(bundle, registry=registry), samples)
    say("4/4 writing the report")
    images = [held_out[index].array() for index in range(min(100, len(held_out)))]
    rates = [("packet", float(report["bytes"]["mean"])), *image_rates(images)]
    seconds = time.monotonic() - start
    save(
        result.model, bundle, metrics={"evaluations": [report]}, images={"examples.jpg": jpeg(sheet(found[:4]))}, overwrite=True
    )  # fmt: skip
    out = folder / "report.html"
    html = page(
        title="splitreg demo: one small packet, three tasks",
        summary=[
            f"An image of {asked.input.size[1]}x{asked.input.size[0]} pixels crosses the link as {rates[0][1]:.0f} bytes; "
            f"as PNG it takes {dict(rates)['PNG']:.0f}."
        ],
        rates=rates, metrics=report["metrics"], examples=found,
        facts=_facts(result.model, report, trained - start, seconds),
    )  # fmt: skip
    write_atomic(out, html.encode())
    return Demo(
        bundle=bundle, report=out, metrics=report["metrics"], packet_bytes=rates[0][1], rates=rates, seconds=seconds
    )


def cross(bundle: Path, model: SplitModel, samples: Sequence[Any]) -> list[Example]:
    """Encode samples here, run the server half in another process, and compare its answers with this process's.

    Raises:
        TrainingError: the other process failed, or answered something else.
    """
    edge = EdgeModel.load(bundle)
    packets = [edge.encode(sample.array())[0] for sample in samples]
    stream = io.BytesIO()
    for packet in packets:
        stream.write(len(packet).to_bytes(4, "little") + packet)
    command = [sys.executable, "-m", "splitreg", "infer", str(bundle), "-", "--json"]
    done = subprocess.run(command, input=stream.getvalue(), capture_output=True, timeout=300, check=False)
    if done.returncode != 0:
        raise TrainingError(f"the server half failed: {done.stderr.decode(errors='replace').strip()[-500:]}")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    found = []
    for sample, packet, answer in zip(samples, packets, answers, strict=True):
        predictions = model.server.infer(packet)[0]
        mine = json.loads(json.dumps({name: p.to_json() for name, p in predictions.items()}))
        if answer["predictions"] != mine:
            raise TrainingError(f"the server half answers otherwise than this process for {sample.name}")
        found.append(example(model, sample, packet, predictions))
    return found


def image_rates(images: Sequence[NDArray[np.uint8]]) -> list[tuple[str, float]]:
    """Return the mean bytes an image of ordinary codecs: (what, bytes)."""
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        ("PNG", "PNG", {"optimize": True}), ("WebP lossless", "WEBP", {"lossless": True}),
        ("JPEG 90", "JPEG", {"quality": 90}), ("JPEG 50", "JPEG", {"quality": 50}), ("JPEG 10", "JPEG", {"quality": 10}),
        ("WebP 80", "WEBP", {"quality": 80}), ("WebP 20", "WEBP", {"quality": 20}),
    ]  # fmt: skip
    found = []
    for name, kind, options in kinds:
        sizes = []
        for image in images:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, kind, **options)
            sizes.append(buffer.tell())
        found.append((name, float(np.mean(sizes))))
    return found


def _facts(model: SplitModel, report: Mapping[str, Any], training: float, whole: float) -> dict[str, str]:
    costs = model.plan.costs()
    return {
        "backbone": f"{model.recipe.backbone.name}, cut after {model.recipe.cut}",
        "edge half": f"{costs['edge'].parameters:,} parameters, {costs['edge'].macs:,} MACs an image",
        "server half": f"{costs['server'].parameters:,} parameters, {costs['server'].macs:,} MACs an image, without heads",
        "held-out images": str(report["images"]),
        "seed": str(model.recipe.seed),
        "training": f"{training:.0f} s",
        "whole demo": f"{whole:.0f} s",
        "command": "splitreg demo",
    }
