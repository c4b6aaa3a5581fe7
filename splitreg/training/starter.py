"""``starter_recipe``: a recipe for a folder of images, with the reasons for its values as comments."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from splitreg.data.loading import Source
from splitreg.data.recognition import detect
from splitreg.errors import RecipeError
from splitreg.evaluation.packets import spread
from splitreg.recipe import Recipe
from splitreg.registry import Registry, discover
from splitreg.specs import TargetSpec
from splitreg.tasks import CLASSIFICATION, DEPTH, DETECTION, MULTILABEL, RECONSTRUCTION, SEGMENTATION, BoxTarget
from splitreg.training.data import open_datasets

#: Number of images that are read to choose the size of the input.
MAX_READ = 32
#: Steps of training from random weights; the epochs follow from it.
STEPS = 3000
MIN_EPOCHS, MAX_EPOCHS = 10, 100
#: Largest side of the input in pixels, by task; objects that become small get the larger one.
MAX_SIDE = {CLASSIFICATION: 224, MULTILABEL: 224, RECONSTRUCTION: 256, SEGMENTATION: 320, DEPTH: 320, DETECTION: 416}
MAX_SIDE_SMALL_OBJECTS = 640
#: Smallest side of the median object in the input, in pixels.
MIN_OBJECT = 24
#: Pixels per batch that fit in the memory of most machines in training.
PIXELS_PER_BATCH = 1_000_000
#: Task -> the head for it, among several plugins.
HEADS = {
    CLASSIFICATION: "cls", DETECTION: "det", SEGMENTATION: "seg", DEPTH: "depth", MULTILABEL: "multilabel",
    RECONSTRUCTION: "recon",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class _Facts:
    """What some images of the training set are like: median height, width and side of an object, in pixels."""

    height: float
    width: float
    object_side: float | None


def starter_recipe(root: str, data: str | None = None, registry: Registry | None = None) -> str:
    """Write a recipe for a folder of one's own images.

    Args:
        root: the folder.
        data: name of the dataset; by default the one that recognises the folder.
        registry: the installed plugins, by default.

    Returns:
        TOML of at most 25 lines.

    Raises:
        DataError: no dataset recognises the folder, or it is damaged.
        RecipeError: no head for its targets is installed.
    """
    registry = registry or discover()
    name, line, others = detect(root, data, registry)
    targets = registry.component("dataset", name).cls.describe(root)
    heads = _heads(targets, registry)
    draft = Recipe.from_mapping({"backbone": "test_resnet", "heads": ["cls"], "data": [{"name": name, "root": root}]})
    with warnings.catch_warnings(record=True) as held_out:  # the recipe states it
        warnings.simplefilter("always")
        datasets = open_datasets(draft, registry)
    facts = _facts(datasets.train)
    size, why_size = _input(facts, [targets[target].task for _, target in heads if target in targets])
    count = len(datasets.train)
    batch = _power_of_two(min(PIXELS_PER_BATCH // (size[0] * size[1]), max(1, count // 4), 32))
    epochs = min(MAX_EPOCHS, max(MIN_EPOCHS, math.ceil(STEPS * batch / count)))
    seen = f"# Also recognised as {', '.join(others)}: splitreg init --data NAME.\n" if others else ""
    validation = f"{len(datasets.val or ())} images" + (", held out of train, validate" if held_out else " validate")
    return f"""\
# {line}
{seen}# Train: splitreg train THIS_FILE --root DIR. {count:,} images train, {validation}.
backbone = "mobilenetv3_small_100"  # light enough for a device; pretrained = true needs fewer images
bottleneck = {{ name = "fp", channels = 24 }}
# One head per target of the dataset: {"; ".join(_reason(target, targets) for _, target in heads)}.
heads = [{", ".join(text for text, _ in heads)}]
# {why_size}
input = {{ size = [{size[0]}, {size[1]}] }}
data = ["{name}"]
augment = {{ scale = [0.7, 1.4], colour = 0.2 }}

[[stages]]
# {epochs} epochs of {count:,} images are {epochs * max(1, count // batch):,} steps; about {STEPS:,} are useful.
epochs = {epochs}
# {batch} images of {size[0]}x{size[1]}: about {PIXELS_PER_BATCH / 1e6:g} million pixels, at least 4 batches per epoch.
batch_size = {batch}
rate_lambda = 0.5  # larger: fewer bytes per image
rate_warmup = {max(1, epochs // 5)}
optimizer = {{ name = "adamw", lr = 2e-3, weight_decay = 0.02 }}
clip = 5.0
"""


def _heads(targets: Mapping[str, TargetSpec], registry: Registry) -> list[tuple[str, str]]:
    """Return head as TOML and its target. Labels per image are left out where boxes or masks contain them."""
    tasks = {spec.task for spec in targets.values()}
    located = {DETECTION, SEGMENTATION} & tasks
    heads: list[tuple[str, str]] = []
    for target, spec in targets.items():
        plugin = _plugin(spec.task, registry)
        if plugin is None or (spec.task == MULTILABEL and located) or spec.task == RECONSTRUCTION:
            continue
        same = [name for name, other in targets.items() if other.task == spec.task]
        short = f'"{plugin}"'
        long = f'{{ name = "{plugin}", as = "{target}", target = "{target}" }}'
        heads.append((short if same == [target] else long, target))
    if not heads:
        if _plugin(RECONSTRUCTION, registry) is None or tasks - {RECONSTRUCTION}:
            raise RecipeError(f"no installed head is for the tasks of the dataset: {', '.join(sorted(tasks))}")
        heads = [('"recon"', RECONSTRUCTION)]
    return heads


def _plugin(task: str, registry: Registry) -> str | None:
    """Return the head for a task: the usual one, or any other that is installed."""
    names = list(registry["head"])
    if HEADS.get(task) in names:
        return HEADS[task]
    return next((name for name in names if registry.component("head", name).cls.task == task), None)


def _reason(target: str, targets: Mapping[str, TargetSpec]) -> str:
    if target not in targets:
        return "images without labels can be reconstructed"
    spec = targets[target]
    count = len(spec.labels)
    classes = f" of {count} class{'es' if count > 1 else ''}" if count else ""
    return f"{spec.task}{classes}"


def _facts(source: Source) -> _Facts:
    heights, widths, sides = [], [], []
    for index in spread(len(source), MAX_READ):
        sample = source[index]
        heights.append(sample.image.shape[-2])
        widths.append(sample.image.shape[-1])
        for target in sample.targets.values():
            if isinstance(target, BoxTarget):
                sides += [math.sqrt(max(0.0, (x1 - x0) * (y1 - y0))) for x0, y0, x1, y1 in target.boxes.tolist()]
    return _Facts(
        height=statistics.median(heights), width=statistics.median(widths),
        object_side=statistics.median(sides) if sides else None,
    )  # fmt: skip


def _input(facts: _Facts, tasks: Sequence[str]) -> tuple[tuple[int, int], str]:
    """Return the size of the input, multiples of 32, and the reason."""
    long = max(facts.height, facts.width)
    side: float = max((MAX_SIDE.get(task, 224) for task in tasks), default=MAX_SIDE[RECONSTRUCTION])
    reason = f"enough for {' and '.join(dict.fromkeys(tasks)) or 'images without labels'}"
    if facts.object_side is not None:
        scaled = facts.object_side * min(1.0, side / long)
        reason += f"; the median object is {scaled:.0f} pixels wide in it"
        if scaled < MIN_OBJECT and long > side:
            side = MAX_SIDE_SMALL_OBJECTS
            reason = f"large, because the median object would be {scaled:.0f} pixels wide in a smaller one"
    scale = min(1.0, side / long)
    size = _multiple(facts.height * scale), _multiple(facts.width * scale)
    return size, f"Images have {facts.width:.0f}x{facts.height:.0f} pixels (median); this size is {reason}."


def _multiple(value: float) -> int:
    return max(64, round(value / 32) * 32)


def _power_of_two(value: float) -> int:
    return 1 << max(0, int(math.log2(max(1.0, value))))
