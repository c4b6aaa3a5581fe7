"""PNG, JPEG and WebP: tiling, losslessness, closeness, and images that are not the expected ones."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from splitreg_classic.images import Jpeg, Png, Webp
from splitreg_classic.tiling import grid, tile, untile

from splitreg.coding import SymbolModel
from splitreg.errors import CorruptPacket, InvalidLatent, RecipeError, ShapeMismatch

LOSSLESS = [Png(), Png(level=1), Webp()]
LOSSY = [Jpeg(), Jpeg(quality=40), Webp(quality=80)]


def plain(channels, bits=8):
    return SymbolModel.plain("uniform", channels, bits)


def smooth(shape, bits, seed=0):
    """Symbols like features: smooth over the image."""
    coarse = np.random.default_rng(seed).random((shape[0], -(-shape[1] // 4), -(-shape[2] // 4)))
    fine = coarse.repeat(4, 1).repeat(4, 2)[:, : shape[1], : shape[2]]
    return np.rint(fine * (2**bits - 1)).astype(np.int32)


@given(st.integers(1, 70), st.integers(1, 5), st.integers(1, 5))
def test_tiling_is_inverted(channels, height, width):
    symbols = np.arange(channels * height * width, dtype=np.int32).reshape(channels, height, width)
    image = tile(symbols)
    rows, columns = grid(channels)
    assert image.shape == (rows * height, columns * width) and rows <= columns <= 2 * rows
    assert rows * columns < 2 * channels or channels == 1
    np.testing.assert_array_equal(untile(image, symbols.shape), symbols)
    np.testing.assert_array_equal(image[:height, :width], symbols[0])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(LOSSLESS),
    st.integers(1, 16),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 99),
)
def test_lossless_round_trip(codec, bits, channels, height, width, seed):
    bits = min(bits, codec.max_bits)
    symbols = np.random.default_rng(seed).integers(0, 2**bits, (channels, height, width)).astype(np.int32)
    model = plain(channels, bits)
    payload = codec.encode(symbols, model)
    assert payload == codec.encode(symbols, model)
    decoded = codec.decode(payload, symbols.shape, model)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, symbols)


@pytest.mark.parametrize("codec", LOSSY)
@pytest.mark.parametrize("bits", [1, 2, 4, 6, 8])
def test_lossy_round_trip_is_close(codec, bits):
    assert not codec.lossless
    symbols = smooth((5, 24, 24), bits)
    decoded = codec.decode(codec.encode(symbols, plain(5, bits)), symbols.shape, plain(5, bits))
    assert decoded.min() >= 0 and decoded.max() < 2**bits
    assert np.abs(decoded - symbols).mean() < 0.06 * 2**bits


def test_quality_buys_closeness():
    symbols = smooth((16, 32, 32), 8)
    sizes, errors = [], []
    for quality in (20, 60, 95):
        payload = Jpeg(quality=quality).encode(symbols, plain(16))
        sizes.append(len(payload))
        errors.append(np.abs(Jpeg().decode(payload, symbols.shape, plain(16)) - symbols).mean())
    assert sizes == sorted(sizes) and errors == sorted(errors, reverse=True)


ALL = [*LOSSLESS, *LOSSY]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ALL), st.binary(max_size=300))
def test_any_bytes_are_corrupt(codec, payload):
    with pytest.raises(CorruptPacket):
        codec.decode(payload, (4, 8, 8), plain(4))


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(ALL), st.data())
def test_damaged_images_give_symbols_or_corrupt_packet(codec, data):
    model, shape = plain(4, 6), (4, 12, 12)
    payload = bytearray(codec.encode(smooth(shape, 6), model))
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([0, 0, 1, 5, 40]))
    try:
        decoded = codec.decode(bytes(payload[: len(payload) - cut]), shape, model)
    except CorruptPacket:
        return
    assert decoded.shape == shape and decoded.dtype == np.int32
    assert decoded.min() >= 0 and decoded.max() < 64


@pytest.mark.parametrize("codec", ALL)
def test_cut_images_are_corrupt(codec):
    payload = codec.encode(smooth((4, 32, 32), 8), plain(4))
    for length in (0, 1, 10, len(payload) // 2):
        with pytest.raises(CorruptPacket):
            codec.decode(payload[:length], (4, 32, 32), plain(4))


@pytest.mark.parametrize("codec", ALL)
def test_another_size_is_corrupt(codec):
    payload = codec.encode(smooth((4, 8, 8), 8), plain(4))
    for shape in ((4, 8, 9), (4, 4, 4), (4, 16, 16)):
        with pytest.raises(CorruptPacket):
            codec.decode(payload, shape, plain(4))


def saved(size, name, mode="L", **options):
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, name, **options)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("codec", "payload"),
    [
        (Png(), saved((12000, 12000), "PNG")),  # 144 million pixels in 140 kB
        (Png(), saved((16, 16), "PNG", "RGB")),
        (Png(), saved((16, 16), "JPEG")),
        (Jpeg(), saved((16, 16), "JPEG", progressive=True)),
        (Jpeg(), saved((16, 16), "JPEG", "RGB")),
        (Jpeg(), saved((8000, 8000), "JPEG")),
        (Webp(), saved((8000, 8000), "WEBP", "RGB", lossless=True)),
        (Webp(), saved((16, 16), "WEBP", "RGB")),
        (Webp(quality=50), saved((16, 16), "WEBP", "RGB", lossless=True)),
        (Webp(), saved((16, 16), "WEBP", "RGB", lossless=True, save_all=True, append_images=[Image.new("RGB", (16, 16), 9)])),
    ],
)  # fmt: skip
def test_other_images_are_corrupt(codec, payload):
    with pytest.raises(CorruptPacket):
        codec.decode(payload, (4, 8, 8), plain(4))


def test_coloured_webp_is_corrupt():
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (1, 2, 3)).save(buffer, "WEBP", lossless=True)
    with pytest.raises(CorruptPacket, match="WebP"):
        Webp().decode(buffer.getvalue(), (4, 8, 8), plain(4))


def test_symbols_that_an_image_cannot_carry():
    for codec, bits in ((Png(), 17), (Jpeg(), 9), (Webp(), 9), (Png(), 0)):
        mode = "uniform" if bits else "round"
        with pytest.raises(ShapeMismatch, match="bits"):
            codec.encode(np.zeros((1, 2, 2), np.int32), SymbolModel.plain(mode, 1, bits))
    with pytest.raises(InvalidLatent):
        Png().encode(np.full((1, 2, 2), 256, np.int32), plain(1))


def test_images_beyond_the_format():
    with pytest.raises(ShapeMismatch, match="16383"):
        Webp().encode(np.zeros((1, 1, 16384), np.int32), plain(1))
    with pytest.raises(ShapeMismatch, match="65500"):
        Jpeg().encode(np.zeros((4, 32768, 1), np.int32), plain(4))
    with pytest.raises(ShapeMismatch, match="89000000"):
        Png().decode(b"", (1, 10_000, 10_000), plain(1))
    wide = np.zeros((1, 1, 16383), np.int32)
    np.testing.assert_array_equal(Webp().decode(Webp().encode(wide, plain(1)), wide.shape, plain(1)), wide)


@pytest.mark.parametrize("codec", ALL)
@pytest.mark.parametrize("shape", [(0, 2, 2), (2, 0, 2), (2, 2, 0), (3, 2, 2)])
def test_impossible_shapes(codec, shape):
    with pytest.raises(ShapeMismatch):
        codec.encode(np.zeros(shape, np.int32), plain(2))
    with pytest.raises(ShapeMismatch):
        codec.decode(b"", shape, plain(2))


def test_options():
    assert Webp().lossless and Png.lossless
    for make in (lambda: Jpeg(quality=101), lambda: Webp(quality=-1), lambda: Webp(effort=7), lambda: Png(level=10)):
        with pytest.raises(RecipeError):
            make()
