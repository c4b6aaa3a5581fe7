"""Two processes on this machine train as one process with the same batches does, missing targets and all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from support.training import train
from support.training_toys import REGISTRY, toy_recipe

KEYS = {
    "backbone": {"name": "toy", "norm": False}, "bottleneck": {"name": "toy", "norm": False, "noise": False},
    "heads": [
        {"name": "toy", "as": "colour", "target": "colour", "dropout": 0.0},
        {"name": "toy", "as": "size", "target": "size", "dropout": 0.0},
    ],
    "teacher": {"backbone": "toy-classifier"},
    "stages": [  # SGD: Adam's first steps have the size of lr however small the gradient, rounding errors too
        {
            "epochs": 3, "batch_size": 4, "rate_lambda": 0.5, "clip": 1.0, "optimizer": {"name": "sgd", "lr": 0.05},
            "objectives": ["sum", {"name": "distill", "weight": 1e-3, "logits": {"colour": 0.5}}],
        },
        {"epochs": 1, "batch_size": 10, "train": ["heads"], "average": 0.5, "optimizer": {"name": "sgd", "lr": 0.05}},
    ],
}  # fmt: skip
SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
from support.training_toys import REGISTRY, toy_recipe
from support.training import train

keys = {keys!r}
train(toy_recipe(*keys.pop("stages"), **keys), output={output!r}, registry=REGISTRY, device="cpu", tensorboard=False)
"""


def weights(folder):
    return load_file(sorted((folder / "checkpoints").iterdir())[-1])


@pytest.mark.slow
def test_two_processes_are_one(tmp_path):
    keys = dict(KEYS)
    recipe = toy_recipe(*keys.pop("stages"), **keys)
    train(recipe, output=tmp_path / "one", registry=REGISTRY, device="cpu", tensorboard=False, progress=False)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parents[2]), keys=KEYS, output=str(tmp_path / "two")))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)],
        capture_output=True, text=True, timeout=170, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("joint 1/3") == 1, "only the first process talks"
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert (tensor.double() - two[name].double()).abs().max() < 1e-4 * (1 + tensor.double().abs().max()), name
    lines = (tmp_path / "two" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines].count("epoch") == 4
