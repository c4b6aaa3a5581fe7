import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torchvision import tv_tensors

from splitreg.cli.data_ import command
from splitreg.data.checking import truth_of
from splitreg.recipe import Recipe
from splitreg.specs import TargetSpec
from splitreg.tasks import BoxTarget
from splitreg.training.checks import check_recipe


@pytest.fixture
def photos(tmp_path):
    """A YOLO export with outlines; one image is in both splits, and "dog" has no label."""
    root = tmp_path / "photos"
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("valid", 2)):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 255, (40, 60, 3), np.uint8)).save(
                root / split / "images" / f"{split}{number}.png"
            )
            (root / split / "labels" / f"{split}{number}.txt").write_text("0 .2 .2 .6 .2 .6 .7\n" if number else "")
    shutil.copy(root / "train/images/train1.png", root / "valid/images/valid1.png")
    (root / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: [cat, dog]\n")
    return root


def size_of(path):
    with Image.open(path) as image:
        return image.size


def test_the_check_counts_and_finds_images_in_two_splits(photos, tmp_path):
    sheet = tmp_path / "sheet.png"
    arguments = ["check", "yolo", "--root", str(photos), "--set", "semantic=instances", "--sheet", str(sheet), "--json"]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout.partition("\n" + str(sheet))[0])
    assert report["splits"]["train"]["images"] == 4 and report["splits"]["train"]["counts"]["detection"] == {"cat": 3}
    assert report["splits"]["train"]["unlabelled"]["detection"] == 1
    assert [len(row) for row in report["duplicates"]] == [4] and any("dog" in line for line in report["warnings"])
    assert size_of(sheet)[0] == 4 * 320
    text = CliRunner().invoke(command, ["check", "--root", str(photos)])  # the dataset is recognised
    assert text.exit_code == 0 and "60x40" in text.output and "two splits" in text.output


def test_the_check_needs_a_dataset_or_a_folder():
    done = CliRunner().invoke(command, ["check"])
    assert done.exit_code == 2 and "--root" in done.output


def test_a_limit_is_stated_with_all_numbers_that_it_concerns(photos):
    arguments = ["check", "yolo", "--root", str(photos), "--limit", "1"]
    text = CliRunner().invoke(command, arguments).output
    assert "train: 1 of 4 images" in text and "val: 1 of 2 images" in text
    assert all("1 images checked" in line for line in text.splitlines() if "has no" in line)
    report = json.loads(CliRunner().invoke(command, [*arguments, "--json"]).stdout)
    assert [(split["images"], split["checked"]) for split in report["splits"].values()] == [(4, 1), (2, 1)]


@pytest.mark.parametrize("setting", ["preset=detection", "mosaic=1", "augment.copy_paste=1"])
def test_augmentations_are_drawn(photos, tmp_path, setting):
    output = tmp_path / "augmented.png"
    done = CliRunner().invoke(
        command, ["augment", "yolo", "--root", str(photos), "-o", str(output), "--index", "1", "--set", setting]
    )
    assert done.exit_code == 0, done.output
    assert size_of(output)[0] == 4 * 320


def test_objects_are_drawn_with_their_outlines_and_without_scores():
    image = np.zeros((60, 60, 3), np.uint8)
    mask = torch.zeros((1, 60, 60), dtype=torch.bool)
    mask[0, 20:30, 20:30] = True
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[20.0, 20, 40, 40]]), format="XYXY", canvas_size=(60, 60))
    objects = {"boxes": boxes, "labels": torch.tensor([0]), "crowd": torch.tensor([False])}
    truth = truth_of({"detection": TargetSpec(task="detection", labels=("cat",))})
    outlined, plain = (
        truth("detection", BoxTarget(**objects, masks=masks)).draw(image) for masks in (tv_tensors.Mask(mask), None)
    )
    changed = (outlined != plain).any(2)
    factor = len(plain) // 60
    assert changed[24 * factor, 24 * factor] and not changed[35 * factor, 35 * factor]
    nothing = BoxTarget(**{**objects, "boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64)})
    assert len(truth("detection", nothing).draw(image)) > len(plain)  # a line says so


def test_augmentations_of_a_recognised_folder_and_of_a_recipe(photos, tmp_path):
    shutil.rmtree(photos / "train")  # "valid" is the first split then
    (tmp_path / "recipe.toml").write_text(
        'backbone = "test_resnet"\nheads = ["det"]\ndata = ["yolo"]\naugment = { flip = true }\n'
    )
    for options in ([], ["--recipe", str(tmp_path / "recipe.toml")]):
        done = CliRunner().invoke(
            command, ["augment", "--root", str(photos), "-o", str(tmp_path / "augmented.png"), *options]
        )
        assert done.exit_code == 0, done.output
    (tmp_path / "placed.toml").write_text(
        f'backbone = "test_resnet"\nheads = ["det"]\ndata = [{{ name = "yolo", root = "{photos}" }}]\n'
    )
    arguments = ["augment", "--recipe", str(tmp_path / "placed.toml"), "-o", str(tmp_path / "augmented.png")]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(command, ["augment", "-o", str(tmp_path / "augmented.png")])
    assert done.exit_code == 2 and "--root" in done.output


def test_init_pastes_objects_with_outlines_if_there_are_few_images(photos, tmp_path, monkeypatch):
    from splitreg.training import starter

    texts = []
    for few in (1000, 3):
        monkeypatch.setattr(starter, "FEW_IMAGES", few)
        (tmp_path / "own.toml").write_text(starter.starter_recipe(str(photos)))
        recipe = Recipe.read(tmp_path / "own.toml", [f"data.root={photos}"])
        check_recipe(recipe)
        texts.append((recipe.augment.get("copy_paste"), recipe.data[0].options))
    assert texts == [(0.5, {"semantic": "instances"}), (None, {"semantic": "instances", "masks": False})]


@pytest.mark.parametrize(("index", "facts"), [("4", "train has 4 images"), ("-1", "--index")])
def test_an_index_without_an_image_is_refused(photos, tmp_path, index, facts):
    arguments = ["augment", "--root", str(photos), "-o", str(tmp_path / "augmented.png"), "--index", index]
    done = CliRunner().invoke(command, arguments)
    assert done.exit_code == 2 and facts in done.output
