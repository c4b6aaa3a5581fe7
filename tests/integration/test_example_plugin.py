"""The example package as a third-party plugin: installed by pip into its own folder, discovered by its metadata."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from splitreg.assembly import load, load_server
from splitreg.errors import BundleError

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "splitreg-plugin-keypoints"

LIFE = """
import json, sys
import numpy as np
import splitreg
from splitreg.assembly import load_edge, load_server
from splitreg.publishing import PublishOptions, publish, verify
from splitreg.recipe import Recipe
from splitreg.training import TrainOptions, train

folder = sys.argv[1]
try:
    splitreg.plan(backbone="test_resnet", bottleneck={"name": "average", "chanels": 3}, codec="raw",
                  heads=[{"name": "keypoints", "labels": ["a"], "hiden": 3}])
except splitreg.errors.PlanError as error:
    misspelt = str(error)
recipe = Recipe.from_mapping({
    "backbone": "test_resnet", "bottleneck": {"name": "average", "channels": 6}, "heads": ["keypoints"],
    "data": [{"name": "corners", "count": 48, "size": 64}], "input": {"size": [64, 64]}, "augment": {"flip": 0},
    "stages": [{"epochs": 3, "batch_size": 8, "optimizer": {"name": "adamw", "lr": 3e-3}, "schedule": "constant"}],
})
result = train(recipe, folder + "/run", options=TrainOptions(device="cpu", tensorboard=False, progress=False))
splitreg.save(result.model, folder + "/saved")
publish(folder + "/saved", folder + "/bundle", PublishOptions(metrics={}))
image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
packet = load_edge(folder + "/bundle").encode(image)[0]
keypoints = load_server(folder + "/bundle").infer(packet)[0]["keypoints"]
print(json.dumps({
    "plan": result.model.plan.to_json(), "history": result.history, "bytes": len(packet),
    "misspelt": misspelt, "prediction": keypoints.to_json(), "drawn": list(keypoints.draw(image).shape),
    "checks": {check.name: check.passed for check in verify(folder + "/bundle")},
}))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Install the package, from a copy so that no build folder is left beside its source."""
    folder = tmp_path_factory.mktemp("example")
    source = shutil.copytree(
        EXAMPLE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    )
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    done = subprocess.run([*command, "--target", folder / "site", source], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def run(site, *arguments, **options):
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=env, **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def life(site, tmp_path_factory):
    folder = tmp_path_factory.mktemp("life")
    return folder, json.loads(run(site, "-c", LIFE, folder).splitlines()[-1])


def test_it_is_listed_with_its_package(site):
    rows = json.loads(run(site, "-m", "splitreg", "list", "--json"))
    mine = {(row["kind"], row["name"]): row for row in rows if row["package"] == "splitreg-plugin-keypoints"}
    assert set(mine) == {("head", "keypoints"), ("bottleneck", "average"), ("dataset", "corners")}
    assert all(row["status"] == "ok" for row in mine.values())


def test_it_is_shown_with_its_options(site):
    result = json.loads(run(site, "-m", "splitreg", "show", "head:keypoints", "--json"))
    assert set(result["options"]) == {"hidden", "decode"} and result["package"] == "splitreg-plugin-keypoints"


def test_it_is_checked_by_its_packages_name(site):
    rows = json.loads(run(site, "-m", "splitreg", "check", "splitreg-plugin-keypoints", "--json"))
    assert {row["plugin"] for row in rows} == {"head:keypoints", "bottleneck:average", "dataset:corners"}


def test_a_misspelt_option_of_it_gets_a_near_name(life):
    _, result = life
    assert all(name in result["misspelt"] for name in ("'chanels'", "'channels'", "'hiden'", "'hidden'"))


def test_its_whole_life(life):
    _, result = life
    assert result["plan"]["bottleneck"]["name"] == "average" and result["plan"]["heads"]["keypoints"]["classes"] == 4
    assert 20 < result["bytes"] < 2000
    points = result["prediction"]["points"]
    assert points[0]["label"] == "top left" and len(points) == 4
    # pixels of the original; a point may be in the border of the letterbox, 15 pixels above and below
    assert all(0 <= point["x"] <= 120 and -15 <= point["y"] <= 105 for point in points)
    assert len(result["history"]) == 3 and "pck" in result["history"][-1]["val"]["keypoints"]
    assert result["history"][2]["train"]["loss"] < result["history"][0]["train"]["loss"]
    assert result["checks"] and all(result["checks"].values())


def test_without_it_a_bundle_names_what_is_missing(life):
    folder, _ = life
    with pytest.raises(BundleError) as caught:
        load(folder / "bundle")
    assert "'keypoints'" in str(caught.value) and "'average'" in str(caught.value)
    with pytest.raises(BundleError, match="average"):
        load_server(folder / "bundle", heads=[])


def test_its_own_tests_pass(site, tmp_path):
    tests = shutil.copytree(EXAMPLE / "tests", tmp_path / "tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    run(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", tests, cwd=tmp_path)
