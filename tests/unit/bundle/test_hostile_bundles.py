"""Bundles that would take gigabytes or never end are refused; what a killed process leaves is removed."""

import copy
import json
import os
import signal
import subprocess
import sys

import pytest
from support.bundles import save_with_onnx

import splitreg
from splitreg.bundle import Bundle, BundleConfig, config
from splitreg.edge import EdgeEncoder
from splitreg.edge.runtimes import load_network
from splitreg.errors import BundleError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    bottleneck = {"name": "fp", "channels": 6, "hidden": 8, "from": "image"}
    heads = [{"name": "cls", "labels": 3}]
    model = splitreg.build(backbone="test_resnet", bottleneck=bottleneck, heads=heads, input={"size": [64, 96]})
    return save_with_onnx(model, tmp_path_factory.mktemp("bundle") / "b")


def parse(bundle, change):
    table = copy.deepcopy(json.loads((bundle / "config.json").read_text()))
    change(table)
    table["digest"] = config._digest({key: value for key, value in table.items() if key != "digest"})
    return BundleConfig.parse(table)


def test_sizes_of_a_config_are_limited(bundle, monkeypatch):
    with pytest.raises(BundleError, match="20000x20000"):
        parse(bundle, lambda table: table["preprocess"].update(size=[20000, 20000]))
    labels = ["a"] * (config.MAX_LABELS + 1)
    with pytest.raises(BundleError, match="100001"):
        parse(bundle, lambda table: table["recipe"]["heads"][0].update(labels=labels))
    assert parse(bundle, lambda table: None).id == Bundle.open(bundle).config.id
    monkeypatch.setattr(config, "MAX_CONFIG_BYTES", 100)
    with pytest.raises(BundleError, match="100"):
        Bundle.open(bundle)


def test_a_graph_with_a_loop_is_refused(bundle):
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["again"])], "body",
        [helper.make_tensor_value_info("i", kind.INT64, []), helper.make_tensor_value_info("go", kind.BOOL, [])],
        [helper.make_tensor_value_info("again", kind.BOOL, [])],
    )  # fmt: skip
    count = helper.make_tensor("count", kind.INT64, [], [2**60])
    yes = helper.make_tensor("yes", kind.BOOL, [], [True])
    nodes = [
        helper.make_node("Loop", ["count", "yes"], [], body=body),
        helper.make_node("Identity", ["image"], ["latent"]),
    ]
    shape = ["n", 3, 64, 96]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", kind.FLOAT, shape)],
        [helper.make_tensor_value_info("latent", kind.FLOAT, shape)], [count, yes],
    )  # fmt: skip
    with pytest.raises(BundleError, match="Loop"):
        load_network("onnxruntime", helper.make_model(graph).SerializeToString(), name="edge.onnx", size=(64, 96))
    assert EdgeEncoder.open(bundle)


KILLED = """
import os, sys
from pathlib import Path
from splitreg.bundle import writing
if sys.argv[2] == "swap":
    os.rename = lambda old, new, rename=os.rename: rename(old, new) or (os.kill(os.getpid(), 9) if "bundle" in str(new) else 0)
with writing.new_folder(Path(sys.argv[1]), overwrite=True) as folder:
    (folder / "config.json").write_text("{}")
    if sys.argv[2] == "write":
        os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("moment", ["write", "swap"])
def test_what_a_killed_process_leaves_is_removed(tmp_path, moment):
    from splitreg.bundle.writing import new_folder

    place = tmp_path / "b[1]"
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"format": config.FORMAT, "old": True}))
    process = subprocess.run([sys.executable, "-c", KILLED, str(place), moment])
    assert process.returncode == -signal.SIGKILL and len(list(tmp_path.iterdir())) > 1
    for left in tmp_path.glob(".*"):
        os.utime(left, (0, 0))
    with new_folder(place, overwrite=True) as running:
        assert json.loads((place / "config.json").read_text())["old"]  # also if it was being replaced
        assert {path.name for path in tmp_path.iterdir()} == {place.name, running.name}
        other = tmp_path / ".b[1].notours"
        other.mkdir()
        with new_folder(place, overwrite=True) as second:
            assert running.exists() and second.exists()  # a process that lives keeps its own
            (second / "config.json").write_text(json.dumps({"format": config.FORMAT}))
        (running / "config.json").write_text(json.dumps({"format": config.FORMAT}))
    assert {path.name for path in tmp_path.iterdir()} == {place.name, other.name}
    assert os.listdir(place) == ["config.json"]
