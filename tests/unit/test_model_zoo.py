"""Every recipe of the zoo stays short and plans on a dataset of its layout; every bundle verifies."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import splitreg
import splitreg.publishing
from splitreg.demo.run import recipe as demo_recipe

ZOO = Path(__file__).parents[2] / "model_zoo"
RECIPES = sorted((ZOO / "recipes").rglob("*.toml"))
BUNDLES = sorted(path.parent for path in ZOO.rglob("config.json"))


@pytest.fixture
def camvid(tmp_path):
    for split in ("train", "val"):
        for name in (split, f"{split}annot"):
            (tmp_path / name).mkdir()
            Image.fromarray(np.zeros((24, 32) if "annot" in name else (24, 32, 3), np.uint8)).save(
                tmp_path / name / "a.png"
            )
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(("car", "pedestrian", "bicyclist"))]
        images = [{"id": 1, "file_name": "a.png", "height": 24, "width": 32}]
        table = {"images": images, "annotations": [], "categories": categories}
        (tmp_path / f"instances_{split}.json").write_text(json.dumps(table))
    return tmp_path


def test_there_are_recipes():
    assert RECIPES


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_recipe_is_short_and_plans(path, camvid):
    assert len(path.read_text().splitlines()) <= 40
    recipe = splitreg.Recipe.read(path, [f"data.root={camvid}"])
    for _, point in recipe.points():
        planned = splitreg.plan(point)
        assert planned.shapes.latent[0] == planned.latent.channels


def test_the_demo_plans():
    assert [head.name for head in splitreg.plan(demo_recipe()).heads] == ["cls", "det", "seg"]


@pytest.mark.parametrize("path", BUNDLES, ids=lambda p: p.name)
def test_bundle_verifies(path):
    assert all(check.passed for check in splitreg.publishing.verify(path)), splitreg.publishing.verify(path)
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) <= 6_000_000
