import pytest
import torch
from support.training import train, train_late_head
from support.training_toys import REGISTRY, ToyDataset, toy_recipe

from splitreg.errors import BundleError, RecipeError
from splitreg.training.late import edge_digest

pytestmark = pytest.mark.integration

ONE = [{"name": "toy", "as": "colour", "target": "colour"}]
QUIET = {"registry": REGISTRY, "tensorboard": False, "progress": False, "device": "cpu"}


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    stage = {"epochs": 4, "batch_size": 4, "optimizer": {"name": "adamw", "lr": 1e-2}}
    recipe = toy_recipe(stage, heads=ONE)
    return train(recipe, output=tmp_path_factory.mktemp("first"), **QUIET).model


def test_a_late_head_learns_and_no_byte_changes(tmp_path, first):
    images = [ToyDataset(None, "val")[i].array() for i in range(20)]
    packets, digest = first.edge.encode(images), edge_digest(first)
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    stage = {"epochs": 12, "batch_size": 4, "optimizer": {"name": "adamw", "lr": 3e-2}}
    result = train_late_head(first, toy_recipe(stage), "size", output=tmp_path, **QUIET)
    assert result.model.heads == ("colour", "size") and first.heads == ("colour",)
    assert result.packets_compared > 10 and result.edge_digest == digest == edge_digest(result.model)
    assert result.model.edge.encode(images) == packets
    for name, tensor in result.model.state_dict().items():
        assert name.startswith("branches.size") or torch.equal(tensor, state[name]), f"{name} changed"
    assert result.history[-1]["val"]["size"]["top1"] > 0.8
    found = result.model.server.infer(packets)
    assert [f["colour"].index for f in found] == [f["colour"].index for f in first.server.infer(packets)]
    assert all(parameter.requires_grad for parameter in first.parameters())


def test_it_resumes_like_any_run(tmp_path, first):
    import os
    import signal

    from splitreg.errors import TrainingInterrupted

    recipe = toy_recipe({"epochs": 2, "batch_size": 4})
    whole = train_late_head(first, recipe, "size", output=tmp_path / "whole", **QUIET)

    def stop(line):
        if line["event"] == "step" and line["step"] == 13:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted):
        train_late_head(first, recipe, "size", output=tmp_path / "cut", on_event=stop, log_every=1, **QUIET)
    resumed = train_late_head(first, recipe, "size", output=tmp_path / "cut", resume=True, **QUIET)
    assert resumed.resumed_from == 13
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_what_cannot_be_is_refused(tmp_path, first):
    from splitreg.assembly import build

    with pytest.raises(RecipeError, match="'sise'.*'size'"):
        train_late_head(first, toy_recipe(), "sise", output=tmp_path, **QUIET)
    with pytest.raises(RecipeError, match="'colour'"):
        train_late_head(first, toy_recipe(), "colour", output=tmp_path, **QUIET)
    with pytest.raises(BundleError, match="tables"):
        train_late_head(build(toy_recipe(heads=ONE), registry=REGISTRY), toy_recipe(), "size", output=tmp_path, **QUIET)


def test_a_head_is_not_resumed_on_another_model(tmp_path, first):
    from splitreg.assembly import build
    from splitreg.errors import TrainingError

    recipe = toy_recipe({"epochs": 1, "batch_size": 4})
    train_late_head(first, recipe, "size", output=tmp_path, **QUIET)
    other = build(toy_recipe(heads=ONE, seed=9), registry=REGISTRY)
    other.freeze_tables()
    with pytest.raises(TrainingError, match="another model"):
        train_late_head(other, recipe, "size", output=tmp_path, resume=True, **QUIET)
