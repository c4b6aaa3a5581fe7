"""Every objective trains heads whose labels come from different datasets, in one run."""

import dataclasses

import pytest
import torch
from support.training import train

from splitreg.assembly import build
from splitreg.data.loading import Mixture
from splitreg.errors import RecipeError
from splitreg.recipe import Recipe
from splitreg.registry import discover
from splitreg.training import Datasets, open_split
from splitreg.training.objectives import create_objectives

HEADS = {"cls": "classification", "det": "detection", "seg": "segmentation"}
OBJECTIVES = {
    "sum": ["sum"],
    "uncertainty": ["uncertainty"],
    "surgery": ["surgery"],
    "surgery-features": [{"name": "surgery", "method": "mgda", "by": "features"}],
    "compressibility": ["sum", {"name": "compressibility", "weight": 0.1}],
    "distill": ["sum", {"name": "distill", "weight": 1e-4, "logits": {"cls": 0.5, "seg": 0.5}, "temperature": 2.0}],
    "code-length": ["sum", {"name": "code-length", "weight": 0.01}],
    "inversion": ["sum", {"name": "inversion", "weight": 0.1}],
}
KEYS = {
    "backbone": "mobilenetv3_small_050", "bottleneck": {"name": "fp", "encoder": "light", "channels": 4},
    "heads": ["cls", {"name": "det", "width": 16}, {"name": "seg", "width": 16}], "input": {"size": [64, 64]},
    "data": {"name": "scenes", "size": 64, "count": 6},
}  # fmt: skip


class Only:
    """A dataset that gives one kind of label."""

    def __init__(self, source, target):
        self._source, self._target = source, target
        self.targets = {target: source.targets[target]}

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        sample = self._source[index]
        return dataclasses.replace(sample, targets={self._target: sample.targets[self._target]})


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITREG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield open_split(Recipe.from_mapping(KEYS), "train")


def test_all_objectives_are_here():
    firstparty = {name for name, entry in discover()["objective"].items() if entry.package == "splitreg"}
    assert firstparty == {o if isinstance(o, str) else o["name"] for used in OBJECTIVES.values() for o in used}


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_labels_of_three_datasets_train_together(name, precision, scenes, tmp_path):
    stage = {"epochs": 1, "batch_size": 3, "objectives": OBJECTIVES[name], "rate_lambda": 0.01, "precision": precision}
    recipe = Recipe.from_mapping({**KEYS, "stages": [{**stage, "optimizer": {"name": "sgd", "lr": 1e-3}}]})
    model = build(recipe)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    mixed = Datasets(train=Mixture([Only(scenes, target) for target in HEADS.values()]))
    seen = []
    result = train(
        recipe, model=model, output=tmp_path, datasets=mixed, teacher=build(dataclasses.replace(recipe, seed=1)),
        device="cpu", tensorboard=False, progress=False, log_every=1, on_event=seen.append,
    )  # fmt: skip
    steps = [{part.split(".")[0] for part in line["train"]} & set(HEADS) for line in seen if line["event"] == "step"]
    assert any(len(heads) < 3 for heads in steps), "some batch lacks some labels"
    assert set().union(*steps) == set(HEADS)
    after = result.model.state_dict()
    for part in (*(f"branches.{head}." for head in HEADS), "body.", "bottleneck.encoder.", "bottleneck.decoder."):
        moved = [key for key in after if key.startswith(part) and not torch.equal(after[key], before[key])]
        assert any("weight" in key for key in moved), f"{part} did not learn"
    assert all(bool(tensor.isfinite().all()) for tensor in after.values())


def test_an_objective_that_fails_when_it_is_built_is_named():
    wrong = {"objectives": [{"name": "distill", "logits": 3}]}
    (stage,) = Recipe.from_mapping({**KEYS, "stages": [wrong]}).stages
    with pytest.raises(RecipeError, match="distill"):
        create_objectives(stage, ["cls"], discover())


def test_the_code_length_makes_steps_coarser(scenes, tmp_path):
    """A bottleneck with learned steps gives its symbols to the objective; the packets get smaller."""
    sizes = []
    for weight in (0.0, 1.0):
        bottleneck = {"name": "quantise", "percentile": 99.9, "learned_steps": True, "surrogate": "jpeg"}
        stage = {"epochs": 6, "batch_size": 3, "objectives": ["sum", {"name": "code-length", "weight": weight}]}
        stage["optimizer"] = {"name": "adamw", "lr": 5e-3}
        keys = {**KEYS, "bottleneck": bottleneck, "codec": "png", "heads": ["cls"], "stages": [stage]}
        options = {"device": "cpu", "tensorboard": False, "progress": False}
        result = train(
            Recipe.from_mapping(keys), output=tmp_path / str(weight), datasets=Datasets(train=scenes), **options
        )
        image = scenes[0].array()
        sizes.append(len(result.model.edge.encode(image)[0]))
        assert (result.model.bottleneck.log_gain < 0).all() == (weight > 0)
    assert sizes[1] < 0.9 * sizes[0]
