"""The C target: equal packets, formats of pixels, rates, limits, and other machines."""

import dataclasses
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from splitreg_targets.c_compiler import FLAGS, build_library, write_files, zig_compiler
from splitreg_targets.c_graph import read_graph
from splitreg_targets.c_library import FORMATS, CLibrary
from splitreg_targets.c_schedule import plan_rows
from splitreg_targets.c_target import CTarget
from support.bundles import save_with_onnx

import splitreg
from splitreg import imaging
from splitreg.bundle import Bundle
from splitreg.coding import Packet
from splitreg.edge import EdgeEncoder, EdgeSource, load_network
from splitreg.errors import BundleError, ImageError, RecipeError

pytestmark = pytest.mark.integration

ZOO = ("camvid-small", "splitreg-camvid")
DRIVER = Path(__file__).with_name("driver.c")
#: Machine -> target of zig, and emulator.
MACHINES = {
    "aarch64": ("aarch64-linux-musl", "qemu-aarch64"),
    "armv7": ("arm-linux-musleabihf", "qemu-arm"),
    "riscv64": ("riscv64-linux-musl", "qemu-riscv64"),
}
#: Largest share of symbols that rounding may change; measured: 0 on the zoo's examples.
MAX_DIFFERENCE = 0.002


@pytest.fixture(scope="module", params=ZOO)
def model(request, tmp_path_factory):
    """Name, source at 96 x 96, exported files, and the compiled library."""
    source = EdgeSource.read(f"zoo:{request.param}").at((96, 96))
    files = CTarget().export(source).files
    folder = tmp_path_factory.mktemp(request.param)
    library = CLibrary(build_library(files, "splitreg_model", folder), "splitreg_model")
    return request.param, source, files, library


@pytest.fixture(scope="module")
def encoder(model):
    return EdgeEncoder.open(f"zoo:{model[0]}", size=(96, 96))


@pytest.fixture(scope="module")
def images(model):
    sheet = Image.open(Bundle.open(f"zoo:{model[0]}").folder / "examples.jpg").convert("RGB")
    sizes = [(96, 96), (192, 256), (480, 640), (97, 1000), (33, 20), (200, 200)]
    return [np.asarray(sheet.resize(size[::-1])) for size in sizes]


def difference(encoder, packet, image, rate=None):
    """The share of symbols that differ from those of onnxruntime."""
    latent, geometry = encoder.latent_of(image)
    parsed = Packet.parse(packet)
    assert (parsed.original, parsed.coded) == (geometry.original, geometry.coded)
    assert parsed.model_id == encoder.coding.model_id
    tables = encoder.coding.tables
    expected = tables.restore(latent, rate) if encoder.coding.has_rates else tables.restore(latent)
    return np.mean(encoder.coding.decode(parsed.streams, latent.shape) != expected)


def test_packets_equal_those_of_onnxruntime(model, encoder, images):
    _, _, _, library = model
    for image in images:
        packet = library.encode(image)
        latent, _ = encoder.latent_of(image)
        if image.shape[1] >= 96 or image.shape[0] <= 96:  # Pillow 13 has another order of the passes otherwise
            np.testing.assert_allclose(library.latent(latent.shape), latent, atol=2e-5)
        assert difference(encoder, packet, image) <= MAX_DIFFERENCE
        # given the same latent, the coder writes the same bytes
        assert packet == Packet(
            model_id=encoder.coding.model_id, original=image.shape[:2], coded=(96, 96),
            streams=encoder.coding.encode(library.latent(latent.shape)),
        ).to_bytes()  # fmt: skip


def test_the_coder_equals_that_of_python_on_any_image(model, encoder):
    """Noise has escapes, and contexts that ordinary images seldom reach."""
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (96, 96, 3), np.uint8), np.zeros((96, 96, 3), np.uint8)]
    images += [np.full((96, 96, 3), 255, np.uint8), (np.indices((96, 96, 3)).sum(0) % 2 * 255).astype(np.uint8)]
    for image in images:
        packet = model[3].encode(image)
        latent = model[3].latent((24, 12, 12))
        assert Packet.parse(packet).streams == encoder.coding.encode(latent)


def test_rates(model, encoder, images):
    library = model[3]
    if not encoder.coding.has_rates:
        with pytest.raises(RecipeError, match="7"):
            library.encode(images[0], rate=7)
        return
    sizes = []
    for rate in (0, 31, 128, 255):
        packet = library.encode(images[1], rate=rate)
        assert Packet.parse(packet).streams[0][0] == rate
        assert difference(encoder, packet, images[1], rate / 255) <= MAX_DIFFERENCE
        sizes.append(len(packet))
    assert sizes == sorted(sizes)


def yuv(image, full):
    """Planes of BT.601, with one chroma sample per 2 x 2 pixels; exact inverse up to rounding where chroma is constant."""
    r, g, b = (image[..., i].astype(np.float64) for i in range(3))
    y = 0.299 * r + 0.587 * g + 0.114 * b
    u, v = (b - y) * 0.564, (r - y) * 0.713
    scale = (1, 1, 0) if full else (219 / 255, 224 / 255, 16)
    planes = [y * scale[0] + scale[2], u * scale[1] + 128, v * scale[1] + 128]
    y, u, v = (np.clip(np.rint(plane), 0, 255).astype(np.uint8) for plane in planes)
    return y, np.ascontiguousarray(u[::2, ::2]), np.ascontiguousarray(v[::2, ::2])


def test_formats_of_pixels(model, images):
    library, image = model[3], images[1]
    rgb = library.encode(image)
    alpha = np.concatenate([image, np.full((*image.shape[:2], 1), 9, np.uint8)], 2)
    assert library.encode(alpha, format="rgba") == rgb
    grey = image[..., 1]
    assert library.encode(grey, format="grey") == library.encode(np.repeat(grey[..., None], 3, 2))
    packed = (
        (image[..., 0] >> 3).astype(np.uint16) << 11 | (image[..., 1] >> 2).astype(np.uint16) << 5 | image[..., 2] >> 3
    )
    r, g, b = packed >> 11, packed >> 5 & 63, packed & 31
    same = np.stack([r * 255 // 31, g * 255 // 63, b * 255 // 31], -1).astype(np.uint8)
    assert library.encode(packed.astype(">u2").view(np.uint8), format="rgb565") is not None
    blocks = np.repeat(np.repeat(same[:96:2, :96:2], 2, 0), 2, 1)  # constant chroma in 2 x 2 pixels
    library.encode(blocks)
    expected = library.latent((24, 12, 12))
    for full in (False, True):
        y, u, v = yuv(blocks, full)
        library.encode([y, u, v], format="i420", full_range=full)
        planar = library.latent((24, 12, 12))
        assert np.abs(planar - expected).mean() < 0.1 * np.abs(expected).mean()
        library.encode([y, np.stack([u, v], -1)], format="nv12", full_range=full)
        np.testing.assert_array_equal(library.latent((24, 12, 12)), planar)


def test_limits(model):
    library = model[3]
    for size in ((0, 8), (4, 1921)):
        with pytest.raises(ImageError, match=f"{size[1]}x{size[0]}"):
            library.encode(np.zeros((*size, 3), np.uint8))
    small = CLibrary.__new__(CLibrary)
    small._encode, small._out = library._encode, np.empty(80, np.uint8)
    with pytest.raises(BundleError, match="80"):
        small.encode(np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8))
    with pytest.raises(RecipeError, match="prefix"):
        CTarget(prefix="no name")
    with pytest.raises(RecipeError, match="max_width"):
        CTarget(max_width=0)
    with pytest.raises(RecipeError, match="int4"):
        CTarget(precision="int4")


def test_memory_grows_with_the_width_only(model):
    source = model[1]
    arenas = [plan_rows(read_graph(source.graph, size)).arena for size in ((96, 96), (192, 96), (96, 192))]
    assert arenas[0] == arenas[1] and 1.8 < arenas[2] / arenas[0] < 2.1


def test_report(model):
    report = CTarget(context=False).export(model[1]).report
    assert report["input"] == [96, 96] and report["latent"] == [24, 12, 12]
    assert report["weights_bytes"] >= 4 * report["parameters"] > 0
    macs = sum(
        layer.weight.size * np.prod(read_graph(model[1].graph, (96, 96)).features[layer.output][1:])
        for layer in read_graph(model[1].graph, (96, 96)).layers if layer.weight is not None
    )  # fmt: skip
    assert report["macs"] == macs
    assert (CTarget().export(model[1]).report["macs"] > macs) == model[1].coding.has_context


def pixels_of(model):
    return imaging.read(Bundle.open(f"zoo:{model[0]}").folder / "testvectors" / "image.png")


def run_driver(command, image, rate=-1):
    arguments = [str(image.shape[1]), str(image.shape[0]), str(FORMATS.index("rgb")), str(rate)]
    done = subprocess.run([*command, *arguments], input=image.tobytes(), capture_output=True, timeout=600, check=True)
    return done.stdout


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize(
    "flags", [["-DSR_PLAIN"], ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]]
)
def test_gcc(model, encoder, tmp_path, flags):
    """Without vectors of later processors; and under sanitizers. Packets are equal byte for byte."""
    image = pixels_of(model)
    write_files({**model[2], "driver.c": DRIVER.read_bytes()}, tmp_path)
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    command = ["gcc", *FLAGS, *warnings, *flags, "splitreg_model.c", "driver.c", "-o", "driver"]
    subprocess.run(command, cwd=tmp_path, check=True)
    packet = run_driver([tmp_path / "driver"], image)
    assert difference(encoder, packet, image) <= MAX_DIFFERENCE


def test_integers_equal_those_of_onnxruntime(model, images, tmp_path):
    """An 8-bit graph in C: integers stay integers, and latents equal onnxruntime's up to the rounding of floats."""
    from splitreg.publishing.int8 import quantise_graph

    source = model[1]
    inputs = (imaging.prepare(image, source.coding.preprocess)[0] for image in images)
    source = dataclasses.replace(source, int8=quantise_graph(source.graph, inputs))
    exported = CTarget(precision="int8").export(source)
    network = read_graph(source.int8, (96, 96))
    assert len(network.integers) >= 5 and sum(layer.int8 is not None for layer in network.layers) == 6
    report = CTarget().export(source).report
    assert exported.report["weights_bytes"] < 0.45 * report["weights_bytes"]
    assert exported.report["arena_bytes"] < 0.5 * report["arena_bytes"]
    library = CLibrary(build_library(exported.files, "splitreg_model", tmp_path), "splitreg_model")
    network = load_network("onnxruntime", source.int8, name="edge.int8.onnx", size=(96, 96))
    encoder = EdgeEncoder(network, source.coding)
    for image in images[:3]:
        packet = library.encode(image)
        latent, _ = encoder.latent_of(image)
        np.testing.assert_allclose(library.latent(latent.shape), latent, atol=1e-4)
        assert difference(encoder, packet, image) <= MAX_DIFFERENCE
    with pytest.raises(BundleError, match="int8"):
        CTarget(precision="int8").export(model[1])


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_the_example_of_a_camera_board_compiles(model, tmp_path):
    example = Path(__file__).parents[3] / "docs" / "examples" / "esp32"
    write_files(model[2], tmp_path)
    flags = ["-std=gnu99", "-Wall", "-Wextra", "-Werror", "-Os", "-I", str(tmp_path), "-I", str(example / "host")]
    subprocess.run(["gcc", *flags, "-c", str(example / "main.c"), "-o", str(tmp_path / "main.o")], check=True)


@pytest.mark.parametrize("machine", MACHINES)
def test_other_machines(tmp_path, machine):
    """Compiled with ziglang and run under qemu. CI installs both."""
    target, emulator = MACHINES[machine]
    if not os.environ.get("CI") and (shutil.which(emulator) is None or importlib.util.find_spec("ziglang") is None):
        pytest.skip(f"{emulator} or ziglang is not installed")
    name = "splitreg-camvid"
    image, encoder = pixels_of((name,)), EdgeEncoder.open(f"zoo:{name}", size=(96, 96))
    files = CTarget().export(EdgeSource.read(f"zoo:{name}").at((96, 96))).files
    write_files({**files, "driver.c": DRIVER.read_bytes()}, tmp_path)
    command = [*zig_compiler(target), *FLAGS, "splitreg_model.c", "driver.c", "-o", "driver"]
    subprocess.run(command, cwd=tmp_path, check=True)
    packet = run_driver([emulator, tmp_path / "driver"], image)
    assert difference(encoder, packet, image) <= MAX_DIFFERENCE


def test_operators_that_c_lacks_are_named(model):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load_from_string(model[1].graph)
    node = next(node for node in graph.graph.node if node.op_type == "HardSwish")
    node.op_type = "Softplus"
    source = EdgeSource(graph=graph.SerializeToString(), coding=model[1].coding)
    with pytest.raises(BundleError, match="Softplus"):
        CTarget().export(source)


@pytest.mark.parametrize("size", [(64, 96), (50, 38)])
def test_padding_that_follows_the_size_of_the_input(tmp_path, size):
    """Networks of TensorFlow pad more at the end, by a computation on the shape."""
    bottleneck = {"name": "fp", "from": "feature", "encoder": "light", "channels": 6}
    model = splitreg.build(
        backbone="tf_efficientnet_lite0", cut="blocks.1", heads=[{"name": "cls", "labels": 3}], bottleneck=bottleneck,
        input={"size": list(size)},
    )  # fmt: skip
    for parameter in model.bottleneck.encoder.parameters():  # an untrained encoder writes zeros only
        parameter.data *= 2
    source = EdgeSource.read(str(save_with_onnx(model, tmp_path / "bundle")))
    files = CTarget().export(source).files
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    packet = Packet.parse(CTarget().open(files, source)(image))
    latent, _ = EdgeEncoder.open(tmp_path / "bundle").latent_of(image)
    expected = source.coding.tables.restore(latent)
    decoded = source.coding.decode(packet.streams, latent.shape)
    assert np.mean(decoded != expected) < 0.01 and len(np.unique(expected)) > 2
