"""Whole models of torchvision become bundles, and a recipe of the documentation trains a new bottleneck alone."""

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from splitreg_torchvision.weights import class_order
from torch import nn
from torchvision import models

from splitreg.assembly import load
from splitreg.cli.import_ import command
from splitreg.errors import CheckpointError
from splitreg.interop import import_checkpoint
from splitreg.recipe import Recipe
from splitreg.training import train

pytestmark = pytest.mark.integration

PAGE = Path(__file__).parents[3] / "docs" / "import.md"
LABELS = ("cube", "cylinder", "sphere", "capsule", "cone")


def save(name, folder, **options):
    torch.manual_seed(1)
    model = models.get_model(name, weights=None, **options).eval()
    torch.save(model.state_dict(), folder / "model.pth")
    return model, folder / "model.pth"


@pytest.mark.parametrize(
    ("name", "backbone", "head", "classes"),
    [
        ("fasterrcnn_resnet50_fpn", "tv_resnet50", "det-fasterrcnn", 90),
        ("fasterrcnn_resnet50_fpn_v2", "tv_resnet50", "det-fasterrcnn", 90),
        ("maskrcnn_resnet50_fpn_v2", "tv_resnet50", "inst-maskrcnn", 90),
        ("keypointrcnn_resnet50_fpn", "tv_resnet50", "pose-keypointrcnn", 1),
        ("deeplabv3_mobilenet_v3_large", "tv_mobilenet_v3_large", "seg-deeplabv3", 21),
        ("deeplabv3_resnet50", "tv_resnet50", "seg-deeplabv3", 21),
        ("resnet18", "tv_resnet18", "cls", 1000),
        ("resnext50_32x4d", "tv_resnext50_32x4d", "cls", 1000),
        ("wide_resnet50_2", "tv_wide_resnet50_2", "cls", 1000),
    ],
)
def test_parts_are_found_by_their_tensors(name, backbone, head, classes, tmp_path):
    options = {} if head == "cls" else {"weights_backbone": None}
    model, path = save(name, tmp_path, **options)
    imported = import_checkpoint(path, input={"size": [64, 64], "mode": "resize"})
    recipe = imported.model.recipe
    assert recipe.backbone.name == backbone and [part.plugin for part in recipe.heads] == [head]
    assert len(recipe.heads[0].labels) == classes
    assert imported.fit.misfits == () and imported.model.trained
    state = imported.model.state_dict()
    first = next(value for key, value in model.state_dict().items() if value.ndim == 4)
    assert any(
        key.startswith("prefix.") and torch.equal(value, first) for key, value in state.items() if value.ndim == 4
    )


def test_the_command_says_what_was_found_and_what_is_new(tmp_path):
    _, path = save("fasterrcnn_resnet50_fpn", tmp_path, weights_backbone=None)
    arguments = [
        str(path), "-o", str(tmp_path / "split"), "--cut", "layer2", "--input", "64",
        "--bottleneck", '{name="fp",from="feature",encoder="light",channels=8}',
    ]  # fmt: skip
    run = CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False)
    assert run.exit_code == 0, run.output
    misfits = json.loads(run.stdout)["misfits"]
    kinds = {kind: {row["name"] for row in misfits if row["kind"] == kind} for kind in ("new", "unused", "missing")}
    assert all(name.startswith("bottleneck.") for name in kinds["new"]) and kinds["new"]
    assert all("fpn.inner_blocks.0" in name for name in kinds["unused"]) and len(kinds["unused"]) == 2
    assert not kinds["missing"] and not load(tmp_path / "split").trained
    shown = CliRunner().invoke(command, [*arguments, "--overwrite"], catch_exceptions=False)
    assert "tv_resnet50" in shown.output and "det-fasterrcnn" in shown.output and "layer2" in shown.output


def test_a_model_that_is_not_known_is_one_error(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "model.pth")
    with pytest.raises(CheckpointError):
        import_checkpoint(tmp_path / "model.pth")


def test_the_recipe_of_the_documentation_moves_only_the_bottleneck(tmp_path):
    section = PAGE.read_text().split("### Train only the bottleneck", 1)[1]
    text = re.search(r"```toml\n(.*?)```", section, re.DOTALL)[1]
    assert len(text.splitlines()) <= 25
    (tmp_path / "bottleneck.toml").write_text(text)
    _, path = save("fasterrcnn_resnet50_fpn_v2", tmp_path, weights_backbone=None, num_classes=len(LABELS) + 1)
    recipe = Recipe.read(
        tmp_path / "bottleneck.toml",
        ["input.size=[64, 64]", "bottleneck.channels=8", 'data=[{name="scenes",size=64,count=4}]', "stages.0.epochs=1"],
    )
    heads = [{"name": "det-fasterrcnn", "labels": list(LABELS)}]
    model = import_checkpoint(
        path, heads=heads, cut="layer2", bottleneck=recipe.bottleneck.to_mapping(), input=recipe.input.to_mapping()
    ).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    after = train(recipe, tmp_path / "run", model=model).model.state_dict()
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    assert moved and all(key.startswith("bottleneck.") for key in moved)
    assert any("encoder" in key for key in moved) and any("decoder" in key for key in moved)


def test_rows_of_coco_are_chosen_by_name():
    bias = torch.arange(91.0)
    chosen = class_order({"regions.box_predictor.cls_score.bias": bias}, ["toothbrush", "person"])
    assert chosen["regions.box_predictor.cls_score.bias"].tolist() == [0, 90, 1]
    same = class_order({"regions.box_predictor.cls_score.bias": bias}, ["a", "b"])
    assert same["regions.box_predictor.cls_score.bias"] is bias
