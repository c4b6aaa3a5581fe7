"""Classes are chosen, renamed and merged for any dataset; images of rare classes come more often."""

import dataclasses
import math
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from support.training_toys import REGISTRY, ToyDataset, toy_recipe
from torchvision import tv_tensors

from splitreg.assembly import plan
from splitreg.cli.eval_ import data_parts
from splitreg.data.balancing import Balanced, image_weights
from splitreg.data.loading import Loader, LoaderOptions, Mixture
from splitreg.data.selection import Selected, describe_dataset, open_dataset, select
from splitreg.errors import PlanError, RecipeError
from splitreg.imaging import Preprocess
from splitreg.recipe import DataPart, Recipe
from splitreg.specs import TargetSpec
from splitreg.tasks import IGNORE, BoxTarget, MaskTarget, MultiLabelTarget, Sample
from splitreg.training.data import open_split

NAMES = ("cat", "car", "bus")
TARGETS = {
    "detection": TargetSpec(task="detection", labels=NAMES),
    "segmentation": TargetSpec(task="segmentation", labels=("background", *NAMES)),
    "parts": TargetSpec(task="segmentation", labels=NAMES),
    "tags": TargetSpec(task="multilabel", labels=NAMES),
    "weather": TargetSpec(task="classification", labels=("sun", "rain")),
    "depth": TargetSpec(task="depth"),
}


class Street:
    """One image with a cat, a car and a bus."""

    targets = TARGETS
    clips = ("a clip",)

    def __len__(self):
        return 1

    def __getitem__(self, index):
        boxes = tv_tensors.BoundingBoxes(torch.eye(4)[:3] + 1, format="XYXY", canvas_size=(8, 8))
        return Sample(
            image=tv_tensors.Image(torch.zeros(3, 8, 8, dtype=torch.uint8)),
            targets={
                "detection": BoxTarget(
                    boxes=boxes, labels=torch.arange(3), crowd=torch.zeros(3, dtype=torch.bool),
                    masks=tv_tensors.Mask(torch.eye(8, dtype=torch.bool)[:3, None].expand(3, 8, 8)),
                    identities=torch.tensor([7, 8, 9]),
                ),
                "segmentation": MaskTarget(mask=tv_tensors.Mask(torch.tensor([[0, 1, 2, 3, IGNORE]]))),
                "parts": MaskTarget(mask=tv_tensors.Mask(torch.tensor([[0, 1, 2, IGNORE]]))),
                "tags": MultiLabelTarget(present=torch.tensor([math.nan, 0.0, 1.0])),
                "weather": None, "depth": None,
            },
        )  # fmt: skip


def part(**keys):
    return DataPart.parse({"name": "toy", **keys}, "data[0]")


def test_a_list_chooses_and_sets_the_order():
    chosen = select(TARGETS, part(classes=["bus", "Cat"]).classes)
    assert chosen["detection"].labels == ("bus", "Cat")
    assert chosen["detection"].indexes == (1, None, 0)
    assert chosen["segmentation"].labels == ("background", "bus", "Cat")
    assert chosen["segmentation"].indexes == (0, 2, 0, 1)  # the car becomes background
    assert chosen["parts"].indexes == (1, None, 0)  # without a background its pixels are unknown
    assert set(chosen) == {"detection", "segmentation", "parts", "tags"}  # no other target has one of them


@pytest.mark.parametrize("classes", [["1", "0", "2"], {"a": "2", "b": "0"}])
def test_classes_are_chosen_by_name_and_never_by_number(classes):
    with pytest.raises(RecipeError, match="no class '[012]'.*cat"):
        select({"detection": TARGETS["detection"]}, part(classes=classes).classes)
    numbered = TargetSpec(task="classification", labels=("0", "1", "2"))
    assert set(select({**TARGETS, "age": numbered}, part(classes=["car", "bus", "cat"]).classes)) == {
        "detection", "segmentation", "parts", "tags"
    }  # fmt: skip
    assert select({"age": numbered}, part(classes=["2", "0"]).classes)["age"].indexes == (1, None, 0)


def test_a_table_renames_and_merges():
    sample = Selected(Street(), part(classes={"vehicle": ["car", "bus"]}).classes)[0]
    boxes = sample.targets["detection"]
    assert boxes.labels.tolist() == [0, 0] and boxes.identities.tolist() == [8, 9]
    assert boxes.boxes.shape == (2, 4) and boxes.masks.shape == (2, 8, 8)
    assert sample.targets["segmentation"].mask.tolist() == [[0, 0, 1, 1, IGNORE]]
    assert sample.targets["parts"].mask.tolist() == [[IGNORE, 0, 0, IGNORE]]
    assert sample.targets["tags"].present.tolist() == [1.0]


def test_a_background_that_is_chosen_is_merged_like_any_class():
    chosen = select(TARGETS, part(classes={"rest": ["background", "cat"], "car": "car"}).classes)
    assert chosen["segmentation"].labels == ("rest", "car")
    assert chosen["segmentation"].indexes == (0, 0, 1, None)


def test_a_merged_tag_is_unknown_where_it_might_be_present():
    tags = MultiLabelTarget(present=torch.tensor([math.nan, 0.0, 1.0, 0.0]))
    merged = tags.relabel((0, 0, 1, 1), 3).present
    assert math.isnan(merged[0]) and merged[1] == 1.0 and math.isnan(merged[2])


def test_everything_else_is_the_datasets_own():
    selected = pickle.loads(pickle.dumps(Selected(Street(), {"cat": ("cat",)})))
    assert selected.clips == ("a clip",) and len(selected) == 1
    assert selected.targets["weather"] == TARGETS["weather"]


@pytest.mark.parametrize(
    ("classes", "facts"),
    [
        ([], "no class"),
        ({"x": []}, "no class"),
        (["a", "a"], "'?a'? twice"),
        ({"x": ["a"], "y": ["a"]}, "a twice"),
        ([1], "names"),
        (3, "names"),
        ({"x": 3}, "x.*names"),
    ],
)
def test_malformed_choices(classes, facts):
    with pytest.raises(RecipeError, match=rf"data\[0\]: classes.*{facts}"):
        part(classes=classes)


def test_a_string_stays_an_option_of_the_dataset():
    assert part(classes="names.txt").options == {"classes": "names.txt"}


def test_the_choice_is_written_and_read_again():
    for classes in (["red"], {"warm": ["red", "green"], "blue": "blue"}):
        first = part(classes=classes, balance=0.5, share=2)
        assert DataPart.parse(first.to_mapping(), "data") == first
    assert part().to_mapping() == {"name": "toy", "train": "train", "val": "val"}


def test_a_recipe_trains_on_the_chosen_classes():
    recipe = toy_recipe(data=[{"name": "toy", "classes": {"warm": ["red", "green"], "blue": "blue"}}])
    planned = plan(recipe, registry=REGISTRY)
    assert planned.heads[0].labels == ("warm", "blue") and planned.heads[1].labels == ("small", "large")
    source = open_split(recipe, "train", REGISTRY)
    assert [source[i].targets["colour"].index for i in range(3)] == [0, 0, 1]
    assert describe_dataset(recipe.data[0], REGISTRY)["colour"].labels == ("warm", "blue")


def test_images_of_other_classes_have_no_target():
    source = open_dataset(part(classes=["blue"]), "train", REGISTRY)
    assert [source[i].targets["colour"] is None for i in range(3)] == [True, True, False]


def test_an_unknown_class_is_a_problem_of_the_plan_with_near_names():
    with pytest.raises(PlanError, match="'gren'.*'?green"):
        plan(toy_recipe(data=[{"name": "toy", "classes": ["red", "gren"]}]), registry=REGISTRY)


def test_eval_measures_on_the_classes_of_the_training_or_on_others():
    recipe = toy_recipe(data=[{"name": "toy", "classes": ["red"]}])
    (same,) = data_parts(recipe, None, None, None, ())
    assert same.classes == {"red": ("red",)}
    (other,) = data_parts(recipe, None, None, None, ('classes={warm=["red","green"]}', "count=3"))
    assert other.classes == {"warm": ("red", "green")} and other.options == {"count": 3}


class Rare(ToyDataset):
    """Nine red images and a blue one."""

    def __getitem__(self, index):
        return dataclasses.replace(super().__getitem__(2 if index == 9 else 0), name=str(index))


def test_weights_follow_the_rarest_class_of_an_image():
    groups = [frozenset("a")] * 6 + [frozenset("ab")] * 2 + [frozenset()] * 2
    weights = image_weights(groups, 1.0)
    assert weights.mean() == pytest.approx(1)
    assert weights[6] / weights[0] == pytest.approx(8 / 2)
    assert weights[8] == weights[6]  # images without a class are as frequent as b
    assert np.allclose(image_weights(groups, 0.0), 1)
    assert image_weights(groups, 0.5)[6] / image_weights(groups, 0.5)[0] == pytest.approx(2)


def test_a_balanced_epoch_repeats_rare_images_and_is_reproducible():
    balanced = Balanced(Rare(None, "train", count=10, missing=False), 1.0)
    generator = torch.Generator().manual_seed(1)
    orders = [balanced.order(generator) for _ in range(200)]
    counts = [Counter(order.tolist()) for order in orders]
    assert {count[9] for count in counts} <= {math.floor(balanced.weights[9]), math.ceil(balanced.weights[9])}
    assert np.mean([count[9] for count in counts]) == pytest.approx(balanced.weights[9], abs=0.1)
    assert all(len(order) == 10 for order in orders)
    options = LoaderOptions(batch_size=5, seed=2)
    preprocess = Preprocess(size=(32, 32), mode="letterbox", mean=(0, 0, 0), std=(1, 1, 1))
    first, second = ([b.indexes for b in Loader(balanced, preprocess, options).epoch(3)] for _ in range(2))
    assert first == second


def test_balance_and_share_of_a_recipe():
    recipe = toy_recipe(data=[{"name": "toy", "balance": 1.0, "share": 3}, {"name": "toy", "count": 40, "share": 1}])
    mixture = open_split(recipe, "train", REGISTRY)
    assert isinstance(mixture.datasets[0], Balanced) and isinstance(mixture.datasets[1], ToyDataset)
    drawn = mixture.order(torch.Generator().manual_seed(0))
    assert len(drawn) == 60 and int((drawn < 20).sum()) == 45
    assert isinstance(open_split(recipe, "val", REGISTRY).datasets[0], ToyDataset)
    alone = Mixture([Balanced(ToyDataset(None, "train"), 1.0), ToyDataset(None, "val")])
    assert len(alone.order(torch.Generator().manual_seed(0))) == 40


@pytest.mark.parametrize(
    ("keys", "facts"),
    [
        ({"balance": 2}, "balance.*2"),
        ({"balance": True}, "balance"),
        ({"share": 0}, "share.*0"),
        ({"share": "x"}, "share"),
    ],
)
def test_balance_and_share_are_checked(keys, facts):
    with pytest.raises(RecipeError, match=facts):
        part(**keys)


def test_all_datasets_or_none_have_a_share():
    with pytest.raises(RecipeError, match="share"):
        Recipe.from_mapping({"backbone": "x", "heads": ["det"], "data": [{"name": "a", "share": 1}, "b"]})
