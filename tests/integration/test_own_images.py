"""From a folder of one's own images to a trained bundle, with the commands."""

import io
import json
import os
import shutil
import subprocess
import sys

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
    assert code == 1 and "--data yolo" in err
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
