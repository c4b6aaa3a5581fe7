"""What the training loop costs over a bare PyTorch loop on the same model and the same data.

Both take the same steps (forward, losses, backward, AdamW) on the same batches, held in memory, in rounds that take turns,
so that a busy machine slows both. Writes JSON: the ratio of every round, and their median.

    python benchmarks/training_overhead.py --rounds 9 --steps 20 > overhead.json
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from splitreg.assembly import build
from splitreg.data.classes import match_heads
from splitreg.evaluation.report import hardware, versions
from splitreg.imaging import Preprocess
from splitreg.progress import Bar, Progress
from splitreg.recipe import Recipe
from splitreg.training import TrainOptions
from splitreg.training.checkpoint import Checkpoints
from splitreg.training.data import DataLoaders, Datasets, open_split
from splitreg.training.interrupts import Interrupts
from splitreg.training.log import RunLog
from splitreg.training.loop import Loop, Position
from splitreg.training.setup import Run
from splitreg.training.stage import StageRun
from splitreg.training.step import step_batch


class Held:
    """Batches in memory, for both loops."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def epoch(self, epoch, start=0):
        return iter(self.batches[start:])


def bare(model, batches, targets, optimizer, device):
    """A loop written by hand."""
    model.train()
    for batch in batches:
        inputs = step_batch(batch, targets, device)
        output = model(inputs.images, inputs.select)
        losses = model.loss(output.outputs, {name: inputs.targets[name] for name in output.outputs})
        total = sum(value for parts in losses.values() for value in parts.values())
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
    if device.type == "cuda":
        torch.cuda.synchronize()


def parse_arguments():
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--bottleneck", default="quantise")
    parser.add_argument("--cut", default=None)
    parser.add_argument("--heads", default="cls,seg")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def recipe_of(options):
    """Return the recipe of the model to train."""
    table = {
        "backbone": options.backbone, "bottleneck": options.bottleneck, "heads": options.heads.split(","),
        "input": {"size": [options.size, options.size]}, "data": ["scenes"],
        "stages": [{"epochs": 1, "batch_size": options.batch, "schedule": "constant"}],
    }  # fmt: skip
    if options.cut:
        table["cut"] = options.cut
    return Recipe.from_mapping(table)


def main():
    """Measure and print."""
    options = parse_arguments()
    models = [build(recipe_of(options)) for _ in range(2)]
    recipe = models[0].recipe
    source = open_split(recipe, "train")
    targets = match_heads(models[0].plan.heads, source.targets)
    loaders = DataLoaders(
        recipe=recipe, datasets=Datasets(train=source),
        preprocess=Preprocess(size=(options.size, options.size)),
    )  # fmt: skip
    loader, held = loaders.train(options.batch), []
    for batch in loader.epoch(0):
        held.append(batch)
        if len(held) == options.steps:
            break
    batches = Held(held)
    run = Run(
        model=models[0], recipe=recipe, folder=Path(), loaders=loaders, registry=models[0].plan.registry
    )  # fmt: skip
    stage_run = StageRun(run, 0, steps_per_epoch=len(batches), device=options.device)
    device = stage_run.device
    models[1].to(device)
    optimizer = torch.optim.AdamW([p for p in models[1].parameters() if p.requires_grad], lr=1e-3, weight_decay=1e-2)
    ratios, seconds = [], []
    with tempfile.TemporaryDirectory() as folder, Interrupts() as interrupts:
        log = RunLog(Path(folder), tensorboard=True)
        loop = Loop(
            run=run, options=TrainOptions(), checkpoints=Checkpoints(Path(folder)), log=log, progress=Progress(),
            position=Position(),
        )  # fmt: skip
        loop.interrupts, loop._stage_run = interrupts, stage_run

        def ours():
            loop.position.batch, loop.position.epoch = 0, 0
            loop._run_epoch(batches, 0, Bar())

        def theirs():
            bare(models[1], held, targets, optimizer, device)

        for number in range(options.rounds + 1):
            spent = {}
            for name, call in [("splitreg", ours), ("bare", theirs)][:: 1 if number % 2 else -1]:
                begun = time.perf_counter()
                call()
                spent[name] = (time.perf_counter() - begun) / len(held)
            if number:  # the first round warms up
                ratios.append(spent["splitreg"] / spent["bare"])
                seconds.append(spent)
            print(f"round {number}: {spent}", file=sys.stderr)
        log.close()
    result = {
        "what": "seconds a step, splitreg's loop over a bare PyTorch loop", "median_ratio": statistics.median(ratios),
        "ratios": ratios, "seconds_per_step": seconds, "options": vars(options), "device": str(device),
        "hardware": hardware(), "versions": versions(), "threads": torch.get_num_threads(),
    }  # fmt: skip
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
