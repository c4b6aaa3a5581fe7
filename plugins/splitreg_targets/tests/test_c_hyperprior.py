"""Hyperpriors in the C target: both streams equal those of Python for the same latent, bit for bit."""

import asyncio
import ctypes
import dataclasses
import importlib.util
import itertools
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from splitreg_compressai.fixedpoint import FixedConv
from splitreg_compressai.hyperprior import MeanScaleHyperprior, ScaleHyperprior
from splitreg_compressai.tables import ROWS, scale_tables
from splitreg_targets.c_compiler import FLAGS, compile_c, find_compiler, write_files, zig_compiler
from splitreg_targets.c_library import CLibrary
from splitreg_targets.c_source import runtime_file
from splitreg_targets.c_target import CTarget
from splitreg_targets.wasm_target import WasmTarget

from splitreg.bundle import Bundle
from splitreg.coding import (
    FrameDecoder,
    FrameEncoder,
    HyperModel,
    IntegerLayer,
    IntegerNetwork,
    LatentCoding,
    Packet,
    RansCodec,
    SymbolModel,
    temporal_sources,
)
from splitreg.edge import EdgeSource
from splitreg.errors import BundleError, InvalidLatent
from splitreg.imaging import Preprocess
from splitreg.serving.page.edge import BrowserModels
from splitreg.specs import FeatureSpec

pytestmark = pytest.mark.integration

onnx = pytest.importorskip("onnx")

DRIVER = Path(__file__).with_name("driver.c")
CHANNELS, STRIDE, SIZE = 6, 4, (104, 76)
#: Pixels are divided by 256.
PREPROCESS = Preprocess(size=SIZE, mean=(0, 0, 0), std=(256 / 255,) * 3)
LATENT = (CHANNELS, SIZE[0] // STRIDE, SIZE[1] // STRIDE)
BOTTLENECKS = {"shp": ScaleHyperprior, "mshp": MeanScaleHyperprior}


def graph():
    """One convolution, without rounding. The first channel escapes, and that of white pixels is too large."""
    weight = np.rint(np.random.default_rng(0).normal(0, 128, (CHANNELS, 3, STRIDE, STRIDE))).astype(np.float32) / 64
    weight[0] = 256 * 704
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    size, float32 = {"kernel_shape": [STRIDE] * 2, "strides": [STRIDE] * 2}, onnx.TensorProto.FLOAT
    inputs, outputs = value("image", float32, ["b", 3, "h", "w"]), value("latent", float32, ["b", CHANNELS, "y", "x"])
    weights = [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(np.zeros(CHANNELS, "f"), "b")]
    convolution = node("Conv", ["image", "w", "b"], ["latent"], **size)
    network = onnx.helper.make_graph([convolution], "edge", [inputs], [outputs], weights)
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(network, opset_imports=opset).SerializeToString()


def frozen(name, rates=1):
    """Tables of an untrained bottleneck, with weights as large as training makes them."""
    torch.manual_seed(0)
    bottleneck = BOTTLENECKS[name](
        FeatureSpec(channels=3, stride=1), FeatureSpec(channels=4, stride=STRIDE), channels=CHANNELS, hidden=8,
        decoder_hidden=8, hyper_channels=5, hyper_hidden=16, rates=rates,
    )  # fmt: skip
    with torch.no_grad():
        for layer in bottleneck.modules():
            if isinstance(layer, FixedConv):
                layer.weight.mul_(1.7)
                layer.bias.normal_(0, 1.5)
    return bottleneck.freeze()


def network(random, widths, kernel, shift, inputs, hidden, output, largest=60):
    layers = [
        IntegerLayer(
            weight=random.integers(-largest, largest + 1, (after, before, kernel, kernel)).astype(np.int16),
            bias=random.integers(-999, 1000, after).astype(np.int32), shift=shift,
            low=(hidden if after != widths[-1] else output)[0], high=(hidden if after != widths[-1] else output)[1],
        )
        for before, after in itertools.pairwise(widths)
    ]  # fmt: skip
    return IntegerNetwork(layers, *inputs)


def unusual():
    """Another factor, wide sums, kernels of 3, more symbols in the hyper-latent, and networks that clip their input."""
    random, scales, wide, hyper = np.random.default_rng(1), scale_tables(), 4 * CHANNELS, 30
    rows = np.arange(hyper) + 12
    return HyperModel(
        channels=CHANNELS, factor=2, fraction=5, mean_fraction=6, scales=scales,
        hyper=SymbolModel.from_cdf(scales.cdf[rows], scales.lengths[rows], scales.offsets[rows]),
        analysis=network(random, [2 * wide, 9, hyper], 3, 23, (-32767, 32767), (-3000, 3000), (-90, 90), largest=32767),
        synthesis=network(random, [hyper, 7, 8], 3, 4, (-20, 20), (-400, 400), (-300, 300)),
        rows=network(random, [8, 5, wide], 1, 4, (0, 200), (0, 255), (0, ROWS - 1)),
        means=network(random, [8, wide], 1, 5, (-100, 255), (0, 0), (-900, 900)),
    )  # fmt: skip


def source_of(tables, adapt=True):
    coding = LatentCoding(codec=RansCodec(adapt=adapt), preprocess=PREPROCESS, frozen=tables, model_id=7)
    return EdgeSource(graph=graph(), coding=coding)


def compiled(source, folder, flags=("-O1", "-DSR_PLAIN")):
    """The compiled library; by default with the flags that compile fastest."""
    write_files(CTarget().export(source).files, folder)
    library = folder / "splitreg_model.so"
    compile_c(find_compiler(), ["-shared", "-fPIC", "splitreg_model.c", *flags, "-o", library], folder)
    return CLibrary(library, "splitreg_model")


def images():
    random = np.random.default_rng(0)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    yield np.stack([x * 255 // SIZE[1], y * 255 // SIZE[0], (x * y + 40 * (x // 8 + y // 8)) % 256], -1).astype(
        np.uint8
    )
    yield random.integers(0, 256, (*SIZE, 3), np.uint8)
    yield random.integers(0, 256, (50, 40, 3), np.uint8)
    yield np.zeros((*SIZE, 3), np.uint8)
    yield np.full((*SIZE, 3), 120, np.uint8)
    yield (np.indices((*SIZE, 3)).sum(0) % 2 * 255).astype(np.uint8)
    yield np.full((*SIZE, 3), 255, np.uint8)  # the latent is too large


def check(library, coding, image, rate=None):
    """Compare the streams of an image; return them, or nothing if the latent is too large for both."""
    share = None if rate is None else rate / 255
    try:
        data = library.encode(image, rate=-1 if rate is None else rate)
    except InvalidLatent:
        with pytest.raises(InvalidLatent):
            coding.encode(library.latent(LATENT), share)
        return ()
    packet = Packet.parse(data)
    latent = library.latent(LATENT)
    assert packet.streams == coding.encode(latent, share)
    assert (packet.original, packet.coded, packet.model_id) == (image.shape[:2], SIZE, 7)
    np.testing.assert_array_equal(
        coding.decode(packet.streams, LATENT), coding.tables.restore(latent, *([share] if coding.has_rates else []))
    )
    return packet.streams


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_streams_equal_those_of_python(name, tmp_path):
    source = source_of(frozen(name))
    library = compiled(source, tmp_path)
    streams = [check(library, source.coding, image) for image in images()]
    assert not streams[-1] and all(len(pair) == 2 for pair in streams[:-1])
    assert len({pair[1][0] for pair in streams[:-1]}) > 1  # other flags: lanes, or without adaptation
    tables = source.coding.tables
    latent = library.latent(LATENT)  # of white pixels, so brought into range
    hyper, rows, _ = tables.analyse(latent.clip(-(2**23), 2**23))
    assert len(np.unique(hyper)) > 1 and len(np.unique(rows.indexes)) > 5


@pytest.mark.parametrize("name", BOTTLENECKS)
def test_rates(name, tmp_path):
    source = source_of(frozen(name, rates=3))
    library = compiled(source, tmp_path)
    first = []
    for rate in (None, 0, 1, 100, 255):
        pairs = [check(library, source.coding, image, rate) for image in images()]
        assert all(not pair or pair[0][0] == (source.coding.tables.default if rate is None else rate) for pair in pairs)
        first.append(pairs[1])
    assert len(set(first)) == 5 and () in first  # at the largest gain the first channel is too large


def test_any_hyperprior_with_every_processors_loops(tmp_path):
    source = source_of(unusual())
    library = compiled(source, tmp_path, ["-O2"])
    assert "#define sr_exact int64_t" in (tmp_path / "splitreg_model.c").read_text()
    assert sum(len(check(library, source.coding, image)) for image in images()) >= 2


def test_without_adaptation_and_in_small_buffers(tmp_path):
    source = source_of(frozen("mshp"), adapt=False)
    library, image = compiled(source, tmp_path), next(images())
    check(library, source.coding, image)
    packet = library.encode(image)
    for capacity in (0, 63, 64, 90, 150, len(packet) // 2, len(packet) - 1):
        library._out = np.full(capacity + 16, 99, np.uint8)
        out, library._out = library._out, library._out[:capacity]
        with pytest.raises(BundleError, match=str(capacity)):
            library.encode(image)
        assert (out[capacity:] == 99).all()
    library._out = np.empty(len(packet) + 500, np.uint8)
    assert library.encode(image) == packet


def run_driver(command, image, rate=-1):
    arguments = [str(image.shape[1]), str(image.shape[0]), "0", str(rate)]
    done = subprocess.run([*command, *arguments], input=image.tobytes(), capture_output=True, timeout=600, check=True)
    return Packet.parse(done.stdout).streams


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """Source of a model with several rates, image, and its streams at the rate 100."""
    source, image = source_of(frozen("mshp", rates=3)), next(images())
    return source, image, check(compiled(source, tmp_path_factory.mktemp("mshp")), source.coding, image, 100)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_sanitizers(expected, tmp_path):
    source, image, streams = expected
    write_files({**CTarget().export(source).files, "driver.c": DRIVER.read_bytes()}, tmp_path)
    checks = ["-DSR_PLAIN", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    command = ["gcc", *FLAGS, *checks, *warnings, "splitreg_model.c", "driver.c", "-o", "driver"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert run_driver([tmp_path / "driver"], image, 100) == streams


def test_a_machine_of_32_bits(expected, tmp_path):
    if not os.environ.get("CI") and (shutil.which("qemu-arm") is None or importlib.util.find_spec("ziglang") is None):
        pytest.skip("qemu-arm or ziglang is not installed")
    source, image, streams = expected
    write_files({**CTarget().export(source).files, "driver.c": DRIVER.read_bytes()}, tmp_path)
    command = [*zig_compiler("arm-linux-musleabihf"), *FLAGS, "splitreg_model.c", "driver.c", "-o", "driver"]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert run_driver(["qemu-arm", tmp_path / "driver"], image, 100) == streams


def test_report_and_what_is_refused():
    tables = frozen("mshp", rates=3)
    (model,) = tables.models
    report = CTarget().export(source_of(model)).report
    positions = -(-LATENT[1] // 4) * -(-LATENT[2] // 4)
    networks = (model.analysis, model.synthesis, model.synthesis, model.rows, model.means)
    macs = sum(layer.weight.size for network in networks for layer in network.layers)
    assert report["macs"] == np.prod(LATENT) * 3 * STRIDE**2 + positions * macs
    assert report["tables_bytes"] > 2 * sum(layer.weight.size for layer in model.analysis.layers)
    several = dataclasses.replace(tables, models=(model, model))
    with pytest.raises(BundleError, match="2"):
        CTarget().export(source_of(several))


STREAMS = """
#define SR_STREAMS
#include "splitreg_model.c"
#include "stream.c"
void begin(uint32_t number) { sr_begin_stream(number); }
int32_t frame(const uint8_t *pixels, int32_t width, int32_t height, int32_t rate, int32_t key, uint8_t *packet) {
    const splitreg_model_image image = {width, height, 0 /* RGB */, 0, {pixels}, {3 * width}};
    return sr_encode_frame(&image, rate, key, packet);
}
"""


def frames():
    """A change of the light, objects that move, nothing, another scene."""
    first = next(images())
    yield from (first, first, np.minimum(first.astype(int) + 9, 255).astype(np.uint8))
    for shift in range(3):
        moved = first.copy()
        moved[10 + 8 * shift : 40 + 8 * shift, 20:60] = first[50:80, 8:48]
        yield moved
    yield np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    yield first


@pytest.mark.parametrize("name", ["shp", "mshp", "mshp, several rates", "unusual"])
def test_frames_of_a_stream_equal_those_of_python(name, tmp_path):
    tables = unusual() if name == "unusual" else frozen(name.split(",")[0], 3 if "," in name else 1)
    source = source_of(tables)
    write_files({**CTarget().export(source).files, **temporal_sources(), "stream.c": runtime_file("stream.c").encode(),
                 "test.c": STREAMS.encode()}, tmp_path)  # fmt: skip
    library = tmp_path / "splitreg_model.so"
    compile_c(find_compiler(), ["-shared", "-fPIC", "test.c", "-O1", "-DSR_PLAIN", "-o", library], tmp_path)
    code, model = ctypes.CDLL(str(library)), CLibrary(library, "splitreg_model")
    code.begin(5)
    python = FrameEncoder(source.coding, LATENT, stream=5)
    decoder = FrameDecoder(source.coding, LATENT, stream=5)
    out = np.empty(1 << 20, np.uint8)
    rate, kinds = (100 / 255 if "," in name else None), []
    for number, image in enumerate(frames()):
        pixels = np.ascontiguousarray(image)
        numbers = map(ctypes.c_int32, (*SIZE[::-1], -1 if rate is None else 100, number == 5))
        length = code.frame(ctypes.c_void_p(pixels.ctypes.data), *numbers, ctypes.c_void_p(out.ctypes.data))
        assert length > 0
        packet, latent = out[:length].tobytes(), model.latent(LATENT)
        assert packet == python.encode(latent, rate, key=number == 5)
        restored = source.coding.tables.restore(latent, *([rate] if rate else []))
        np.testing.assert_array_equal(decoder.decode(packet), restored)
        kinds.append(packet[0] & 1)
    assert kinds[:2] == [1, 0] and kinds[5] == 1 and 0 in kinds[2:5]


def test_a_hyperprior_runs_in_a_browser(monkeypatch, tmp_path):
    """The page gets the module, which in Node writes the streams that Python writes."""
    if shutil.which("node") is None:
        pytest.skip("needs Node")
    monkeypatch.setenv("SPLITREG_CACHE", str(tmp_path))
    source, place = source_of(frozen("mshp")), "zoo:splitreg-camvid"
    monkeypatch.setattr(EdgeSource, "read", lambda _: source)
    model_id = Bundle.open(place).config.id
    service = SimpleNamespace(models={model_id: None}, config=SimpleNamespace(bundles=(place,)))
    model = asyncio.run(BrowserModels(service).get(model_id))
    target = WasmTarget()
    exported = target.export(source)
    assert exported.files["splitreg-model.wasm"] == model
    image = next(images())
    packet = Packet.parse(target.open(exported.files, source)(image))
    assert packet.streams == check(compiled(source, tmp_path), source.coding, image)
