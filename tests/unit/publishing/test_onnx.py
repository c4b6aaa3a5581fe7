"""``edge.onnx``: right at every size or fixed, folded, the same bytes each time."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from support.toys import KEYS, ToyBottleneck, ToyCodec, registry
from torch import nn
from torch.nn import functional

import splitreg
from splitreg.assembly.edge import EdgeModel
from splitreg.coding import LatentCoding
from splitreg.errors import BundleError
from splitreg.imaging import Preprocess
from splitreg.publishing.onnx_export import export_edge, run_graph
from splitreg.publishing.onnx_graph import simplify
from splitreg.specs import FeatureSpec

pytestmark = pytest.mark.integration

SCENES = {
    "gdn": {"bottleneck": {"name": "fp", "encoder": "gdn", "channels": 4, "hidden": 8}},
    "light": {"bottleneck": {"name": "fp", "channels": 4, "hidden": 8, "encoder": "light"}},
    "feature": {"bottleneck": "quantise", "cut": "blocks.1"},
}


def edge_of(prefix):
    """An edge half with a network of the test's own before a toy encoder."""
    spec = FeatureSpec(channels=3, stride=1)
    torch.manual_seed(0)
    bottleneck = ToyBottleneck(spec, FeatureSpec(channels=4, stride=4))
    return EdgeModel(prefix, bottleneck, LatentCoding(codec=ToyCodec(), preprocess=Preprocess(size=(32, 48))))


def run(data, image):
    return onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(["latent"], {"image": image})[0]


def operators(data):
    return [node.op_type for node in onnx.load_from_string(data).graph.node]


@pytest.mark.parametrize("kind", SCENES)
def test_first_party_edges_are_right_at_every_size(kind):
    keys = {"backbone": "mobilenetv3_small_050", "heads": [{"name": "cls", "labels": 3}], "input": {"size": [64, 96]}}
    model = splitreg.build(**keys, **SCENES[kind]).eval()
    graph = export_edge(model.edge)
    assert graph.entry().dump() == {"dynamic": True, "compared_at": [[64, 96], [49, 117], [96, 80]]}
    for shape in ((1, 64, 96), (3, 65, 43), (2, 41, 128), (1, 127, 33)):
        image = torch.randn(shape[0], 3, *shape[1:])
        with torch.no_grad():
            expected = model.edge.latent(image).numpy()
        np.testing.assert_allclose(run(graph.data, image.numpy()), expected, atol=1e-4)
    assert export_edge(model.edge).data == graph.data
    loaded = onnx.load_from_string(graph.data)
    assert {item.domain for item in loaded.opset_import} == {""}, "any runtime reads it"
    sides = [d.dim_param for d in loaded.graph.input[0].type.tensor_type.shape.dim]
    assert sides == ["batch", "", "height", "width"]


def test_what_depends_on_weights_alone_is_folded():
    model = splitreg.build(
        backbone="mobilenetv3_small_050",
        heads=[{"name": "cls", "labels": 3}],
        input={"size": [64, 64]},
        **SCENES["gdn"],
    )
    data = export_edge(model.edge).data
    assert operators(data) == ["Conv", "Abs", "Conv", "Div", "Conv", "Abs", "Conv", "Div", "Conv"]
    assert len(onnx.load_from_string(data).graph.initializer) == 7, "five kernels, two betas"


class Reparametrised(nn.Module):
    """A weight that the exporter itself does not fold, and nodes that change nothing."""

    def __init__(self):
        super().__init__()
        self.raw = nn.Parameter(torch.randn(3, 3, 1, 1))
        self.idle = nn.Identity()

    def forward(self, x):
        return functional.conv2d(self.idle(x.float()), functional.softplus(self.raw).cumsum(1)).float()


def test_folding_knows_no_plugin():
    assert operators(export_edge(edge_of(Reparametrised())).data) == ["Conv", "Conv"]


class Sized(nn.Module):
    """Adds what depends on the size, through a Python number that a tracer writes down."""

    def forward(self, x):
        return x + float(x.shape[-1] * x.shape[-2]) / 1000


class Picky(nn.Module):
    def forward(self, x):
        if x.shape[-1] % 16:
            raise AssertionError("a width of sixteens")
        return x * 2


class Pooled(nn.Module):
    """The exporter knows it for one size, and raises where the size is free."""

    def forward(self, x):
        return functional.interpolate(functional.adaptive_avg_pool2d(x, (4, 6)), size=tuple(x.shape[-2:]))


@pytest.mark.parametrize(
    ("prefix", "words"), [(Sized(), "latent"), (Picky(), "a width of sixteens"), (Pooled(), "adaptive")]
)
def test_a_graph_that_is_wrong_elsewhere_is_fixed(prefix, words):
    edge = edge_of(prefix)
    graph = export_edge(edge)
    entry = graph.entry().dump()
    assert not entry["dynamic"] and words in entry["fixed_because"] and entry["compared_at"] == [[32, 48]]
    image = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        np.testing.assert_allclose(run(graph.data, image.numpy()), edge.latent(image).numpy(), atol=1e-5)
    with pytest.raises(Exception, match="image"):
        run(graph.data, np.zeros((1, 3, 32, 64), np.float32))


class Restless(nn.Module):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * self.calls


def test_a_graph_that_is_wrong_everywhere_is_refused():
    with pytest.raises(BundleError, match=r"32 pixels|48x32"):
        export_edge(edge_of(Restless()))


def test_an_operator_that_cannot_be_exported_is_an_error():
    class Unknown(nn.Module):
        def forward(self, x):
            return torch.special.airy_ai(x)

    with pytest.raises(BundleError, match="airy"):
        export_edge(edge_of(Unknown()))


def test_an_edge_on_a_graph_writes_the_same_packets():
    model = splitreg.build(registry=registry(), **KEYS).eval()
    model.freeze_tables()
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    edge = run_graph(model.edge, export_edge(model.edge).data, "edge.onnx")
    packet, reference = (np.frombuffer(half.encode(image)[0], np.uint8) for half in (edge, model.edge))
    assert (
        packet.shape == reference.shape and np.mean(packet != reference) < 0.02
    )  # a rounding, and with it the checksum


def graph_of(nodes, constants, shape=(1, 2)):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("latent", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.asarray(a), name) for name, a in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def test_identities_at_either_end_and_all_in_between():
    node = helper.make_node
    only = graph_of([node("Identity", ["image"], ["latent"])], {})
    assert operators(simplify(only)) == ["Identity"], "what leads from the input to the output stays"
    data = graph_of(
        [
            node("Identity", ["image"], ["a"]),
            node("Identity", ["w"], ["v"]),
            node("Mul", ["v", "w"], ["square"]),
            node("Add", ["a", "square"], ["b"]),
            node("Relu", ["b"], ["unused"]),
            node("Cast", ["b"], ["latent"], to=onnx.TensorProto.FLOAT),
        ],
        {"w": np.float32([2, -3])},
    )
    folded = onnx.load_from_string(simplify(data))
    assert folded.graph.node[0].op_type == "Add"
    assert [tuple(onnx.numpy_helper.to_array(i)) for i in folded.graph.initializer] == [(4, 9)]
    np.testing.assert_array_equal(run(folded.SerializeToString(), np.float32([[1, 1]])), [[5, 10]])


def test_random_numbers_are_not_folded():
    data = graph_of(
        [
            helper.make_node("RandomNormal", [], ["r"], shape=[1, 2]),
            helper.make_node("Add", ["image", "r"], ["latent"]),
        ],
        {},
    )
    assert "RandomNormal" in operators(simplify(data))


def test_a_graph_with_branches_is_left_as_it_is():
    def branch(name):
        value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 2))
        return helper.make_graph([helper.make_node("Mul", ["image", "w"], [name])], name, [], [value])

    nodes = [
        helper.make_node("Identity", ["v"], ["w"]),
        helper.make_node("If", ["yes"], ["latent"], then_branch=branch("a"), else_branch=branch("b")),
    ]
    data = graph_of(nodes, {"yes": np.bool_(True), "v": np.float32([2, 3])})
    np.testing.assert_array_equal(run(simplify(data), np.float32([[1, 1]])), [[2, 3]])
