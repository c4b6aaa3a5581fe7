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
    parsed = recipe()
    assert (parsed.bottleneck.name, parsed.bottleneck.source, parsed.codec, parsed.cut) == ("fp", None, None, None)
    assert parsed.input.size == (224, 224) and parsed.stages == () and parsed.seed == 0
    assert parsed.heads[0].plugin == parsed.heads[0].name == "det"


def test_short_forms_stand_for_tables():
    assert recipe(heads="det, seg") == recipe(heads=[{"name": "det"}, {"name": "seg"}])
    assert recipe(data="coco", stages={"epochs": 2}) == recipe(data=[{"name": "coco"}], stages=[{"epochs": 2}])
    assert recipe(input={"size": 96}) == recipe(input={"size": [96, 96]})
    assert recipe(heads=[{"name": "cls", "labels": 2}]).heads[0].labels == ("class 0", "class 1")
    assert recipe(stages={"train": "heads"}).stages[0].train == ("heads",)


@pytest.mark.parametrize(
    ("keys", "facts"),
    [
        ({"bottelneck": "fp"}, "'bottelneck'.*'bottleneck'"),
        ({"stages": [{"epohcs": 3}]}, r"stages\[0\].*'epohcs'.*'epochs'"),
        ({"input": {"siez": 3}}, "input.*'siez'.*'size'"),
        ({"input": {"qqq": 3}}, "'qqq'.*size.*mode"),
        ({"input": {"size": [0, 5]}}, "input.*size.*0, 5"),
        ({"input": {"size": True}}, "input.*size.*True"),
        ({"input": {"mode": "crop"}}, "mode.*'letterbox'.*'resize'.*'crop'"),
        ({"heads": []}, "heads"),
        ({"heads": ["det", "det"]}, "'det'"),
        ({"heads": [{"name": "cls", "as": "../x"}]}, r"heads\[0\].*\bas\b.*'\.\./x'"),
        ({"heads": [{"name": "cls", "as": ""}]}, r"heads\[0\].*\bas\b"),
        ({"heads": [{"name": "cls", "labels": 0}]}, r"heads\[0\].*labels"),
        ({"heads": [{"name": "cls", "labels": [1]}]}, r"heads\[0\].*labels"),
        ({"heads": [{"name": "cls", "target": 3}]}, r"heads\[0\].*target.*\b3\b"),
        ({"heads": [{"as": "cls"}]}, r"heads\[0\].*name"),
        ({"backbone": ""}, "backbone.*name"),
        ({"backbone": 3}, r"backbone.*name.*\b3\b"),
        ({"codec": ["rans"]}, "codec.*name.*rans"),
        ({"bottleneck": {"name": "fp", "from": "layer1"}}, "bottleneck.*from.*'image'.*'feature'.*'layer1'"),
        ({"seed": "x"}, "seed.*int.*'x'"),
        ({"seed": True}, "seed.*int.*True"),
        ({"cut": 3}, r"cut.*str.*\b3\b"),
        ({"augment": [1]}, r"augment.*\[1\]"),
        ({"stages": [{"epochs": 0}]}, r"stages\[0\].*epochs.*\b0\b"),
        ({"stages": [{"epochs": 1.5}]}, r"stages\[0\].*epochs.*int.*1\.5"),
        ({"stages": [{"clip": -1}]}, "clip.*-1"),
        ({"stages": [{"rate_lambda": float("nan")}]}, "rate_lambda.*nan"),
        ({"stages": [{"rate_lambda": "big"}]}, "rate_lambda.*int.*float.*big"),
        ({"stages": [{"average": 1.0}]}, r"average.*1\.0"),
        ({"stages": [{"precision": "8-bit"}]}, "precision.*bf16-mixed.*8-bit"),
        ({"stages": [{"train": 3}]}, r"stages\[0\].*train.*\b3\b"),
        ({"stages": ["joint"]}, r"stages\[0\].*joint"),
        ({"sweep": {"bottleneck.channels": []}}, r"sweep\.bottleneck\.channels.*\[\]"),
        ({"data": [{"name": "coco", "train": 1}]}, r"data\[0\].*train.*str"),
    ],
)
def test_an_error_names_the_place_and_the_value(keys, facts):
    with pytest.raises(RecipeError, match=facts):
        recipe(**keys)


@pytest.mark.parametrize("missing", ["backbone", "heads"])
def test_what_is_missing_is_shown_by_example(missing):
    with pytest.raises(RecipeError, match=f"{missing}.*{missing} ="):
        Recipe.from_mapping({key: value for key, value in LEAST.items() if key != missing})


def test_overrides():
    parsed = recipe(
        "bottleneck.channels=24", "heads.det.threshold=0.5", "stages.0.epochs=3", "stages.fine.epochs=4", "cut=layer1",
        "input.size=[64, 96]", "codec=zstd", "data.coco.root=/some/where", "backbone.name=resnet18",
        stages=[{"epochs": 1}, {"name": "fine"}], data=["coco"],
    )  # fmt: skip
    assert parsed.bottleneck.name == "fp" and parsed.bottleneck.options == {"channels": 24}
    assert parsed.heads[0].options == {"threshold": 0.5}
    assert [stage.epochs for stage in parsed.stages] == [3, 4]
    assert (parsed.cut, parsed.input.size, parsed.codec.name) == ("layer1", (64, 96), "zstd")
    assert parsed.data[0].root == "/some/where" and parsed.backbone.name == "resnet18"


def test_overrides_find_their_place_in_short_forms():
    parsed = Recipe.from_mapping(
        {"backbone": "resnet50", "heads": "det,seg", "data": "coco", "stages": {"epochs": 1}},
        ["heads.seg.width=8", "data.coco.val=test", "stages.0.epochs=2"],
    )
    assert parsed.heads[1].options == {"width": 8} and parsed.data[0].val == "test" and parsed.stages[0].epochs == 2
    assert [head.name for head in recipe("heads=cls,depth").heads] == ["cls", "depth"]


def test_an_override_of_the_default_bottleneck_keeps_its_name():
    assert Recipe.from_mapping(LEAST, ["bottleneck.channels=24"]).bottleneck.name == "fp"


@pytest.mark.parametrize(
    ("override", "facts"),
    [
        ("bottleneck.channels", "'bottleneck.channels'"),
        ("=3", "'=3'"),
        ("heads.seg.x=1", "'seg'.*det"),
        ("heads.4.x=1", "'4'.*det"),
        ("stages.0.epochs=1", "stages.*'0'"),
        ("seed.x=1", r"seed\.x.*\b3\b"),
        ("bakcbone=x", "'bakcbone'.*'backbone'"),
    ],
)
def test_wrong_overrides(override, facts):
    with pytest.raises(RecipeError, match=facts):
        recipe(override, seed=3)


def test_the_given_table_is_not_changed():
    table = {**LEAST, "bottleneck": {"name": "fp", "channels": 3}, "stages": [{"epochs": 1}]}
    before = copy.deepcopy(table)
    Recipe.from_mapping(table, ["bottleneck.channels=4", "stages.0.epochs=7"])
    assert table == before


def test_sweep_points():
    parsed = recipe(
        bottleneck={"name": "fp", "channels": 1}, stages=[{"epochs": 1}, {"epochs": 2}],
        sweep={"rate_lambda": [0.1, 0.2], "bottleneck.channels": [8, 16, 24]},
    )  # fmt: skip
    points = dict(parsed.points())
    assert list(points)[:2] == ["rate_lambda=0.1,bottleneck.channels=8", "rate_lambda=0.1,bottleneck.channels=16"]
    assert len(points) == 6
    last = points["rate_lambda=0.2,bottleneck.channels=24"]
    assert [stage.rate_lambda for stage in last.stages] == [0.2, 0.2] and last.bottleneck.options["channels"] == 24
    assert not last.sweep and parsed.bottleneck.options["channels"] == 1


def test_a_recipe_without_a_sweep_is_its_own_only_point():
    assert list(recipe().points()) == [("", recipe())]


def test_a_sweep_over_something_that_is_not_there_is_an_error():
    with pytest.raises(RecipeError):
        list(recipe(sweep={"botleneck.channels": [1]}).points())


def test_read(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('backbone = "resnet50"\nheads = ["det"]\n[bottleneck]\nname = "fp"\nfrom = "image"\n')
    assert Recipe.read(path, ["seed=4"]) == recipe(bottleneck={"name": "fp", "from": "image"}, seed=4)
    with pytest.raises(RecipeError, match="gone.toml"):
        Recipe.read(tmp_path / "gone.toml")
    for bad in (b"backbone = ", b"\xff\xfe"):
        path.write_bytes(bad)
        with pytest.raises(RecipeError, match="recipe.toml"):
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
    parsed = Recipe.from_mapping(table)
    again = json.loads(json.dumps(parsed.to_mapping()))
    assert Recipe.from_mapping(again) == parsed
    assert Recipe.from_mapping(again).to_mapping() == parsed.to_mapping()


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
    parsed = recipe("data.root=/x", "data.count=3", "stages.epochs=7", data=["scenes"], stages=[{}])
    assert (parsed.data[0].name, parsed.data[0].root, parsed.data[0].options) == ("scenes", "/x", {"count": 3})
    assert parsed.stages[0].epochs == 7
    with pytest.raises(RecipeError, match="'root'.*coco.*voc"):
        recipe("data.root=/x", data=["coco", "voc"])


def test_a_sweep_reads_the_tables_that_dotted_keys_make():
    swept = recipe(sweep={"bottleneck": {"channels": [8, 16]}, "rate_lambda": [1.0]})
    assert swept.sweep == {"bottleneck.channels": [8, 16], "rate_lambda": [1.0]}
    assert [point.bottleneck.options["channels"] for _, point in swept.points()] == [8, 16]


def test_an_optimizer_without_a_name_is_the_usual_one():
    parsed = recipe("stages.0.optimizer.lr=0.5", stages=[{}])
    assert (parsed.stages[0].optimizer.name, dict(parsed.stages[0].optimizer.options)) == ("adamw", {"lr": 0.5})


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_torch_would_refuse_is_refused_here(seed):
    with pytest.raises(RecipeError, match=f"seed.*{seed}"):
        recipe(seed=seed)
