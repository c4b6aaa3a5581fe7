"""From a folder of one's own images to a trained bundle, with the commands."""

import io
import json
import os
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest
from PIL import Image

from splitreg.cli.main import main
from splitreg.errors import DataError

RECIPE = """
backbone = "test_resnet"
bottleneck = "quantise"
heads = ["det"]
data = ["yolo"]
input = { size = [64, 64] }
[[stages]]
epochs = 1
batch_size = 4
"""


def run(*arguments):
    """Run a command in this process; returns its status, output and errors."""
    out, err = io.TextIOWrapper(io.BytesIO(), write_through=True), io.TextIOWrapper(io.BytesIO(), write_through=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["splitreg", *map(str, arguments)])
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
    return code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode()


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder as Roboflow writes it, whose name is a number; no validation image has an object."""
    root = tmp_path_factory.mktemp("own") / "2024"
    for split, count in (("train", 8), ("valid", 3)):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            noise = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / split / "images" / f"{number}.jpg")
            text = "" if split == "valid" else "1 0.5 0.5 0.5 0.5\n"
            (root / split / "labels" / f"{number}.txt").write_text(text)
    (root / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n")
    return root


def test_a_folder_is_described(own):
    code, out, _ = run("show", "dataset:yolo", "--root", own)
    assert code == 0 and out == "yolo: 2 classes, 8 train and 3 val images, 8 boxes, 3 images without labels\n"
    code, out, _ = run("show", "dataset:yolo", "--root", own, "--json")
    assert json.loads(out)["content"].startswith("yolo: 2 classes")
    code, _, err = run("show", "dataset:folder", "--root", own)
    assert code == 1 and "dataset yolo" in err
    assert run("show", "head:det", "--root", own)[0] == 2


def test_one_command_trains_on_it(own, tmp_path, monkeypatch):
    monkeypatch.chdir(own.parent)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    code, _, err = run(
        "train",
        tmp_path / "recipe.toml",
        "--root",
        "2024",
        "-o",
        tmp_path / "bundle",
        "--run",
        tmp_path / "run",
        "--quiet",
    )
    assert code == 0, err
    config = json.loads((tmp_path / "bundle/config.json").read_text())
    assert config["recipe"]["heads"][0]["labels"] == ["cat", "dog"]
    text = (tmp_path / "bundle/metrics.json").read_text()
    assert "NaN" not in text and "training" in json.loads(text)


def test_images_are_held_out_where_there_is_no_val(own, tmp_path):
    """Some tools call all images "train"."""
    from splitreg.recipe import Recipe
    from splitreg.training.data import open_datasets

    root = tmp_path / "set"
    shutil.copytree(own / "train", root / "train")
    (root / "data.yaml").write_text("train: train/images\nnames: ['cat', 'dog']\n")
    table = {"backbone": "test_resnet", "heads": ["det"], "data": [{"name": "yolo", "root": str(root)}]}
    with pytest.warns(UserWarning, match="20%.*hold_out = 0.2"):
        datasets = open_datasets(Recipe.from_mapping(table))
    assert (len(datasets.train), len(datasets.val)) == (6, 2)
    names = [{dataset[index].name for index in range(len(dataset))} for dataset in (datasets.train, datasets.val)]
    assert not names[0] & names[1]
    table["data"][0]["val"] = "test"
    with pytest.raises(DataError, match="'test'"):
        open_datasets(Recipe.from_mapping(table))


def test_names_that_the_terminal_lacks_are_escaped(own, tmp_path):
    """A Windows terminal, or output that is redirected there."""
    image = tmp_path / "\u5199\u771f.jpg"
    shutil.copy(next(own.rglob("*.jpg")), image)
    bundle = tmp_path / "bundle"
    keys = ("--backbone", "test_resnet", "--bottleneck", "quantise", "--heads", "recon", "--input", "32x32")
    assert run("build", *keys, "-o", bundle)[0] == 0
    done = subprocess.run(
        [sys.executable, "-m", "splitreg", "encode", bundle, image, "-o", tmp_path / "packets"],
        env={**os.environ, "PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=True,
    )
    assert b"\\u5199\\u771f" in done.stdout and len(list((tmp_path / "packets").iterdir())) == 1


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    """A YOLO export without val: one coloured rectangle per image; red is "cat", blue is "dog"."""
    root = tmp_path_factory.mktemp("blobs") / "my images"
    for kind in ("images", "labels"):
        (root / "train" / kind).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(40):
        image = np.full((96, 128, 3), 120, np.uint8)
        top, left, side = *rng.integers(0, 50, 2), 40
        label = number % 2
        image[top : top + side, left : left + side] = ((220, 20, 20), (20, 20, 220))[label]
        Image.fromarray(image).save(root / f"train/images/{number}.png")
        box = f"{(left + side / 2) / 128} {(top + side / 2) / 96} {side / 128} {side / 96}"
        (root / f"train/labels/{number}.txt").write_text(f"{label} {box}\n")
    (root / "data.yaml").write_text("train: ../train/images\nnc: 2\nnames: ['cat', 'dog']\n")
    return root


def test_init_writes_a_recipe_that_trains(blobs, tmp_path):
    recipe, bundle = tmp_path / "own.toml", tmp_path / "bundle"
    code, out, err = run("init", "--root", blobs, "-o", recipe)
    assert code == 0 and "yolo: 2 classes" in err and out.strip() == str(recipe)
    text = recipe.read_text()
    assert len(text.splitlines()) <= 25 and "hold_out" not in text
    table = tomllib.loads(text)
    assert table["heads"] == ["det"] and table["data"] == ["yolo"] and table["input"]["size"] == [96, 128]
    assert "96x128" in text.replace("128x96", "96x128") and "2 classes" in text
    code, _, err = run("init", "--root", blobs, "-o", recipe)
    assert code == 1 and "--overwrite" in err and recipe.read_text() == text
    small = ("--set", "backbone=test_resnet", "--set", "stages.0.epochs=1", "--set", "bottleneck=quantise")
    with pytest.warns(UserWarning, match="20%"):
        code, out, err = run("train", recipe, "--root", blobs, "-o", bundle, "--run", tmp_path / "run", *small)
    assert code == 0 and "yolo: 2 classes" in err, err
    # the bundle remembers the dataset and what was held out of it: the folder is enough, and there is no new warning
    assert json.loads((bundle / "config.json").read_text())["recipe"]["data"][0]["hold_out"] == 0.2
    for data in ((), ("--data", "yolo")):
        code, out, err = run("eval", bundle, *data, "--root", blobs, "--json", "--quiet")
        assert code == 0 and json.loads(out)["images"] == 8, "the images that training held out"


def test_a_recipe_without_a_dataset_gets_it_from_the_folder(own, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.replace('data = ["yolo"]\n', ""))
    bundle, folder = tmp_path / "bundle", tmp_path / "run"
    code, _, err = run("train", tmp_path / "recipe.toml", "--root", own, "-o", bundle, "--run", folder)
    assert code == 0 and "yolo: 2 classes" in err
    assert json.loads((bundle / "config.json").read_text())["recipe"]["data"][0]["name"] == "yolo"


@pytest.mark.parametrize("layout", ["classes", "masks", "flat"])
def test_init_chooses_heads_by_the_targets(layout, tmp_path):
    root = tmp_path / "set"
    for number in range(12):
        noise = np.random.default_rng(number).integers(0, 256, (480, 640, 3), dtype=np.uint8)
        places = {
            "classes": f"{'ab'[number % 2]}/{number}.png",
            "masks": f"images/{number}.png",
            "flat": f"{number}.png",
        }
        path = root / places[layout]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(path)
        if layout == "masks":
            (root / "masks").mkdir(exist_ok=True)
            Image.fromarray(np.full((480, 640), number % 2, np.uint8)).save(root / f"masks/{number}.png")
    if layout == "masks":
        (root / "classes.txt").write_text("wall\nfloor\n")
    code, out, err = run("init", "--root", root, "-o", "-")
    assert code == 0, err
    table = tomllib.loads(out)
    expected = {"classes": ("folder", "cls", [160, 224]), "masks": ("masks", "seg", [256, 320])}
    expected["flat"] = ("folder", "recon", [192, 256])
    name, head, size = expected[layout]
    assert (
        table["data"] == [name]
        and [item if isinstance(item, str) else item["name"] for item in table["heads"]] == [head]
        and table["input"]["size"] in (size, [240, 320])
    )
    assert len(out.splitlines()) <= 25


def test_init_refuses_a_folder_of_nothing(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    code, _, err = run("init", "--root", tmp_path, "-o", "-")
    assert code == 1 and str(tmp_path) in err
    assert run("init", "--root", tmp_path, "--data", "yoloo", "-o", "-")[0] == 1


COLOURS = {"blue": (20, 20, 220), "green": (20, 220, 20), "red": (220, 20, 20), "white": (230, 230, 230)}


def class_folders(root, names):
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(4):
            Image.fromarray(np.full((32, 32, 3), COLOURS[name], np.uint8)).save(root / name / f"{number}.png")


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A classifier of blue, green and red."""
    root = tmp_path_factory.mktemp("colours")
    class_folders(root / "all/train", ("blue", "green", "red"))
    class_folders(root / "all/val", ("blue", "green", "red"))
    keys = ("--backbone", "test_resnet", "--bottleneck", "raw", "--input", "32x32", "--heads", "cls")
    labels = ("--set", 'heads.cls.labels=["blue","green","red"]')
    assert run("build", *keys, *labels, "-o", root / "bundle")[0] == 0
    return root / "bundle", root / "all"


def test_commands_match_classes_by_name(colours, tmp_path):
    bundle, whole = colours
    class_folders(tmp_path / "fewer/val", ("blue", "red"))
    class_folders(tmp_path / "more/val", ("blue", "green", "red", "white"))

    def results(*arguments):
        code, out, err = run("eval", bundle, "--data", "folder", "--json", "--quiet", *arguments)
        assert code == 0, err
        return json.loads(out)

    everything, fewer = results("--root", whole), results("--root", tmp_path / "fewer")
    assert everything["classes"] == {} and everything["images"] == 12
    assert fewer["images"] == 8 and "green" in fewer["classes"]["cls"]
    for command in (
        ("eval", bundle),
        ("bench", bundle, "-o", tmp_path / "b"),
        ("publish", bundle, "-o", tmp_path / "p"),
    ):
        code, _, err = run(*command, "--data", "folder", "--root", tmp_path / "more", "--quiet")
        assert code == 1 and "white" in err and "--unknown-classes" in err
        code, _, err = run(
            *command, "--data", "folder", "--root", tmp_path / "more", "--quiet", "--unknown-classes", "ignore"
        )
        assert code == 0, err
    code, _, err = run(
        "eval", bundle, "--data", "folder", "--root", tmp_path / "more", "--quiet", "--set", "unknown_classes=ignore"
    )
    assert code == 0, err
    metrics = json.loads((tmp_path / "p/metrics.json").read_text())["evaluations"][0]
    assert metrics["labelled"] == {"cls": 12} and metrics["metrics"] == everything["metrics"]
