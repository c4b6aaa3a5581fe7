"""The zoo by name: in a checkout, installed, elsewhere, and when a name is wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import splitreg
from splitreg import zoo
from splitreg.assembly import load_edge, load_server
from splitreg.edge import EdgeEncoder, describe
from splitreg.errors import BundleError, RecipeError
from splitreg.publishing import verify
from splitreg.recipe import Recipe

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def test_everything_that_takes_a_bundle_takes_a_name():
    name = "zoo:camvid-small"
    model_id = splitreg.load(name).edge.coding.model_id
    for half in (load_edge(name), load_server(name, ["det"]), EdgeEncoder.open(name)):
        assert half.coding.model_id == model_id
    assert describe(name)["model_id"] == f"{model_id:08x}" and all(check.passed for check in verify(name))


def test_a_path_is_a_path(tmp_path):
    assert zoo.find_bundle(tmp_path / "x") == tmp_path / "x" and zoo.find_bundle("camvid-small") == Path("camvid-small")


def test_recipes_by_name(tmp_path, monkeypatch):
    file = ROOT / "model_zoo" / "recipes" / "scenes-small.toml"
    assert (
        Recipe.read("scenes-small")
        == Recipe.read("zoo:recipes/scenes-small")
        == Recipe.read("zoo:scenes-small")
        == Recipe.read(file)
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scenes-small").write_text('backbone = "mine"\nheads = ["cls"]')  # a file of that name comes first
    assert Recipe.read("scenes-small").backbone.name == "mine"
    assert Recipe.read("zoo:recipes/scenes-small").backbone.name != "mine"


@pytest.mark.parametrize(
    ("call", "error", "facts"),
    [
        (lambda: splitreg.load("zoo:camvid-smal"), BundleError, "'camvid-smal'.*'camvid-small'"),
        (lambda: splitreg.load("zoo:recipes/camvid-small"), BundleError, "splitreg train zoo:recipes/camvid-small"),
        (lambda: Recipe.read("scenes-smal"), RecipeError, "'scenes-smal'.*'scenes-small'"),
        (lambda: Recipe.read("zoo:recipes/x"), RecipeError, "'x'"),
        (lambda: Recipe.read("scenes-smal.toml"), RecipeError, "scenes-smal.toml"),
        (lambda: Recipe.read("zoo:../../etc/x"), RecipeError, "'../../etc/x'"),
        (lambda: splitreg.load("zoo:../camvid-small"), BundleError, "'../camvid-small'"),
    ],
)
def test_wrong_names(call, error, facts):
    with pytest.raises(error, match=facts):
        call()


def test_another_folder_and_none(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "model_zoo" / "camvid-small", tmp_path / "mine")
    monkeypatch.setenv("SPLITREG_ZOO", str(tmp_path))
    assert list(zoo.bundles()) == ["mine"] and zoo.recipes() == {}
    shutil.move(tmp_path / "mine", tmp_path / "local" / "made")
    assert (
        zoo.bundles() == {"made": tmp_path / "local" / "made"} and zoo.find_bundle("zoo:made") == zoo.bundles()["made"]
    )
    shutil.move(tmp_path / "local" / "made", tmp_path / "large" / "big")
    assert zoo.bundles() == {"big": tmp_path / "large" / "big"}
    shutil.move(tmp_path / "large" / "big", tmp_path / "mine")
    (tmp_path / "mine" / "metrics.json").write_text("{")
    with pytest.raises(BundleError, match="mine"):
        zoo.catalogue()
    monkeypatch.setenv("SPLITREG_ZOO", str(tmp_path / "nowhere"))
    with pytest.raises(BundleError, match="SPLITREG_ZOO.*nowhere"):
        zoo.catalogue()


def test_listing_names_every_bundle_and_recipe_and_is_light():
    code = (
        "import sys\nfrom click.testing import CliRunner\nfrom splitreg.cli.main import cli\n"
        "print(CliRunner().invoke(cli, ['list', 'zoo', '--json']).output)\n"
        "print([m for m in ('torch', 'numpy', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    *lines, heavy = done.stdout.strip().splitlines()
    rows = {row["name"]: row for row in json.loads("\n".join(lines))}
    assert heavy == "[]"
    assert set(rows) == {f"zoo:{n}" for n in zoo.bundles()} | {f"zoo:recipes/{n}" for n in zoo.recipes()}
    row = rows["zoo:camvid-small"]
    assert (
        list(row["heads"]) == ["seg", "det", "multilabel"]
        and row["packet_bytes"] > 0
        and "mIoU" in row["metrics"]["seg"]
    )


def test_a_wheel_brings_the_zoo(tmp_path):
    """Built as pip builds it, unpacked elsewhere, asked without the checkout."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "model_zoo", source / "model_zoo", ignore=shutil.ignore_patterns("large", "local"))
    for name in ("large", "local"):
        (source / "model_zoo" / name).mkdir()
        (source / "model_zoo" / name / "weights.bin").write_bytes(b"of a checkout")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "splitreg", source / "splitreg", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (source / "plugins").mkdir()
    built = tmp_path / "built"
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", built],
        cwd=source,
        check=True,
        capture_output=True,
    )
    code = "from splitreg import zoo; print(zoo.folder(), *zoo.bundles())"
    done = subprocess.run([sys.executable, "-c", code], cwd=built, capture_output=True, text=True, check=True)
    committed = [name for name, path in zoo.bundles().items() if path.parent == zoo.folder()]
    assert done.stdout.split() == [str(built / "splitreg" / "model_zoo"), *committed]
    assert not any((built / "splitreg" / "model_zoo" / name).exists() for name in ("large", "local"))
