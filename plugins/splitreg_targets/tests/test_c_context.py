"""Context networks in the C target: payloads equal those of Python for the same latent, byte for byte."""

import importlib.util
import os
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
from splitreg_classic.calibrated import Calibrated
from splitreg_compressai.factorized import FactorizedPrior
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

from splitreg.coding import Packet, VariableModel
from splitreg.errors import BundleError, RecipeError
from splitreg.specs import FeatureSpec

pytestmark = pytest.mark.integration


def frozen(rates=1):
    """Tables and the context network of an untrained bottleneck, whose corrections are large."""
    torch.manual_seed(0)
    bottleneck = FactorizedPrior(
        FeatureSpec(channels=3, stride=1), FeatureSpec(channels=4, stride=STRIDE), channels=CHANNELS, hidden=8,
        decoder_hidden=8, rates=rates, context=12, context_units=3,
    )  # fmt: skip
    with torch.no_grad():
        bottleneck.context.logits.weight.normal_(0, 0.2)
    return bottleneck.freeze()


def test_every_rate_of_a_calibrated_bottleneck(tmp_path):
    torch.manual_seed(0)
    feature = FeatureSpec(channels=CHANNELS, stride=STRIDE)
    bottleneck = Calibrated(feature, feature, context=12, context_units=3)
    with torch.no_grad():
        bottleneck.context.logits.weight.normal_(0, 0.2)
    source = source_of(bottleneck.freeze())
    library, image = compiled(source, tmp_path), next(images())
    sizes = [len(check(library, source.coding, image, rate)[0]) for rate in (0, 60, 130)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_payloads_equal_those_of_python(tmp_path):
    source = source_of(frozen())
    library = compiled(source, tmp_path)
    streams = [check(library, source.coding, image) for image in images()]
    assert not streams[-1] and all(len(parts) == 1 for parts in streams[:-1])
    assert len(set(streams)) > 4


def test_without_the_network(tmp_path):
    """The option leaves it out of the code, and the packets say so."""
    source = source_of(frozen(rates=3))
    alone = replace(source, coding=replace(source.coding, context=False))
    for name in ("with", "stream"):
        (tmp_path / name).mkdir()
    small = compiled(source, tmp_path, context=False)
    compiled(source, tmp_path / "with")
    texts = [(folder / "splitreg_model.c").read_text() for folder in (tmp_path, tmp_path / "with")]
    assert ["sr_contexts[" in text for text in texts] == [False, True]
    for image in [*images()][:3]:
        streams = check(small, alone.coding, image, 50)
        packet = Packet.parse(small.encode(image, rate=50))
        assert packet.streams == streams and not packet.context
        latent = small.latent(LATENT)
        wanted = source.coding.decode(source.coding.encode(latent, 50 / 255), LATENT)
        np.testing.assert_array_equal(source.coding.decode(streams, LATENT, context=False), wanted)
    check_stream(alone, tmp_path / "stream", 100, context=False)


def test_rates_share_one_network(tmp_path):
    source = source_of(frozen(rates=3))
    library = compiled(source, tmp_path, ["-O2"])  # with every processor's loops
    text = (tmp_path / "splitreg_model.c").read_text()
    assert "sr_context_around_0[" in text and "sr_context_around_1[" not in text and "sr_context_logits_2[" in text
    image = next(images())
    sizes = [len(check(library, source.coding, image, rate)[0]) for rate in (0, 1, 50, 100)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1]


def test_small_buffers_are_refused(tmp_path):
    source = source_of(frozen())
    library, image = compiled(source, tmp_path), next(images())
    packet = library.encode(image)
    for capacity in (0, 20, 64, len(packet) // 2, len(packet) - 1):
        out = np.full(capacity + 16, 99, np.uint8)
        library._out = out[:capacity]
        with pytest.raises(BundleError, match=str(capacity)):
            library.encode(image)
        assert (out[capacity:] == 99).all()


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_sanitizers(tmp_path):
    source, image = source_of(frozen(rates=3)), next(images())
    write_files({**CTarget().export(source).files, "driver.c": DRIVER.read_bytes()}, tmp_path)
    checks = ["-DSR_PLAIN", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    warnings = ["-Wall", "-Wextra", "-Werror", "-Wno-psabi"]
    command = ["gcc", *FLAGS, *checks, *warnings, "splitreg_model.c", "driver.c", "-o", "driver"]
    subprocess.run(command, cwd=tmp_path, check=True)
    streams = check(compiled(source, tmp_path), source.coding, image, 100)
    assert run_driver([tmp_path / "driver"], image, 100) == streams


def test_a_machine_of_32_bits(tmp_path):
    if not os.environ.get("CI") and (shutil.which("qemu-arm") is None or importlib.util.find_spec("ziglang") is None):
        pytest.skip("qemu-arm or ziglang is not installed")
    source, image = source_of(frozen(rates=3)), next(images())
    write_files({**CTarget().export(source).files, "driver.c": DRIVER.read_bytes()}, tmp_path)
    command = [*zig_compiler("arm-linux-musleabihf"), *FLAGS, "splitreg_model.c", "driver.c", "-o", "driver"]
    subprocess.run(command, cwd=tmp_path, check=True)
    streams = check(compiled(source, tmp_path), source.coding, image, 100)
    assert run_driver(["qemu-arm", tmp_path / "driver"], image, 100) == streams


@pytest.mark.parametrize("rate", [None, 100])
def test_frames_of_a_stream_equal_those_of_python(rate, tmp_path):
    check_stream(source_of(frozen(1 if rate is None else 3)), tmp_path, rate)


def test_webassembly(tmp_path):
    if shutil.which("node") is None:
        pytest.skip("needs Node")
    source, image, target = source_of(frozen()), next(images()), WasmTarget()
    exported = target.export(source)
    packet = Packet.parse(target.open(exported.files, source)(image))
    assert packet.streams == check(compiled(source, tmp_path), source.coding, image)


def test_report_and_what_is_refused():
    tables = frozen(rates=3)
    context = tables.models[0].context
    report = CTarget().export(source_of(tables)).report
    weights = sum(layer.weight.size for layer in (context.around, context.hidden, context.here, context.logits))
    assert report["tables_bytes"] > 2 * weights
    assert report["macs"] > CTarget().export(source_of(frozen().with_context(None))).report["macs"]
    mixed = VariableModel(
        models=(tables.models[0], tables.models[1].with_context(None), tables.models[2]), chosen=tables.chosen,
        gains=tables.gains, inverses=tables.inverses, shift=tables.shift, default=tables.default,
    )  # fmt: skip
    with pytest.raises(BundleError, match="at all rates or at none"):
        CTarget().export(source_of(mixed))


@pytest.mark.parametrize("target", [CTarget, WasmTarget])
def test_the_option_is_true_or_false(target):
    with pytest.raises(RecipeError, match="true or false, got 'no'"):
        target(context="no")
