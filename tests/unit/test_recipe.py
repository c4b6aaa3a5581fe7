import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitreg.errors import RecipeError
from splitreg.recipe import Recipe

LEAST = {"backbone": "resnet50", "heads": ["det"]}


def recipe(*overrides, **keys):
    return Recipe.from_mapping({**LEAST, **keys}, overrides)


def test_defaults():
    found = recipe()
    assert (found.bottleneck.name, found.bottleneck.source, found.codec, found.cut) == ("fp", None, None, None)
    assert found.input.size == (224, 224) and found.stages == () and found.seed == 0
    assert found.heads[0].plugin == found.heads[0].name == "det"


def test_short_forms_stand_for_tables():
    assert recipe(heads="det, seg") == recipe(heads=[{"name": "det"}, {"name": "seg"}])
    assert recipe(data="coco", stages={"epochs": 2}) == recipe(data=[{"name": "coco"}], stages=[{"epochs": 2}])
    assert recipe(input={"size": 96}) == recipe(input={"size": [96, 96]})
    assert recipe(heads=[{"name": "cls", "labels": 2}]).heads[0].labels == ("class 0", "class 1")
    assert recipe(stages={"train": "heads"}).stages[0].train == ("heads",)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"bottelneck": "fp"}, "no key 'bottelneck'. Did you mean 'bottleneck'"),
        ({"stages": [{"epohcs": 3}]}, r"stages\[0\] has no key 'epohcs'. Did you mean 'epochs'"),
        ({"input": {"siez": 3}}, "input has no key 'siez'. Did you mean 'size'"),
        ({"input": {"qqq": 3}}, "It knows: size, mode"),
        ({"input": {"size": [0, 5]}}, "size must be"),
        ({"input": {"size": True}}, "size must be"),
        ({"input": {"mode": "crop"}}, "mode must be 'letterbox' or 'resize'"),
        ({"heads": []}, "at least one head"),
        ({"heads": ["det", "det"]}, "two heads are named 'det'"),
        ({"heads": [{"name": "cls", "as": "../x"}]}, "as must be letters"),
        ({"heads": [{"name": "cls", "as": ""}]}, "as must be letters"),
        ({"heads": [{"name": "cls", "labels": 0}]}, "labels must be"),
        ({"heads": [{"name": "cls", "labels": [1]}]}, "labels must be"),
        ({"heads": [{"name": "cls", "target": 3}]}, "target must be str or nothing"),
        ({"heads": [{"as": "cls"}]}, r"heads\[0\] must be a name or a table with a name"),
        ({"backbone": ""}, "backbone must be a name"),
        ({"backbone": 3}, "backbone must be a name"),
        ({"codec": ["rans"]}, "codec must be a name"),
        ({"bottleneck": {"name": "fp", "from": "layer1"}}, "from must be 'image' or 'feature'"),
        ({"seed": "x"}, "seed must be int"),
        ({"seed": True}, "seed must be int"),
        ({"cut": 3}, "cut must be str"),
        ({"augment": [1]}, "augment must be Mapping"),
        ({"stages": [{"epochs": 0}]}, "epochs must be at least 1"),
        ({"stages": [{"epochs": 1.5}]}, "epochs must be int"),
        ({"stages": [{"clip": -1}]}, "clip must be zero or more"),
        ({"stages": [{"rate_lambda": float("nan")}]}, "rate_lambda must be zero or more"),
        ({"stages": [{"rate_lambda": "big"}]}, "rate_lambda must be int or float"),
        ({"stages": [{"average": 1.0}]}, "average must be below 1"),
        ({"stages": [{"precision": "8-bit"}]}, "precision must be"),
        ({"stages": [{"train": 3}]}, "train must be a list of names"),
        ({"stages": ["joint"]}, r"stages\[0\] must be Mapping"),
        ({"sweep": {"bottleneck.channels": []}}, "sweep.bottleneck.channels must be a list"),
        ({"data": [{"name": "coco", "train": 1}]}, "train must be str"),
    ],
)
def test_what_is_wrong_is_said_where(keys, message):
    with pytest.raises(RecipeError, match=message):
        recipe(**keys)


@pytest.mark.parametrize("missing", ["backbone", "heads"])
def test_what_is_missing_is_shown_by_example(missing):
    with pytest.raises(RecipeError, match=f"no {missing}; say for instance {missing} ="):
        Recipe.from_mapping({key: value for key, value in LEAST.items() if key != missing})


def test_overrides():
    found = recipe(
        "bottleneck.channels=24", "heads.det.threshold=0.5", "stages.0.epochs=3", "stages.fine.epochs=4", "cut=layer1",
        "input.size=[64, 96]", "codec=zstd", "data.coco.root=/some/where", "backbone.name=resnet18",
        stages=[{"epochs": 1}, {"name": "fine"}], data=["coco"],
    )  # fmt: skip
    assert found.bottleneck.name == "fp" and found.bottleneck.options == {"channels": 24}
    assert found.heads[0].options == {"threshold": 0.5}
    assert [stage.epochs for stage in found.stages] == [3, 4]
    assert (found.cut, found.input.size, found.codec.name) == ("layer1", (64, 96), "zstd")
    assert found.data[0].root == "/some/where" and found.backbone.name == "resnet18"


def test_overrides_find_their_place_in_short_forms():
    found = Recipe.from_mapping(
        {"backbone": "resnet50", "heads": "det,seg", "data": "coco", "stages": {"epochs": 1}},
        ["heads.seg.width=8", "data.coco.val=test", "stages.0.epochs=2"],
    )
    assert found.heads[1].options == {"width": 8} and found.data[0].val == "test" and found.stages[0].epochs == 2
    assert [head.name for head in recipe("heads=cls,depth").heads] == ["cls", "depth"]


def test_an_override_of_the_default_bottleneck_keeps_its_name():
    assert Recipe.from_mapping(LEAST, ["bottleneck.channels=24"]).bottleneck.name == "fp"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("bottleneck.channels", "reads key=value"),
        ("=3", "reads key=value"),
        ("heads.seg.x=1", "no 'seg'; there are: det"),
        ("heads.4.x=1", "no '4'; there are: det"),
        ("stages.0.epochs=1", "no '0'; the list is empty"),
        ("seed.x=1", "which has no keys"),
        ("bakcbone=x", "no key 'bakcbone'"),
    ],
)
def test_wrong_overrides(override, message):
    with pytest.raises(RecipeError, match=message):
        recipe(override, seed=3)


def test_the_given_table_is_not_changed():
    table = {**LEAST, "bottleneck": {"name": "fp", "channels": 3}, "stages": [{"epochs": 1}]}
    kept = copy.deepcopy(table)
    Recipe.from_mapping(table, ["bottleneck.channels=4", "stages.0.epochs=7"])
    assert table == kept


def test_sweep_points():
    found = recipe(
        bottleneck={"name": "fp", "channels": 1}, stages=[{"epochs": 1}, {"epochs": 2}],
        sweep={"rate_lambda": [0.1, 0.2], "bottleneck.channels": [8, 16, 24]},
    )  # fmt: skip
    points = dict(found.points())
    assert list(points)[:2] == ["rate_lambda=0.1,bottleneck.channels=8", "rate_lambda=0.1,bottleneck.channels=16"]
    assert len(points) == 6
    last = points["rate_lambda=0.2,bottleneck.channels=24"]
    assert [stage.rate_lambda for stage in last.stages] == [0.2, 0.2] and last.bottleneck.options["channels"] == 24
    assert not last.sweep and found.bottleneck.options["channels"] == 1


def test_a_recipe_without_a_sweep_is_its_own_only_point():
    assert list(recipe().points()) == [("", recipe())]


def test_a_sweep_over_something_that_is_not_there_is_an_error():
    with pytest.raises(RecipeError):
        list(recipe(sweep={"botleneck.channels": [1]}).points())


def test_read(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('backbone = "resnet50"\nheads = ["det"]\n[bottleneck]\nname = "fp"\nfrom = "image"\n')
    assert Recipe.read(path, ["seed=4"]) == recipe(bottleneck={"name": "fp", "from": "image"}, seed=4)
    with pytest.raises(RecipeError, match="cannot read the recipe .*gone.toml"):
        Recipe.read(tmp_path / "gone.toml")
    for bad in (b"backbone = ", b"\xff\xfe"):
        path.write_bytes(bad)
        with pytest.raises(RecipeError, match="is not TOML"):
            Recipe.read(path)


NAMES = st.text("abcdefgh-", min_size=1, max_size=8).filter(lambda name: name.strip("-"))
VALUES = st.one_of(st.booleans(), st.integers(-9, 9), st.floats(-9, 9), NAMES, st.lists(st.integers(), max_size=3))
OPTIONS = st.dictionaries(st.text("klmnop", min_size=3, max_size=5), VALUES, max_size=2)
PARTS = st.one_of(NAMES, st.builds(lambda name, options: {**options, "name": name}, NAMES, OPTIONS))


def keyed(required=None, **optional):
    return st.fixed_dictionaries(required or {}, optional=optional)


HEADS = st.lists(
    st.builds(lambda table, options: {**options, **table}, keyed({"name": NAMES}, target=NAMES, labels=st.lists(NAMES, max_size=3)), OPTIONS),
    min_size=1, max_size=3, unique_by=lambda head: head["name"],
)  # fmt: skip
STAGES = st.lists(
    keyed(
        name=NAMES, epochs=st.integers(1, 99), train=st.lists(NAMES, max_size=2), freeze=NAMES,
        objectives=st.lists(PARTS, min_size=1, max_size=2), rate_lambda=st.floats(0, 99), optimizer=PARTS, schedule=PARTS,
        batch_size=st.integers(1, 64), average=st.floats(0, 0.99), precision=st.sampled_from(["32-true", "bf16-mixed"]),
    ),
    max_size=3,
)  # fmt: skip
TABLES = keyed(
    {"backbone": PARTS, "heads": HEADS},
    bottleneck=st.one_of(PARTS, st.just({"name": "fp", "from": "image", "channels": 3})),
    codec=PARTS, cut=NAMES, seed=st.integers(0, 99), augment=OPTIONS, stages=STAGES,
    input=keyed(size=st.lists(st.integers(1, 8192), min_size=2, max_size=2), mode=st.sampled_from(["letterbox", "resize"])),
    data=st.lists(st.one_of(PARTS, keyed({"name": NAMES}, root=NAMES, train=NAMES, val=NAMES)), max_size=2),
    sweep=st.dictionaries(NAMES, st.lists(st.integers(), min_size=1, max_size=3), max_size=2),
)  # fmt: skip


@settings(max_examples=60)
@given(TABLES)
def test_a_recipe_goes_through_plain_tables_and_json(table):
    found = Recipe.from_mapping(table)
    again = json.loads(json.dumps(found.to_mapping()))
    assert Recipe.from_mapping(again) == found
    assert Recipe.from_mapping(again).to_mapping() == found.to_mapping()


@settings(max_examples=60)
@given(
    st.recursive(
        VALUES,
        lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(NAMES, inner, max_size=2)),
        max_leaves=5,
    ),
    st.sampled_from(sorted(Recipe.__dataclass_fields__)),
)
def test_whatever_stands_there_is_a_recipe_or_a_recipe_error(value, key):
    try:
        Recipe.from_mapping({**LEAST, key: value})
    except RecipeError as error:
        assert "\n" not in str(error)


@settings(max_examples=60)
@given(
    st.lists(
        st.sampled_from([*Recipe.__dataclass_fields__, "0", "1", "name", "det", "epochs", "", "x"]), max_size=4
    ).map(".".join),
    st.sampled_from(["3", "x", "[1]", "{a=1}"]),
)
def test_whatever_is_overridden_is_a_recipe_or_a_recipe_error(path, text):
    try:
        recipe(f"{path}={text}", stages=[{"epochs": 1}], data=["coco"])
    except RecipeError as error:
        assert "\n" not in str(error)


def test_the_only_item_of_a_list_needs_no_name():
    found = recipe("data.root=/x", "data.count=3", "stages.epochs=7", data=["scenes"], stages=[{}])
    assert (found.data[0].name, found.data[0].root, found.data[0].options) == ("scenes", "/x", {"count": 3})
    assert found.stages[0].epochs == 7
    with pytest.raises(RecipeError, match="no 'root'; there are: coco, voc"):
        recipe("data.root=/x", data=["coco", "voc"])


def test_a_sweep_reads_the_tables_that_dotted_keys_make():
    swept = recipe(sweep={"bottleneck": {"channels": [8, 16]}, "rate_lambda": [1.0]})
    assert swept.sweep == {"bottleneck.channels": [8, 16], "rate_lambda": [1.0]}
    assert [point.bottleneck.options["channels"] for _, point in swept.points()] == [8, 16]


def test_an_optimizer_without_a_name_is_the_usual_one():
    found = recipe("stages.0.optimizer.lr=0.5", stages=[{}])
    assert (found.stages[0].optimizer.name, dict(found.stages[0].optimizer.options)) == ("adamw", {"lr": 0.5})


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_torch_would_refuse_is_refused_here(seed):
    with pytest.raises(RecipeError, match="seed must be"):
        recipe(seed=seed)
