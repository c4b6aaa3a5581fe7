"""Hyperpriors in the C target: both streams equal those of Python for the same latent, bit for bit."""

import asyncio
import dataclasses
import importlib.util
import itertools
import os
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
from splitreg_compressai.hyperprior import MeanScaleHyperprior, ScaleHyperprior
from splitreg_compressai.tables import ROWS, scale_tables
from splitreg_targets.c_compiler import FLAGS, write_files, zig_compiler
from splitreg_targets.c_target import CTarget
from splitreg_targets.wasm_target import WasmTarget
from support.c_targets import (
    CHANNELS,
    DRIVER,
    LATENT,
    STRIDE,
    check,
    check_stream,
    compiled,
    images,
    run_driver,
    source_of,
)  # fmt: skip

from splitreg.bundle import Bundle
from splitreg.coding import (
    HyperModel,
    IntegerLayer,
    IntegerNetwork,
    Packet,
    SymbolModel,
)
from splitreg.edge import EdgeSource
from splitreg.errors import BundleError
from splitreg.networks import FixedConv
from splitreg.serving.page.edge import BrowserModels
from splitreg.specs import FeatureSpec

pytestmark = pytest.mark.integration

BOTTLENECKS = {"shp": ScaleHyperprior, "mshp": MeanScaleHyperprior}


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


@pytest.mark.parametrize("name", ["shp", "mshp", "mshp, several rates", "unusual"])
def test_frames_of_a_stream_equal_those_of_python(name, tmp_path):
    tables = unusual() if name == "unusual" else frozen(name.split(",")[0], 3 if "," in name else 1)
    check_stream(source_of(tables), tmp_path, 100 if "," in name else None)


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
