"""Targets in bundles: published with options, kept when published again, and replayed by verify."""

import json
import shutil

import pytest
from support.bundles import save_with_onnx

import splitreg
from splitreg.bundle import Bundle
from splitreg.edge import EdgeSource
from splitreg.errors import BundleError, MissingExtra, RecipeError, UnknownComponent
from splitreg.publishing import PublishOptions, export_targets, publish, verify
from splitreg.publishing.targets import targets_of

pytestmark = pytest.mark.skipif(not any(map(shutil.which, ("cc", "gcc", "clang"))), reason="no C compiler is installed")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    model = splitreg.build(
        backbone="test_resnet", heads=[{"name": "cls", "labels": 3}], input={"size": [64, 96]},
        bottleneck={"name": "fp", "channels": 8, "hidden": 16, "decoder_hidden": 8, "from": "image"},
    )  # fmt: skip
    return save_with_onnx(model, tmp_path_factory.mktemp("bundle") / "plain")


@pytest.fixture(scope="module")
def published(bundle, tmp_path_factory):
    options = PublishOptions(targets=["onnx", {"name": "c", "max_width": 320}])
    return publish(bundle, tmp_path_factory.mktemp("published") / "with-c", options)


def test_files_and_description(published):
    opened = Bundle.open(published)
    (description,) = targets_of(opened)
    assert (description["target"], description["options"]) == ("c", {"max_width": 320})
    assert description["report"]["macs"] > 0 and description["report"]["max_width"] == 320
    assert {"targets/c/splitreg_model.c", "targets/c/splitreg_model.h", "targets/c/target.json"} <= set(
        opened.config.files
    )
    assert b"_MAX_WIDTH 320" in opened.read("targets/c/splitreg_model.h")


def test_verify_runs_the_target(published, bundle, tmp_path):
    (check,) = [check for check in verify(published) if check.name == "target c"]
    assert check.passed and "0.000%" in check.detail
    assert [check for check in verify(bundle) if check.name.startswith("target")] == []
    damaged = tmp_path / "damaged"
    shutil.copytree(published, damaged)
    (damaged / "targets" / "c" / "splitreg_model.c").write_text("int x;")
    assert not all(check.passed for check in verify(damaged))


def test_a_target_that_cannot_run_here_is_stated(published, monkeypatch):
    def nothing(*_):
        raise MissingExtra("no compiler at all")

    monkeypatch.setattr("splitreg_targets.c_target.build_library", nothing)
    (check,) = [check for check in verify(published) if check.name == "target c"]
    assert check.passed and "no compiler at all" in check.detail


def test_published_again_it_keeps_its_targets(published, tmp_path):
    again = publish(published, tmp_path / "again")
    assert targets_of(Bundle.open(again)) == targets_of(Bundle.open(published))
    without = publish(published, tmp_path / "without", PublishOptions(targets=[]))
    assert targets_of(Bundle.open(without)) == []


def test_mistakes_are_named(bundle):
    source = EdgeSource.read(bundle)
    for target, error, fact in (
        ("cc", UnknownComponent, "cc"), ({"name": "c", "sise": 3}, RecipeError, "size"),
        ({"name": "c", "size": [0, 4]}, BundleError, "0"), ({"name": "c", "precision": "int8"}, BundleError, "int8"),
    ):  # fmt: skip
        with pytest.raises(error, match=fact):
            export_targets(source, [target])


def test_options_travel_as_json(bundle):
    files = export_targets(EdgeSource.read(bundle), [{"name": "c", "size": [32, 64], "prefix": "tiny"}])
    description = json.loads(files["targets/c/target.json"])
    assert description["options"] == {"size": [32, 64], "prefix": "tiny"} and description["report"]["input"] == [32, 64]
    assert b"int32_t tiny_encode(" in files["targets/c/tiny.h"]
