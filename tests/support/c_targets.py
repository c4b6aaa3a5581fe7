"""A toy edge half for tests of the C target: one convolution, and any tables."""

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from splitreg_targets.c_compiler import compile_c, find_compiler, write_files
from splitreg_targets.c_library import CLibrary
from splitreg_targets.c_source import runtime_file
from splitreg_targets.c_target import CTarget

from splitreg.coding import FrameDecoder, FrameEncoder, LatentCoding, Packet, RansCodec, temporal_sources
from splitreg.edge import EdgeSource
from splitreg.errors import InvalidLatent
from splitreg.imaging import Preprocess

DRIVER = Path(__file__).parents[2] / "plugins" / "splitreg_targets" / "tests" / "driver.c"
CHANNELS, STRIDE, SIZE = 6, 4, (104, 76)
#: Pixels are divided by 256.
PREPROCESS = Preprocess(size=SIZE, mean=(0, 0, 0), std=(256 / 255,) * 3)
LATENT = (CHANNELS, SIZE[0] // STRIDE, SIZE[1] // STRIDE)


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


def source_of(tables, adapt=True):
    coding = LatentCoding(codec=RansCodec(adapt=adapt), preprocess=PREPROCESS, frozen=tables, model_id=7)
    return EdgeSource(graph=graph(), coding=coding)


def compiled(source, folder, flags=("-O1", "-DSR_PLAIN"), **options):
    """The compiled library; by default with the flags that compile fastest."""
    write_files(CTarget(**options).export(source).files, folder)
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
        coding.decode(packet.streams, LATENT, context=packet.context),
        coding.tables.restore(latent, *([share] if coding.has_rates else [])),
    )
    return packet.streams


def run_driver(command, image, rate=-1):
    arguments = [str(image.shape[1]), str(image.shape[0]), "0", str(rate)]
    done = subprocess.run([*command, *arguments], input=image.tobytes(), capture_output=True, timeout=600, check=True)
    return Packet.parse(done.stdout).streams


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


def check_stream(source, folder, rate=None, **options):
    """Frames equal those of Python, byte for byte."""
    write_files({**CTarget(**options).export(source).files, **temporal_sources(), "stream.c": runtime_file("stream.c").encode(),
                 "test.c": STREAMS.encode()}, folder)  # fmt: skip
    library = folder / "splitreg_model.so"
    compile_c(find_compiler(), ["-shared", "-fPIC", "test.c", "-O1", "-DSR_PLAIN", "-o", library], folder)
    code, model = ctypes.CDLL(str(library)), CLibrary(library, "splitreg_model")
    code.begin(5)
    python = FrameEncoder(source.coding, LATENT, stream=5)
    decoder = FrameDecoder(source.coding, LATENT, stream=5)
    out = np.empty(1 << 20, np.uint8)
    share, kinds = (None if rate is None else rate / 255), []
    for number, image in enumerate(frames()):
        pixels = np.ascontiguousarray(image)
        numbers = map(ctypes.c_int32, (*SIZE[::-1], -1 if rate is None else rate, number == 5))
        length = code.frame(ctypes.c_void_p(pixels.ctypes.data), *numbers, ctypes.c_void_p(out.ctypes.data))
        assert length > 0
        packet, latent = out[:length].tobytes(), model.latent(LATENT)
        assert packet == python.encode(latent, share, key=number == 5)
        restored = source.coding.tables.restore(latent, *([] if share is None else [share]))
        np.testing.assert_array_equal(decoder.decode(packet), restored)
        kinds.append(packet[0] & 1)
    assert kinds[:2] == [1, 0] and kinds[5] == 1 and 0 in kinds[2:5]
