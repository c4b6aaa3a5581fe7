"""Try every backbone x bottleneck x codec x head: plan, build, one training step, save, load, one packet round trip.

    python benchmarks/combinations.py [--apart] [--shard 0/2] [--limit N] > combinations.json

Every head of a model is a branch of its own, so one model with all heads tries them all; ``--apart`` builds a model for each.
Prints JSON: how many combinations ran, how many the plan refused (with the reason), how many failed later (should be none).
"""

import argparse
import collections
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import splitreg
from splitreg.assembly import load, save
from splitreg.data.loading import Loader, LoaderOptions
from splitreg.errors import PlanError

#: Small members of twelve families: convolutional, mobile, hybrid, hierarchical and plain transformers.
BACKBONES = (
    "resnet18", "mobilenetv3_small_050", "test_efficientnet", "convnext_atto", "regnetx_002", "vgg11", "test_vit",
    "swin_tiny_patch4_window7_224", "pvt_v2_b0", "mobilevit_xxs", "densenet121", "levit_128s",
)  # fmt: skip
#: Options that keep the largest parts small.
_SMALL = {"channels": 8, "hidden": 16, "decoder_hidden": 16}
OPTIONS = {"fp": _SMALL, "shp": {**_SMALL, "hyper_hidden": 16}, "mshp": {**_SMALL, "hyper_hidden": 16}}
SIZE = (64, 64)
SIZES = {"swin_tiny_patch4_window7_224": (224, 224), "levit_128s": (224, 224)}
LABELS = ("one", "two", "three")
#: Heads that do not fit the scenes: they have no keypoints, and not the classes of ImageNet.
UNFIT = {"pose-keypointrcnn": "needs a target", "cls-timm": "has 1000 classes"}


def recipe(backbone: str, bottleneck: str, codec: str, heads: tuple[str, ...]) -> splitreg.Recipe:
    return splitreg.Recipe.from_mapping(
        {
            "backbone": backbone, "bottleneck": {"name": bottleneck, **OPTIONS.get(bottleneck, {})}, "codec": codec,
            "heads": [{"name": "cls-timm", "model": backbone} if head == "cls-timm" else head for head in heads],
            "input": {"size": list(SIZES.get(backbone, SIZE))}, "data": {"name": "scenes", "count": 2},
        }
    )  # fmt: skip


def scenes(count: int = 2):
    """A few scenes, every task's target in them."""
    registry = splitreg.discover()
    return registry.load(registry.spec("dataset", "scenes"))(None, "train", count=count)


def attempt(backbone: str, bottleneck: str, codec: str, heads: tuple[str, ...], folder: Path, dataset) -> str:
    """Return "ok" or "refused: reason"; anything that fails later raises."""
    try:
        planned = splitreg.plan(recipe(backbone, bottleneck, codec, heads))
    except PlanError as error:
        return "refused: " + "; ".join(error.problems)
    model = splitreg.build(planned).train()
    batch = next(
        iter(Loader(dataset, planned.preprocess, LoaderOptions(batch_size=len(dataset), shuffle=False)).epoch(0))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    output = model(batch.images)
    losses = model.loss(output.outputs, {head.name: batch.targets[head.target] for head in planned.heads})
    loss = sum(value for parts in losses.values() for value in parts.values()) + 1e-6 * output.rate.mean()
    if not torch.isfinite(loss):
        raise RuntimeError(f"the loss is {loss}")
    loss.backward()
    optimizer.step()
    model.eval()
    bundle = save(model, folder / "bundle")
    loaded = load(bundle)
    packet = loaded.edge.encode(dataset[0].array())[0]
    before, after = model.server.infer(packet)[0], loaded.server.infer(packet)[0]
    for head, prediction in before.items():
        for name, array in prediction.arrays().items():
            if not np.array_equal(array, after[head].arrays()[name]):
                raise RuntimeError(f"{head}: {name} differs after loading")
    return "ok"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shard", default="0/1")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--apart", action="store_true", help="one model for every head")
    args = parser.parse_args()
    torch.set_num_threads(1)
    registry = splitreg.discover()
    names = [head for head in registry["head"] if head not in UNFIT]
    heads = [(head,) for head in names] if args.apart else [tuple(names)]
    every = list(itertools.product(BACKBONES, registry["bottleneck"], registry["codec"], heads))
    index, count = map(int, args.shard.split("/"))
    dataset, outcomes, failures, reasons = scenes(), collections.Counter(), [], collections.Counter()
    start = time.monotonic()
    for number, combination in enumerate(every[index::count][: args.limit]):
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcome = attempt(*combination, Path(folder), dataset)
            except Exception as error:
                outcome = "failed"
                failures.append({"combination": combination, "error": f"{type(error).__name__}: {error}"})
        outcomes[outcome.partition(":")[0]] += 1
        if outcome.startswith("refused"):
            reasons[outcome] += 1
        if number % 10 == 0:
            print(number, dict(outcomes), f"{time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    print(json.dumps({
        "models": sum(outcomes.values()), "heads_in_a_model": len(heads[0]), **outcomes,
        "seconds": round(time.monotonic() - start),
        "refusals": dict(reasons), "failures": failures, "torch": torch.__version__,
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
