"""The 8-bit edge half: published where no head loses by it, refused where one does."""

import json
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from support.bundles import read_raw, seal
from support.toys import KEYS, ToyData, ToyMetric, registry

import splitreg
from splitreg import imaging
from splitreg.assembly import load, save
from splitreg.bundle import hash_folder
from splitreg.cli.main import main
from splitreg.errors import BundleError, DataError, ImageError
from splitreg.evaluation import evaluate
from splitreg.publishing import Int8Edge, Int8Options, PublishOptions, publish, quantise_edge, verify
from splitreg.publishing.int8 import images_in, quantise_graph
from splitreg.publishing.onnx_export import export_edge
from splitreg.tasks import Sample

pytestmark = pytest.mark.integration

DATA = ToyData(None, "val", count=12)
IMAGES = [ToyData(None, "train")[i].array() for i in range(8)]


def blind(graph, inputs):
    """A quantisation gone wrong: all weights are zero."""
    model = onnx.load_from_string(quantise_graph(graph, inputs))
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.INT8 or (len(tensor.dims) == 4):
            tensor.CopyFrom(onnx.numpy_helper.from_array(0 * onnx.numpy_helper.to_array(tensor), tensor.name))
    return model.SerializeToString()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A model that tells dark from bright."""
    model = splitreg.build(registry=registry(), **KEYS)
    images = torch.stack([torch.full((3, 64, 64), (i % 2) * 2.0 - 1.0 + i / 20) for i in range(8)])
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        output = model(images)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(output.outputs["toy"], torch.arange(8) % 2).backward()
        optimizer.step()
    model.eval().freeze_tables()
    assert evaluate(model, DATA).metrics["toy"]["top1"] == 1.0
    return save(model, tmp_path_factory.mktemp("int8") / "bundle")


@pytest.fixture(scope="module")
def model(bundle):
    return load(bundle, registry=registry())


@pytest.fixture(scope="module")
def ready(model):
    return quantise_edge(model, IMAGES, DATA, Int8Options(dataset="toys val"))


@pytest.fixture
def published(bundle, ready, tmp_path):
    return publish(bundle, tmp_path / "published", PublishOptions(int8=ready), registry=registry())


def failed(bundle):
    return {check.name: check.detail for check in verify(bundle, registry=registry()) if not check.passed}


def test_the_gate_passes_and_its_figures_are_everywhere(published, ready):
    assert not failed(published)
    figures = read_raw(published)["edge"]["int8"]
    assert figures == json.loads((published / "metrics.json").read_text())["int8"] == ready.figures
    assert figures["heads"]["toy"] == {"metric": "top1", "float32": 1.0, "int8": 1.0, "loss": 0.0}
    assert figures["images"] == 12 and figures["calibration_images"] == 8 and 0 <= figures["symbols_changed"] < 0.3
    assert figures["bytes"]["float32"] == figures["bytes"]["int8"] == evaluate(load(published, registry=registry()), DATA).bytes.mean  # fmt: skip
    sent = [row["sent"] for row in json.loads((published / "metrics.json").read_text())["evaluations"]]
    assert sent == ["packet", "packet, 8-bit edge"]
    card = (published / "README.md").read_text()
    assert "**8-bit edge half**" in card and "| toy | top1 | 1.0000 | 1.0000 | +0.00% |" in card


def test_the_graph_is_in_eight_bits_and_takes_any_size(ready, model):
    graph = onnx.load_from_string(ready.data)
    assert {item.domain for item in graph.opset_import} == {""}, "the standard's operators: any runtime reads it"
    types = {i.data_type for i in graph.graph.initializer if len(i.dims) == 4}
    assert onnx.TensorProto.INT8 in types
    floats, eight = map(onnxruntime.InferenceSession, (export_edge(model.edge).data, ready.data))
    for shape in ((1, 3, 64, 64), (3, 3, 49, 85)):
        image = np.tile(imaging.prepare(IMAGES[0], model.edge.coding.preprocess)[0], (shape[0], 1, 2, 2))[
            ..., : shape[2], : shape[3]
        ]
        one, other = (graph.run(["latent"], {"image": image})[0] for graph in (floats, eight))
        assert one.shape == other.shape and 0 < np.abs(one - other).mean() < 0.1 * np.abs(one).mean() + 0.05


def test_the_same_calibration_gives_the_same_bytes(ready, model):
    assert quantise_edge(model, IMAGES, DATA).data == ready.data


def test_magnitudes_get_an_eight_bit_kernel_and_the_last_convolution_stays():
    keys = {"backbone": "mobilenetv3_small_050", "heads": [{"name": "cls", "labels": 3}], "input": {"size": [64, 64]}}
    gdn = splitreg.build(bottleneck={"name": "fp", "encoder": "gdn", "channels": 4, "hidden": 8}, **keys).eval()
    images = [np.random.default_rng(i).standard_normal((3, 64, 64), np.float32) for i in range(2)]
    nodes = onnx.load_from_string(quantise_graph(export_edge(gdn.edge).data, images)).graph.node
    kinds = [node.op_type for node in nodes]
    assert "Abs" not in kinds and kinds.count("LeakyRelu") == 2 and kinds.count("Div") == 2
    made_by = {name: node.op_type for node in nodes for name in node.output}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    assert [made_by.get(node.input[0]) for node in convolutions] == ["DequantizeLinear"] * 4 + ["Div"]


def test_the_gate_refuses_with_the_figures_in_one_line(model, monkeypatch):
    monkeypatch.setattr("splitreg.publishing.int8.quantise_graph", blind)
    figures = r"\btoy\b.*1\.00%.*top1 1\.0000 -> 0\.5000 \(\+50\.00%"
    with pytest.raises(BundleError, match=figures) as caught:
        quantise_edge(model, IMAGES, DATA, Int8Options(dataset="toys val"))
    assert "\n" not in str(caught.value)
    assert quantise_edge(model, IMAGES, DATA, Int8Options(gate=0.5)).figures["heads"]["toy"]["loss"] == 0.5


class Error(ToyMetric):
    def compute(self):
        return {"top1": 1 - super().compute()["top1"]}


@pytest.mark.parametrize("broken", [False, True])
def test_the_direction_of_a_metric_counts(model, monkeypatch, broken):
    head = type(model.head("toy"))
    monkeypatch.setattr(head, "lower_is_better", True)
    monkeypatch.setattr(head, "metric", lambda self: Error())
    if broken:
        monkeypatch.setattr("splitreg.publishing.int8.quantise_graph", blind)
        with pytest.raises(BundleError, match=r"top1 0\.0000 -> 0\.5000 \(\+50\.00%"):
            quantise_edge(model, IMAGES, DATA)
    else:
        assert quantise_edge(model, IMAGES, DATA).figures["heads"]["toy"]["loss"] == 0.0


class Unlabelled(ToyData):
    def __getitem__(self, index):
        return Sample(image=super().__getitem__(index).image, targets={}, name="bare")


def test_bad_input(model, tmp_path):
    with pytest.raises(DataError, match="calibrate"):
        quantise_edge(model, [], DATA)
    with pytest.raises(ImageError, match="8 bytes"):
        quantise_edge(model, [*IMAGES, b"no image"], DATA)
    with pytest.raises(DataError, match=r"\bbare\b.*\btoy\b"):
        quantise_edge(model, IMAGES, Unlabelled(None, "val", count=3), Int8Options(dataset="bare"))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=str(tmp_path)):
        images_in(tmp_path)
    with pytest.raises(BundleError, match="onnxruntime"):
        quantise_graph(export_edge(model.edge).data, [np.zeros((1, 8, 8), np.float32)])


def test_another_models_edge_is_refused_and_nothing_is_left(bundle, ready, tmp_path):
    other = Int8Edge(data=ready.data, model_id=ready.model_id ^ 1, figures=ready.figures)
    with pytest.raises(BundleError, match=f"{ready.model_id ^ 1:08x}.*{ready.model_id:08x}"):
        publish(bundle, tmp_path / "x", PublishOptions(int8=other), registry=registry())
    assert list(tmp_path.iterdir()) == []


def test_publishing_again_keeps_it_and_publishing_without_has_none(published, bundle, tmp_path):
    again = publish(published, tmp_path / "again" / "published", registry=registry())
    assert hash_folder(again) == hash_folder(published) and not failed(again)
    plain = publish(bundle, tmp_path / "plain", registry=registry())
    assert read_raw(plain)["edge"] == {"dynamic": True, "compared_at": [[64, 64], [49, 85], [96, 64]]}
    assert not any("int8" in name for name in hash_folder(plain)) and "8-bit" not in (plain / "README.md").read_text()


@pytest.mark.parametrize("name", ["edge.onnx", "edge.int8.onnx"])
def test_verify_notices_a_swapped_graph(published, name, tmp_path):
    other = splitreg.build(registry=registry(), **{**KEYS, "seed": 9}).eval()
    graph = export_edge(other.edge).data
    if name == "edge.int8.onnx":
        graph = quantise_graph(graph, [np.random.default_rng(0).standard_normal((3, 64, 64), np.float32)])
    (published / name).write_bytes(graph)
    assert set(failed(published)) == {"hashes"}
    seal(published)
    failures = failed(published)
    assert set(failures) == {name} and "%" in failures[name]


def test_verify_notices_float32_under_the_name_of_int8(published):
    shutil.copy(published / "edge.onnx", published / "edge.int8.onnx")
    seal(published)
    assert set(failed(published)) == {"edge.int8.onnx"}


@pytest.mark.parametrize("edge", [None, 3, {}, {"int8": 3}, {"int8": {"symbols_limit": "much"}}], ids=str)
def test_verify_says_that_a_limit_is_missing(published, edge):
    seal(published, edge=edge)
    assert "symbols_limit" in failed(published)["edge.int8.onnx"]


# The command line, on first-party plugins.

TINY = {
    "backbone": "test_resnet", "heads": ["cls"], "input": {"size": [64, 64]},
    "bottleneck": {"name": "fp", "encoder": "light", "channels": 4, "hidden": 8, "decoder_hidden": 8},
    "data": {"name": "scenes", "size": 64},
}  # fmt: skip


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["splitreg", *map(str, arguments)])
    try:
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, capsys.readouterr()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A bundle of first-party plugins, and a folder of images."""
    folder = tmp_path_factory.mktemp("drawn")
    bundle = save(splitreg.build(**TINY).eval(), folder / "bundle")
    (folder / "images" / "deep").mkdir(parents=True)
    for index, image in enumerate(IMAGES[:3]):
        Image.fromarray(image).save(folder / "images" / "deep" / f"{index}.PNG")
    (folder / "empty").mkdir()
    return bundle


@pytest.mark.parametrize("calibrate", ["folder", "scenes"])
def test_the_command_publishes(drawn, tmp_path, monkeypatch, capsys, calibrate):
    monkeypatch.setenv("SPLITREG_CACHE", str(tmp_path / "cache"))
    images = drawn.parent / "images" if calibrate == "folder" else "scenes"
    code, shown = run(
        monkeypatch, capsys, "publish", drawn, "-o", tmp_path / "out", "--data", "scenes", "--set", "count=8", "--set", "size=64",
        "--limit", "4", "--examples", "1", "--int8", "--calibrate", images, "--gate", "10", "--quiet",
    )  # fmt: skip
    assert code == 0 and shown.err == ""
    assert all(check.passed for check in verify(tmp_path / "out"))
    assert read_raw(tmp_path / "out")["edge"]["int8"]["images"] == 4


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--int8", "--data", "scenes"], 2, "--calibrate DIR|NAME"),
        (["--int8", "--calibrate", "images"], 2, "--data NAME"),
        (["--calibrate", "images"], 2, "--int8"),
        (["--gate", "0.1"], 2, "--int8"),
        (["--int8", "--calibrate", "empty", "--data", "scenes", "--set", "count=4"], 1, "empty"),
        (
            ["--int8", "--calibrate", "nothing-there", "--data", "scenes", "--set", "count=4"],
            1,
            "'nothing-there'",
        ),
        (["--int8", "--calibrate", "images", "--data", "scenes", "--gate", "-1"], 2, "--gate"),
    ],
)
def test_the_command_refuses_in_one_line_and_leaves_nothing(
    drawn, tmp_path, monkeypatch, capsys, arguments, code, words
):
    monkeypatch.setenv("SPLITREG_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(drawn.parent)
    status, shown = run(monkeypatch, capsys, "publish", drawn, "-o", tmp_path / "out", "--quiet", *arguments)
    assert status == code and words in shown.err and "Traceback" not in shown.err
    assert not (tmp_path / "out").exists() and not [p for p in tmp_path.iterdir() if p.name != "cache"]


def test_the_command_leaves_nothing_where_the_gate_refuses(drawn, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SPLITREG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        "splitreg.publishing.int8._losses", lambda *_: {"cls": dict(metric="top1", float32=1.0, int8=0.9, loss=0.1)}
    )
    code, shown = run(
        monkeypatch, capsys, "publish", drawn, "-o", tmp_path / "out", "--data", "scenes", "--set", "count=4", "--limit", "2",
        "--int8", "--calibrate", drawn.parent / "images", "--quiet",
    )  # fmt: skip
    assert code == 1 and shown.err.count("\n") == 1 and "cls" in shown.err and "1.00%" in shown.err
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]
