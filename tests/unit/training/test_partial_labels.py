"""Several datasets with labels for some heads each: renamed targets, shares, and images without labels."""

import pytest
import torch
from support.training import train
from support.training_toys import REGISTRY, Spy, ToyDataset, toy_recipe

from splitreg.assembly import build, plan, save
from splitreg.data.loading import Mixture
from splitreg.data.selection import Renamed
from splitreg.errors import PlanError, RecipeError
from splitreg.recipe import DataPart, Recipe
from splitreg.training.data import open_split
from splitreg.training.step import select_rows

QUIET = {"registry": REGISTRY, "tensorboard": False, "progress": False, "device": "cpu", "validate_every": 0}
SPY = {"epochs": 1, "batch_size": 10, "objectives": ["spy"]}


def test_an_objective_may_ask_for_outputs_on_all_images(tmp_path, monkeypatch):
    teacher = str(save(build(toy_recipe(seed=11), registry=REGISTRY), tmp_path / "teacher"))
    contexts = []
    for heads in ((), ("size",)):
        monkeypatch.setattr(Spy, "unlabelled_heads", heads)
        Spy.seen.clear()
        train(toy_recipe(SPY, teacher={"bundle": teacher}), output=tmp_path / f"run-{len(heads)}", **QUIET)
        contexts.append(Spy.seen[0])
    few, everything = contexts
    assert len(few.outputs["size"]) < len(few.images) == len(everything.outputs["size"])
    assert len(everything.teacher_outputs["size"]) == len(everything.images)
    assert everything.losses.keys() == few.losses.keys()


def test_a_head_without_any_target_learns_from_a_teacher(tmp_path):
    heads = [
        {"name": "toy", "as": "colour", "target": "colour"},
        {"name": "toy", "as": "size", "target": "none", "labels": ["small", "large"]},
    ]
    teacher = str(save(build(toy_recipe(seed=11), registry=REGISTRY), tmp_path / "teacher"))
    objectives = [{"name": "distill", "weight": 0.0, "logits": {"size": 1.0}, "unlabelled": True}]
    stage = {"epochs": 2, "batch_size": 4, "objectives": objectives, "train": ["heads.size"]}
    recipe = toy_recipe(stage, heads=heads, teacher={"bundle": teacher})
    before = build(recipe, registry=REGISTRY).head("size").state_dict()
    model = train(recipe, output=tmp_path / "run", **QUIET).model
    assert any(not torch.equal(value, before[name]) for name, value in model.head("size").state_dict().items())


def recipe_of(*data):
    return toy_recipe(data=list(data))


def test_targets_are_renamed_and_left_out():
    data = {"name": "toy", "targets": {"colour": "hue", "size": ""}}
    source = open_split(recipe_of(data), "train", REGISTRY)
    assert isinstance(source, Renamed) and set(source.targets) == {"hue"} == set(source[0].targets)
    assert source[3].targets["hue"].index == ToyDataset(None, "train")[3].targets["colour"].index
    heads = [{"name": "toy", "as": "colour", "target": "hue"}]
    planned = plan(toy_recipe(data=[data], heads=heads), registry=REGISTRY)
    assert planned.heads[0].labels == ToyDataset.describe(None)["colour"].labels
    part = DataPart.parse(data, "data")
    assert DataPart.parse(part.to_mapping(), "data") == part


def test_shares_weight_the_datasets_in_training_only():
    data = [{"name": "toy", "share": 3}, {"name": "toy", "count": 10, "share": 1}]
    source = open_split(recipe_of(*data), "train", REGISTRY)
    assert isinstance(source, Mixture) and source.weights == [3, 1]
    assert open_split(recipe_of(*data), "val", REGISTRY).weights is None
    with pytest.raises(RecipeError, match="share"):
        open_split(recipe_of({"name": "toy", "share": 3}, "toy"), "train", REGISTRY)


@pytest.mark.parametrize("data", [{"share": 0}, {"share": "much"}, {"targets": ["colour"]}, {"targets": {"colour": 3}}])
def test_invalid_keys(data):
    with pytest.raises(RecipeError, match=next(iter(data))):
        Recipe.from_mapping({**toy_recipe().to_mapping(), "data": [{"name": "toy", **data}]})


def test_a_target_that_the_dataset_does_not_have_is_refused():
    with pytest.raises(PlanError, match=r"color.*colour"):
        plan(recipe_of({"name": "toy", "targets": {"color": "hue"}}), registry=REGISTRY)


def test_rows_of_any_output():
    rows, values = torch.tensor([2, 0]), torch.arange(6.0).reshape(3, 2)
    picked = select_rows({"a": values, "b": [values, (values, 3)], "c": None}, rows)
    assert torch.equal(picked["a"], values[rows]) and torch.equal(picked["b"][1][0], values[rows])
    assert picked["b"][1][1] == 3 and picked["c"] is None and select_rows(values, None) is values
