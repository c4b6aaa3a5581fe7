"""A run that is cut short anywhere and resumed ends with the weights of one that was not: bit for bit, on the CPU."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.training import train
from support.training_toys import REGISTRY, toy_recipe

from splitreg.errors import TrainingError, TrainingInterrupted

pytestmark = pytest.mark.integration

# three stages: noise, dropout, an average, a frozen encoder; 20 images in batches of 3 leave out two of every epoch
STAGES = (
    {
        "name": "first",
        "epochs": 2,
        "batch_size": 3,
        "rate_lambda": 0.1,
        "rate_warmup": 1.0,
        "average": 0.9,
        "clip": 1.0,
    },
    {"name": "second", "epochs": 1, "batch_size": 5, "freeze": ["edge"], "optimizer": {"name": "sgd", "lr": 0.01}},
)
KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from support.training_toys import REGISTRY, toy_recipe
from support.training import train

def kill(line):
    if line["event"] == "step" and line["step"] == {step}:
        os.kill(os.getpid(), signal.SIGKILL)

train(toy_recipe(*{stages!r}), output={output!r}, registry=REGISTRY, checkpoint_steps=4, log_every=1, on_event=kill,
      tensorboard=False)
"""


def run(folder, **options):
    options = {
        "registry": REGISTRY,
        "tensorboard": False,
        "progress": False,
        "log_every": 1,
        "device": "cpu",
        **options,
    }
    return train(toy_recipe(*STAGES), output=folder, **options)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


def lines(folder):
    return [json.loads(line) for line in (Path(folder) / "log.jsonl").read_text().splitlines()]


def assert_same(result, whole):
    theirs = whole.model.state_dict()
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(tensor, theirs[name]), f"{name} differs"
    timing = ("seconds", "images_per_s")
    plain = [[{k: v for k, v in e.items() if k not in timing} for e in r.history] for r in (result, whole)]
    assert plain[0] == plain[1]
    for event in ("step", "epoch", "start", "end"):
        found = [[line.get("step") for line in lines(r.output) if line["event"] == event] for r in (result, whole)]
        assert found[0] == found[1], f"{event} lines are missing or come twice"


# 6 steps an epoch, twice, then 4: within an epoch, at its end, at a stage's end, in the last stage, at the very end
@pytest.mark.parametrize("step", [1, 6, 8, 12, 14, 16])
def test_stopped_by_a_signal_and_resumed(tmp_path, whole, step):
    def stop(line):
        if line["event"] == "step" and line["step"] == step:
            os.kill(os.getpid(), signal.SIGTERM if step % 2 else signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)  # not the default where a shell started the tests in the background
    with pytest.raises(TrainingInterrupted, match=rf"step {step}\b.*checkpoints.*resume"):
        run(tmp_path, on_event=stop)
    assert signal.getsignal(signal.SIGINT) is before, "handlers must be back"
    result = run(tmp_path, resume=True)
    assert result.resumed_from == step
    assert_same(result, whole)


@pytest.mark.parametrize("step", [10])
def test_killed_and_resumed(tmp_path, whole, step):
    script = KILLED.format(tests=str(Path(__file__).parents[2]), step=step, stages=STAGES, output=str(tmp_path))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert lines(tmp_path)[-1]["step"] == step
    result = run(tmp_path, resume=True)
    assert result.resumed_from == 8
    assert_same(result, whole)


def test_a_damaged_checkpoint_costs_only_the_steps_after_the_one_before(tmp_path, whole):
    def stop(line):
        if line["event"] == "step" and line["step"] == 8:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted):
        run(tmp_path, on_event=stop)
    newest = sorted((tmp_path / "checkpoints").iterdir())[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    result = run(tmp_path, resume=True)
    assert result.resumed_from == 6
    assert_same(result, whole)


def test_a_finished_run_resumes_to_itself(whole):
    assert_same(run(whole.output, resume=True, on_event=lambda line: None), whole)


def test_a_run_is_not_overwritten(whole):
    with pytest.raises(TrainingError, match=f"{whole.output}.*resume"):
        run(whole.output)


def test_a_changed_recipe_is_refused_and_every_difference_named(whole):
    changed = toy_recipe({**STAGES[0], "clip": 2.0}, STAGES[1], seed=4)
    with pytest.raises(TrainingError, match=r"seed: \D*3\D*4;.*stages\.0\.clip: \D*1\.0\D*2\.0") as error:
        train(changed, output=whole.output, resume=True, registry=REGISTRY)
    assert "epochs" not in str(error.value)


def test_no_file_of_a_run_is_a_pickle(whole):
    kinds = {path.suffix or path.name for path in whole.output.rglob("*") if path.is_file()}
    assert kinds == {".json", ".jsonl", ".safetensors", ".lock"}
    assert (whole.output / ".lock").read_text().isdigit(), "the number of a process"
    assert lines(whole.output)[0]["event"] == "start"
