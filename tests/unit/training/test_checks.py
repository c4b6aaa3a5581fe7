import pytest
from PIL import Image
from support.training_toys import REGISTRY, toy_recipe

from splitreg.assembly import build
from splitreg.cli.eval_ import data_parts
from splitreg.cli.train_ import model_overrides, stage_overrides
from splitreg.errors import PlanError, RecipeError, UnknownComponent
from splitreg.recipe import Recipe
from splitreg.training import TrainOptions, train
from splitreg.training.checks import check_recipe, check_same_model, start_advice
from splitreg.training.starter import starter_recipe


def checked(*overrides, stages=({"epochs": 1},)):
    return check_recipe(Recipe.from_mapping(toy_recipe(*stages).to_mapping(), overrides), REGISTRY)


@pytest.mark.parametrize(
    ("override", "fact"),
    [
        ("augment.mosaik=1", "mosaic"),
        ("stages.schedule=cosin", "cosine"),
        ("stages.optimizer.lrr=1", "lr"),
        ("stages.optimizer=adamv", "adamw"),
        ("stages.schedule.warmupp=1", "warmup"),
        ("sweep.foo=[1]", "foo"),
        ("sweep.rate_lambdas=[1]", "rate_lambda"),
        ('sweep.schedule=["cosin"]', "cosine"),
        ("backbone.pretrained=missing.pth", "missing.pth"),
        ('augment.copy_paste="a"', "copy_paste must be float"),
        ("augment.mosaic=true", "mosaic must be float"),
        ('stages.best="colour.top11"', "colour.top1"),
    ],
)
def test_every_wrong_key_and_missing_file_is_found_before_anything_is_built(override, fact):
    with pytest.raises((PlanError, RecipeError), match=fact):
        checked(override)


def test_all_problems_are_reported_together():
    with pytest.raises(PlanError) as error:
        checked("augment.mosaik=1", "stages.schedule=cosin", "sweep.foo=[1]")
    assert len(error.value.problems) == 3


def test_a_stage_alone_needs_no_number():
    assert checked("stages.optimizer.lr=0.5").recipe.stages[0].optimizer.options["lr"] == 0.5
    with pytest.raises(RecipeError, match="optimizer"):
        checked("stages.optimizer.lr=0.5", stages=({"name": "one"}, {"name": "two"}))


@pytest.fixture
def recipe(tmp_path):
    def write(stages):
        path = tmp_path / "recipe.toml"
        path.write_text('backbone = { name = "resnet50", pretrained = true }\nheads = ["det"]\n' + stages)
        return str(path)

    return write


def test_flags_set_keys_of_the_stage(recipe):
    path = recipe("[[stages]]\nepochs = 3\n")
    overrides = stage_overrides(path, {"epochs": 7, "batch_size": 4, "optimizer.lr": 0.25})
    (stage,) = Recipe.read(path, overrides).stages
    assert (stage.epochs, stage.batch_size, stage.optimizer.options["lr"]) == (7, 4, 0.25)
    assert stage_overrides(path, {"epochs": None}) == ()


def test_flags_create_the_stage_of_a_recipe_without_one(recipe):
    path = recipe("")
    assert Recipe.read(path, stage_overrides(path, {"epochs": 7})).stages[0].epochs == 7


def test_epochs_are_for_the_last_stage_and_the_batch_size_for_all(recipe):
    path = recipe('[[stages]]\nname = "a"\nepochs = 2\n[[stages]]\nname = "b"\n')
    stages = Recipe.read(path, stage_overrides(path, {"epochs": 3, "batch_size": 4})).stages
    assert [(stage.epochs, stage.batch_size) for stage in stages] == [(2, 4), (3, 4)]


def test_fewer_epochs_have_a_shorter_warm_up(recipe):
    path = recipe('[[stages]]\nepochs = 100\nrate_warmup = 20\nbest = "auto"\n')
    assert Recipe.read(path, stage_overrides(path, {"epochs": 12})).stages[0].rate_warmup == 2.4
    assert Recipe.read(path, stage_overrides(path, {"epochs": 200})).stages[0].rate_warmup == 20
    assert Recipe.read(path, stage_overrides(path, {"epochs": 12}, only_last=True)).stages[0].rate_warmup == 20
    advice = list(start_advice(Recipe.read(path, ["stages.epochs=12"]), REGISTRY))
    assert len(advice) == 1 and "rate_warmup (20) covers all 12 epochs" in advice[0]


@pytest.mark.parametrize(("only_last", "expected"), [(False, [2, 3, 3]), (True, [2, 9, 3])])
def test_stages_before_the_last_one_get_at_most_as_many_epochs(recipe, only_last, expected):
    path = recipe("".join(f'[[stages]]\nname = "n{n}"\nepochs = {n}\n' for n in (2, 9, 5)))
    stages = Recipe.read(path, stage_overrides(path, {"epochs": 3}, only_last=only_last)).stages
    assert [stage.epochs for stage in stages] == expected


def test_another_backbone_does_not_get_the_weights_of_the_first(recipe):
    path = recipe("")
    loaded = Recipe.read(path, model_overrides(path, "resnet18", None, "det,seg"))
    assert loaded.backbone.options == {"pretrained": True} and [h.name for h in loaded.heads] == ["det", "seg"]
    assert Recipe.read(path, model_overrides(path, "resnet18", "my.pth", None)).backbone.options == {
        "pretrained": "my.pth"
    }


def test_a_missing_split_is_found(tmp_path):
    from PIL import Image

    for split in ("train", "val"):
        for label in "ab":
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(folder / "1.png")
    recipe = {
        "backbone": "test_resnet", "heads": ["cls"], "input": {"size": [64, 64]}, "stages": [{}],
        "data": [{"name": "folder", "root": str(tmp_path)}],
    }  # fmt: skip
    assert check_recipe(Recipe.from_mapping(recipe)).heads[0].labels == ("a", "b")
    with pytest.raises(PlanError, match="nope"):
        check_recipe(Recipe.from_mapping(recipe, ["data.val=nope"]))


def test_a_bundle_is_continued_only_with_its_own_architecture():
    recipe = Recipe.from_mapping(toy_recipe({"epochs": 1}).to_mapping())
    model = build(recipe, registry=REGISTRY)
    check_same_model(recipe, model, REGISTRY)
    other = Recipe.from_mapping(recipe.to_mapping(), ["input.size=[64,96]", "heads.colour.as=tint"])
    with pytest.raises(RecipeError, match=r"heads\.colour.*heads\.tint.*input\.size"):
        check_same_model(other, model, REGISTRY)


def test_the_start_says_what_is_thrown_away_and_what_measures_nothing():
    recipe = Recipe.from_mapping({
        "backbone": {"name": "resnet50", "pretrained": True}, "bottleneck": {"name": "fp", "from": "image"}, "heads": ["det"],
        "cut": "layer1", "data": [{"name": "yolo", "val": "train"}],
    })  # fmt: skip
    thrown, same = start_advice(recipe, REGISTRY)
    assert "layer1" in thrown and "feature" in thrown and "'train'" in same


def test_a_trained_model_records_the_data_that_was_used(tmp_path):
    model = build(toy_recipe({"epochs": 1}), registry=REGISTRY)
    used = Recipe.from_mapping(toy_recipe({"epochs": 1, "batch_size": 4}).to_mapping(), ["data.train=val"])
    result = train(
        used, tmp_path, model=model, registry=REGISTRY, options=TrainOptions(progress=False, tensorboard=False)
    )
    assert result.model.recipe.data[0].train == "val"


def test_a_dataset_of_a_bundle_keeps_its_options():
    recipe = Recipe.from_mapping({
        "backbone": "resnet50", "heads": ["seg"], "data": [{"name": "yolo", "val": "test", "semantic": "instances"}],
    })  # fmt: skip
    for name in (None, "yolo"):
        (part,) = data_parts(recipe, name, "photos", None, ("hold_out=0.3",))
        assert (part.root, part.val) == ("photos", "test")
        assert part.options == {"semantic": "instances", "hold_out": 0.3}
    assert data_parts(recipe, "coco", None, "train", ())[0].val == "train"


def test_the_folder_names_the_dataset_of_a_bundle_without_data(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    recipe = Recipe.from_mapping({"backbone": "resnet50", "heads": [{"name": "cls", "labels": 3}]})
    (part,) = data_parts(recipe, None, str(tmp_path), None, ())
    assert (part.name, part.root) == ("folder", str(tmp_path))
    with pytest.raises(RecipeError, match="--root"):
        data_parts(recipe, None, None, None, ())


def test_init_with_weights_keeps_the_pretrained_stages(tmp_path):
    import torch
    from PIL import Image

    for split in ("train", "val"):
        for label in "ab":
            folder = tmp_path / "set" / split / label
            folder.mkdir(parents=True)
            for number in range(8):
                Image.new("RGB", (96, 96)).save(folder / f"{number}.png")
    with pytest.raises(RecipeError, match=r"nothing\.pth"):
        starter_recipe(str(tmp_path / "set"), backbone="test_resnet", weights="nothing.pth")
    with pytest.raises(UnknownComponent, match="test_resnet"):
        starter_recipe(str(tmp_path / "set"), backbone="test_rsnet")
    torch.save({}, tmp_path / "w.pth")
    text = starter_recipe(str(tmp_path / "set"), backbone="test_resnet", weights=str(tmp_path / "w.pth"))
    (tmp_path / "own.toml").write_text(text)
    loaded = Recipe.read(tmp_path / "own.toml", [f"data.root={tmp_path / 'set'}"])
    planned = check_recipe(loaded)
    assert planned.bottleneck.reads == "feature" and planned.backbone.target.stride == 8
    assert loaded.stages[-1].best == "auto" and set(loaded.stages[0].freeze) == {"prefix", "encoder", "decoder"}
    assert not list(start_advice(planned.recipe, planned.registry)) and len(text.splitlines()) <= 33
    (tmp_path / "own.toml").write_text(starter_recipe(str(tmp_path / "set"), classes=["b"]))
    assert Recipe.read(tmp_path / "own.toml").data[0].classes == {"b": ("b",)}
    with pytest.raises(RecipeError, match="'c'.*a, b"):
        starter_recipe(str(tmp_path / "set"), classes=["c"])


@pytest.mark.parametrize(
    ("stage", "fact"),
    [
        ({"optimizer": {"lr": float("inf")}}, "lr"), ({"optimizer": {"lr": -1.0}}, "-1"),
        ({"optimizer": {"lr": "fast"}}, "lr"), ({"optimizer": {"name": "sgd", "momentum": -1.0}}, "momentum"),
        ({"schedule": {"name": "cosine", "warmup": "long"}}, "warmup"),
        ({"best": "klass.top1"}, "klass"), ({"best": "cls"}, "cls"), ({"best": "auto."}, "auto"),
    ],
)  # fmt: skip
def test_values_of_a_stage_that_fail_in_the_first_epoch_fail_before_it(stage, fact):
    with pytest.raises(PlanError, match=rf"stages\[0\].*{fact}"):
        checked(stages=({"epochs": 1, **stage},))


@pytest.mark.parametrize("number", ["nan", "1" + "0" * 400])
@pytest.mark.parametrize("key", ["stages.0.optimizer.lr", "augment.scale", "bottleneck.channels"])
def test_numbers_that_no_key_has(key, number):
    table = {"backbone": "test_resnet", "heads": ["cls"], "stages": [{"epochs": 1}]}
    with pytest.raises(RecipeError, match=key.rpartition(".")[2]):
        Recipe.from_mapping(table, [f"{key}={number}"])


def test_best_needs_validations(tmp_path):
    options = TrainOptions(validate_every=0, device="cpu", progress=False)
    with pytest.raises(RecipeError, match="best.*validate_every"):
        train(toy_recipe({"epochs": 1, "best": "auto"}), tmp_path / "run", options=options, registry=REGISTRY)
    assert not list(tmp_path.glob("run/checkpoints/*"))
