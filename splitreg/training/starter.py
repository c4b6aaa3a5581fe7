"""``starter_recipe``: a recipe for a folder of images, with the reasons for its values as comments."""

from __future__ import annotations

import json
import math
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from splitreg.data.loading import Source
from splitreg.data.recognition import detect
from splitreg.data.selection import describe_dataset
from splitreg.errors import DataError, RecipeError
from splitreg.evaluation.packets import spread
from splitreg.recipe import DataPart, Recipe
from splitreg.registry import Registry, discover
from splitreg.specs import TargetSpec
from splitreg.tasks import CLASSIFICATION, DEPTH, DETECTION, MULTILABEL, RECONSTRUCTION, SEGMENTATION, BoxTarget
from splitreg.training.data import Datasets, open_datasets

#: Number of images that are read to choose the size of the input.
MAX_READ = 32
#: Steps of training from random and from pretrained weights; the epochs follow from it.
STEPS, PRETRAINED_STEPS = 3000, 600
MIN_EPOCHS, MAX_EPOCHS = 10, 100
#: Backbone of a recipe without another: light enough for a device.
BACKBONE = "mobilenetv3_small_100"
#: Stride of the stage after which a pretrained backbone is cut: the stages before it stay frozen.
PRETRAINED_STRIDE = 8
#: Epochs without a better validation after which training stops, as a share of all.
PATIENCE = 0.4
#: Largest side of the input in pixels, by task; objects that become small get the larger one.
MAX_SIDE = {CLASSIFICATION: 224, MULTILABEL: 224, RECONSTRUCTION: 256, SEGMENTATION: 320, DEPTH: 320, DETECTION: 416}
MAX_SIDE_SMALL_OBJECTS = 640
#: Smallest side of the median object in the input, in pixels.
MIN_OBJECT = 24
#: Number of images up to which objects with outlines are pasted into other images.
FEW_IMAGES = 1000
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


def starter_recipe(
    root: str,
    data: str | None = None,
    *,
    backbone: str | None = None,
    weights: str | None = None,
    classes: Sequence[str] = (),
    registry: Registry | None = None,
) -> str:
    """Write a recipe for a folder of one's own images.

    Args:
        root: the folder.
        data: name of the dataset; by default the one that recognises the folder.
        backbone: name of the backbone.
        weights: file of pretrained weights of the backbone; ``"true"``: the published ones.
        classes: the classes to learn; by default all.
        registry: the installed plugins, by default.

    Returns:
        TOML of at most 25 lines, or 33 with pretrained weights.

    Raises:
        DataError: no dataset recognises the folder, or it is damaged.
        RecipeError: no head for its targets is installed, no such weights, or no such class.
    """
    registry = registry or discover()
    name, line, others = detect(root, data, registry)
    options = _outline_options(name, root, registry) | ({"classes": list(classes)} if classes else {})
    part = {"name": name, "root": root, **options}
    targets = describe_dataset(DataPart.parse(part, "data"), registry)
    heads = _heads(targets, registry)
    datasets, held_out = _open(part, registry)
    size, why_size = _input(_facts(datasets.train), [targets[target].task for _, target in heads if target in targets])
    count, pretrained = len(datasets.train), weights is not None
    pastes = "semantic" in options and count <= FEW_IMAGES
    if "semantic" in options and not pastes:
        options["masks"] = False  # each outline as an image of its own takes time
    batch = _batch_size(size, count, pretrained=pretrained)
    steps, epochs = _epochs(batch, count, pretrained=pretrained)
    validation = f"{len(datasets.val or ())} images" + (", held out of train, validate" if held_out else " validate")
    return f"""\
# {line}
{_alternatives(others)}# Train: splitreg train THIS_FILE --root DIR. {count:,} images train, {validation}.
{_model(backbone or BACKBONE, weights, size, registry)}
# One head per target of the dataset: {"; ".join(_reason(target, targets) for _, target in heads)}.
heads = [{", ".join(text for text, _ in heads)}]
# {why_size}
input = {{ size = [{size[0]}, {size[1]}] }}
data = [{_toml_table({"name": name, **options}) if options else f'"{name}"'}]
augment = {{ preset = "{_preset(targets, heads)}"{", copy_paste = 0.5" if pastes else ""} }}

[[stages]]
# {epochs} epochs of {count:,} images are {epochs * max(1, count // batch):,} steps; about {steps:,} are useful.
epochs = {epochs}
batch_size = {batch}  # at most {PIXELS_PER_BATCH / 1e6:g} million pixels, and several batches per epoch
{_learning(epochs, pretrained=pretrained)}
clip = {20.0 if pretrained else 5.0}
best = "auto"  # keep the weights of the best epoch
patience = {max(5, round(epochs * PATIENCE))}
"""


def _batch_size(size: tuple[int, int], count: int, *, pretrained: bool) -> int:
    pixels = PIXELS_PER_BATCH // (size[0] * size[1])
    return _power_of_two(min(pixels, max(1, count // (10 if pretrained else 4)), 32))


def _epochs(batch: int, count: int, *, pretrained: bool) -> tuple[int, int]:
    """Return useful steps, and epochs for about as many."""
    steps = PRETRAINED_STEPS if pretrained else STEPS
    return steps, min(MAX_EPOCHS, max(MIN_EPOCHS, math.ceil(steps * batch / count)))


def _alternatives(others: Sequence[str]) -> str:
    return f"# Also recognised as {', '.join(others)}: splitreg init --data NAME.\n" if others else ""


def _open(part: Mapping[str, Any], registry: Registry) -> tuple[Datasets, bool]:
    """Open a dataset for training; also whether its validation images are held out of the others."""
    draft = Recipe.from_mapping({"backbone": "test_resnet", "heads": ["cls"], "data": [part]})
    with warnings.catch_warnings(record=True) as held_out:  # the recipe states it
        warnings.simplefilter("always")
        return open_datasets(draft, registry), bool(held_out)


def _model(backbone: str, weights: str | None, size: tuple[int, int], registry: Registry) -> str:
    """Return the lines of backbone, cut and bottleneck."""
    component = registry.component("backbone", backbone)
    if weights is None:
        return (
            f'backbone = "{backbone}"  # splitreg init --weights FILE or true: pretrained ones need far fewer images\n'
            'bottleneck = { name = "fp", channels = 24 }'
        )
    published = weights.lower() == "true"
    if not published and not Path(weights).is_file():
        raise RecipeError(f"there is no file of weights {weights}")
    options = {"pretrained": True if published else str(Path(weights).resolve())}
    reserved = {"image_size": size} if "image_size" in component.parameters else {}
    with torch.device("meta"):
        stages = component.create(options={}, reserved=reserved).stages
    cut = next((name for name, spec in stages.items() if spec.stride >= PRETRAINED_STRIDE), next(iter(stages)))
    return (
        f"backbone = {_toml_table({'name': backbone, **options})}\n"
        f'cut = "{cut}"  # the pretrained stages up to here run on the device\n'
        'bottleneck = { name = "calibrated", rate_range = 4.0 }  # set from some images; rate 0 to 1 when sending'
    )


def _learning(epochs: int, *, pretrained: bool) -> str:
    """Return the lines of what learns, and how fast."""
    optimizer = 'optimizer = { name = "adamw", lr = 2e-3, weight_decay = 0.02 }'
    if pretrained:
        return (
            'freeze = ["prefix", "encoder", "decoder"]  # all before the cut, and the bottleneck\n'
            f"{optimizer}\nbackbone_lr = 0.1  # of the stages after the cut"
        )
    return f"rate_lambda = 0.5  # larger: fewer bytes per image\nrate_warmup = {max(1, epochs // 5)}\n{optimizer}"


def _outline_options(name: str, root: str, registry: Registry) -> dict[str, Any]:
    """Return the options that make classes of pixels from outlines, where a dataset has outlines and no such target."""
    component = registry.component("dataset", name)
    if not {"semantic", "masks"} <= set(component.parameters) or SEGMENTATION in component.cls.describe(root):
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = component.create(root, "all", options={})
    rows = [source[index].targets.get(DETECTION) for index in spread(len(source), MAX_READ // 4)]
    boxes = [target for target in rows if isinstance(target, BoxTarget) and len(target.boxes)]
    outlined = bool(boxes) and all(target.masks is not None for target in boxes)
    options = {"semantic": "instances"}
    try:
        component.cls.describe(root, **options)
    except DataError:  # more classes than a mask can tell apart, or one is named background
        return {}
    return options if outlined else {}


def _preset(targets: Mapping[str, TargetSpec], heads: Sequence[tuple[str, str]]) -> str:
    """Return the augmentation for the tasks of the heads."""
    tasks = {targets[target].task for _, target in heads if target in targets}
    return "detection" if DETECTION in tasks else "segmentation" if SEGMENTATION in tasks else "light"


def _toml_table(values: Mapping[str, Any]) -> str:
    """Return plain values as an inline table of TOML, in which JSON's values are valid.

    >>> _toml_table({"name": "yolo", "masks": False})
    '{ name = "yolo", masks = false }'
    """
    return "{ " + ", ".join(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()) + " }"


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
        options = ", dice = 1.0" if plugin == "seg" else ""  # few pixels of a class count as much as many
        short = f'{{ name = "{plugin}"{options} }}' if options else f'"{plugin}"'
        long = f'{{ name = "{plugin}", as = "{target}", target = "{target}"{options} }}'
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
