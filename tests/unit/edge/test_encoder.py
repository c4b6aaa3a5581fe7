"""The torch-free encoder against the edge half in torch, and what it refuses."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.bundles import save_with_onnx, seal
from support.toys import KEYS, registry

import splitreg
from splitreg.assembly import EdgeModel, load_edge, save
from splitreg.coding import Packet
from splitreg.edge import RUNTIMES, EdgeEncoder, describe
from splitreg.errors import (
    BundleError,
    ImageError,
    InvalidLatent,
    MissingExtra,
    RecipeError,
    SplitregError,
    UnknownComponent,
)
from splitreg.registry import Registry
from splitreg.specs import ComponentSpec


@pytest.fixture(scope="module")
def model():
    model = splitreg.build(registry=registry(), **KEYS)
    with torch.no_grad():  # so that the latent has many values
        model.bottleneck.encoder.weight.mul_(30)
    return model


@pytest.fixture(scope="module")
def published(model, tmp_path_factory):
    return save_with_onnx(model, tmp_path_factory.mktemp("published") / "bundle")


@pytest.fixture
def bundle(published, tmp_path):
    return shutil.copytree(published, tmp_path / "bundle")


def image(seed=0, size=(50, 70)):
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(noise).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def open_(bundle, **options):
    return EdgeEncoder.open(bundle, registry=registry(), **options)


def symbols(half, image):
    """What a half rounds an image's latent to."""
    latent, _ = half.latent_of(image)
    (stream,) = Packet.parse(half.encode(image)[0]).streams
    return half.coding.codec.decode(stream, latent.shape, half.coding.tables)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("size", [None, (64, 64), (96, 32)], ids=str)
def test_packets_are_those_of_the_torch_side(runtime, size, published):
    pytest.importorskip(runtime)
    edge = load_edge(published, registry=registry())
    encoder = open_(published, runtime=runtime, size=size)
    if size is not None:
        edge.coding = replace(edge.coding, preprocess=encoder.coding.preprocess)
    images = [image(seed, shape) for seed, shape in enumerate([(50, 70), (64, 64), (1, 9), (300, 20)])]
    for pixels in images:
        packet, reference = Packet.parse(encoder.encode(pixels)[0]), Packet.parse(edge.encode(pixels)[0])
        assert replace(packet, streams=reference.streams) == reference and packet.coded == (size or (64, 64))
        latents = symbols(encoder, pixels), symbols(edge, pixels)
        assert np.abs(latents[0] - latents[1]).max() <= 1 and np.mean(latents[0] != latents[1]) < 0.005
        assert len(np.unique(latents[0])) > 5


def test_one_image_in_every_form_gives_one_packet(published, tmp_path):
    encoder, pixels = open_(published), image()
    path = tmp_path / "p.png"
    Image.fromarray(pixels).save(path)
    forms = [pixels, path, str(path), path.read_bytes(), Image.open(path)]
    assert {encoder.encode(form)[0] for form in forms} == {encoder.encode(pixels)[0]}
    assert encoder.encode(forms) == encoder.encode(pixels) * 5


def test_what_an_image_becomes_does_not_depend_on_its_neighbours(published):
    encoder = open_(published)
    images = [image(seed) for seed in range(3)]
    together = encoder.encode(images)
    assert together == [encoder.encode(p)[0] for p in images] and len(set(together)) == 3
    (batch,) = encoder.encode(images, batch=True)
    assert [image.to_bytes() for image in Packet.parse(batch).images] == together


def test_threads_do_not_change_the_packet(published):
    assert open_(published, threads=2).encode(image()) == open_(published).encode(image())


def test_it_shares_the_torch_sides_way_from_image_to_packet():
    for name in ("encode", "_encode_one", "latent_of"):
        assert getattr(EdgeEncoder, name) is getattr(EdgeModel, name)


def test_a_wrong_image_is_an_image_error(published, tmp_path):
    encoder = open_(published)
    whole = io.BytesIO()
    Image.fromarray(image()).save(whole, "PNG")
    for wrong in (tmp_path / "none.png", b"text", whole.getvalue()[:60], np.zeros((4, 4), np.float32), 7):
        with pytest.raises(ImageError):
            encoder.encode(wrong)


# --- options


@pytest.mark.parametrize(
    ("options", "fact"),
    [({"runtime": "onnxruntme"}, "onnxruntme.*'onnxruntime'"), ({"precision": "int4"}, "int4.*'int8'"),
     ({"threads": 0}, "threads"), ({"size": (0, 64)}, "size"), ({"size": (64,)}, "size"),
     ({"size": (2**20, 64)}, "size")],
    ids=str,
)  # fmt: skip
def test_an_option_that_is_not_one(options, fact, published):
    with pytest.raises(RecipeError, match=fact):
        open_(published, **options)


@pytest.mark.parametrize(("runtime", "extra"), [("onnxruntime", "edge"), ("openvino", "openvino")])
def test_a_runtime_that_is_not_installed_names_its_extra(runtime, extra, published, monkeypatch):
    monkeypatch.setitem(sys.modules, runtime, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'splitreg\[{extra}\]'"):
        open_(published, runtime=runtime)


def test_signals_arrive_after_encoders_of_openvino_are_freed_in_any_order(published):
    program = f"""
import gc, os, pathlib, signal
from splitreg.edge import load_network
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
graph = pathlib.Path({str(published / "edge.onnx")!r}).read_bytes()
networks = [load_network("openvino", graph, name="edge.onnx", size=(64, 64), threads=1) for _ in range(3)]
while networks:
    del networks[0]
    gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


@pytest.mark.parametrize("edge", [None, {"dynamic": False}, {"dynamic": 1}, {}, 3], ids=str)
def test_another_size_needs_a_graph_that_says_it_takes_any(edge, bundle):
    seal(bundle, edge=edge)
    assert open_(bundle).encode(image()) and open_(bundle, size=(64, 64)).encode(image())
    with pytest.raises(BundleError, match="64x64"):
        open_(bundle, size=(32, 32))


def test_the_8_bit_graph_is_used_where_it_is_there(bundle):
    with pytest.raises(BundleError, match="splitreg publish .*--int8 --calibrate"):
        open_(bundle, precision="int8")
    graph = onnx.load(bundle / "edge.onnx")
    for tensor in graph.graph.initializer:  # stands for other rounding
        array = onnx.numpy_helper.to_array(tensor)
        tensor.CopyFrom(onnx.numpy_helper.from_array((array * np.float32(1.2)).astype(array.dtype), tensor.name))
    onnx.save(graph, bundle / "edge.int8.onnx")
    seal(bundle)
    assert open_(bundle, precision="int8").encode(image()) != open_(bundle).encode(image())
    assert set(describe(bundle)["bytes"]) == {"edge.safetensors", "edge.onnx", "edge.int8.onnx"}


def test_a_bundle_without_a_graph_says_how_to_get_one(model, tmp_path):
    bundle = save(model, tmp_path / "b")
    with pytest.raises(BundleError, match="edge.onnx.*splitreg publish"):
        open_(bundle)


# --- what is read is checked


@pytest.mark.parametrize("name", ["edge.onnx", "edge.safetensors"])
@pytest.mark.parametrize("how", ["swapped", "missing", "unlisted"])
def test_a_file_of_another_bundle_is_refused(name, how, bundle, tmp_path):
    if how == "swapped":
        other = splitreg.build(registry=registry(), **{**KEYS, "seed": 9})
        shutil.copy(save_with_onnx(other, tmp_path / "other") / name, bundle / name)
    else:
        (bundle / name).unlink()
        if how == "unlisted":
            seal(bundle)
    with pytest.raises(BundleError, match=name):
        open_(bundle)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["config.json", "edge.onnx", "edge.safetensors"]), data=st.data())
def test_any_damage_is_a_bundle_error(name, data, published, tmp_path_factory):
    bundle = tmp_path_factory.mktemp("damaged") / "b"
    shutil.copytree(published, bundle, ignore=shutil.ignore_patterns("heads", "testvectors", "server.*", "*.md"))
    whole = bytearray((bundle / name).read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        whole[at] ^= data.draw(st.integers(1, 255))
    else:
        del whole[at:]
    if name == "config.json":
        with contextlib.suppress(ValueError):
            assume(json.loads(whole) != json.loads((bundle / name).read_text()))  # white space
    (bundle / name).write_bytes(whole)
    with pytest.raises(BundleError):
        open_(bundle)


def graph_with(bundle, change):
    """Change the graph of a bundle and seal it again."""
    graph = onnx.load(bundle / "edge.onnx")
    change(graph.graph)
    onnx.save(graph, bundle / "edge.onnx")
    return seal(bundle)


def rename_input(graph):
    graph.input[0].name = "frame"
    for node in graph.node:
        node.input[:] = ["frame" if name == "image" else name for name in node.input]


def rename_output(graph):
    graph.output[0].name = graph.node[-1].output[0] = "features"


def second_output(graph):
    graph.output.append(onnx.helper.make_tensor_value_info(graph.node[0].output[0], 1, None))


def other_size(graph):
    for axis, length in zip((2, 3), (32, 32), strict=True):
        graph.input[0].type.tensor_type.shape.dim[axis].dim_value = length


def other_channels(graph):
    last = graph.node[-1]
    for tensor in graph.initializer:
        if tensor.name in last.input:
            array = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array[:1].copy(), tensor.name))
    graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1


def no_graph(graph):
    graph.node[0].op_type = "Frobnicate"


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(
    "change", [rename_input, rename_output, second_output, other_size, other_channels, no_graph], ids=lambda f: f.__name__
)  # fmt: skip
def test_a_graph_with_another_interface_is_refused(change, runtime, bundle):
    pytest.importorskip(runtime)
    with pytest.raises(BundleError, match="edge.onnx"):
        open_(graph_with(bundle, change), runtime=runtime)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_latent_that_is_not_finite_is_refused(value, runtime, bundle):
    pytest.importorskip(runtime)

    def poison(graph):
        tensor = next(t for t in graph.initializer if t.name in graph.node[-1].input)
        array = onnx.numpy_helper.to_array(tensor).copy()
        array.ravel()[0] = value
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))

    with pytest.raises(InvalidLatent):
        open_(graph_with(bundle, poison), runtime=runtime).encode(image())


@pytest.mark.parametrize(
    "changes",
    [{"preprocess": {}}, {"preprocess": {"size": [64, 64], "std": [0, 1, 1]}}, {"preprocess": {"size": [64]}},
     {"preprocess": {"size": "ab"}}, {"recipe": {}}, {"recipe": {"codec": "toy"}}, {"recipe": {"codec": {"name": 3}}},
     {"recipe": {"codec": {"name": "toy", "level": 3}}}],
    ids=str,
)  # fmt: skip
def test_a_config_of_another_form_is_refused(changes, bundle):
    with pytest.raises(BundleError):
        open_(seal(bundle, **changes))
    with pytest.raises(SplitregError):
        describe(seal(bundle, files={"edge.onnx": "0" * 64}))


# --- codecs


def test_a_codec_that_nobody_claims_is_named_with_its_package(published):
    with pytest.raises(UnknownComponent, match=r"'toy'"):
        EdgeEncoder.open(published, registry=Registry.of())


def test_a_codec_whose_library_is_missing_says_what_to_do(published, tmp_path, monkeypatch):
    (tmp_path / "needy_codec.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    needy = ComponentSpec(kind="codec", name="toy", api=1, target="needy_codec:Needy", summary="Needs a library.")
    with pytest.raises(MissingExtra, match="'toy'.*not_there_at_all.*pip install"):
        EdgeEncoder.open(published, registry=Registry.of(needy))
