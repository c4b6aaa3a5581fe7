"""zstd and raw: round trips of any int32, layouts, and payloads that are not theirs."""

import math

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from splitreg_classic.packed import RawCodec, Zstd

from splitreg.coding import SymbolModel
from splitreg.errors import CorruptPacket, InvalidLatent, RecipeError, ShapeMismatch

CODECS = [RawCodec(), Zstd(level=1), Zstd(level=19)]
codecs = st.sampled_from(CODECS)


def plain(channels, bits, mode=None):
    return SymbolModel.plain(mode or "round", channels, bits)


@st.composite
def cases(draw):
    bits = draw(st.integers(0, 32))
    shape = tuple(draw(st.integers(1, 5)) for _ in range(3))
    low, high = (-(2**31), 2**31 - 1) if bits in (0, 32) else (0, 2**bits - 1)
    symbols = draw(arrays.arrays(np.int32, shape, elements=st.integers(low, high)))
    mode = draw(st.sampled_from(["bits", "round"])) if bits == 0 else "round"
    return symbols, plain(shape[0], bits, mode)


@settings(max_examples=200, deadline=None)
@given(codecs, cases())
def test_round_trip(codec, case):
    symbols, model = case
    payload = codec.encode(symbols, model)
    assert payload == codec.encode(symbols.copy(), model)
    decoded = codec.decode(payload, symbols.shape, model)
    assert decoded.dtype == np.int32 and decoded.flags.writeable
    np.testing.assert_array_equal(decoded, symbols)


@settings(max_examples=200, deadline=None)
@given(codecs, st.integers(0, 32), st.binary(max_size=200))
def test_any_bytes_give_symbols_or_corrupt_packet(codec, bits, payload):
    model = plain(2, bits)
    try:
        decoded = codec.decode(payload, (2, 3, 3), model)
    except CorruptPacket:
        return
    assert decoded.shape == (2, 3, 3) and decoded.dtype == np.int32
    model.check_symbols(decoded)


@settings(max_examples=200, deadline=None)
@given(codecs, cases(), st.data())
def test_cut_payloads_are_corrupt(codec, case, data):
    symbols, model = case
    payload = codec.encode(symbols, model)
    for wrong in (payload[: data.draw(st.integers(0, len(payload) - 1))], payload + b"\0"):
        with pytest.raises(CorruptPacket):
            codec.decode(wrong, symbols.shape, model)


@pytest.mark.parametrize("codec", CODECS)
def test_another_shape_is_corrupt(codec):
    model = plain(2, 8)
    payload = codec.encode(np.arange(18, dtype=np.int32).reshape(2, 3, 3), model)
    for shape in ((2, 3, 4), (2, 2, 3), (2, 300, 300)):
        with pytest.raises(CorruptPacket):
            codec.decode(payload, shape, model)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("shape", [(0, 2, 2), (2, 0, 2), (2, 2, 0), (3, 2, 2)])
def test_impossible_shapes(codec, shape):
    with pytest.raises(ShapeMismatch):
        codec.encode(np.zeros(shape, np.int32), plain(2, 8))
    with pytest.raises(ShapeMismatch):
        codec.decode(b"", shape, plain(2, 8))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("wrong", [-1, 256])
def test_symbols_beyond_the_bits(codec, wrong):
    with pytest.raises(InvalidLatent):
        codec.encode(np.full((1, 1, 1), wrong, np.int32), plain(1, 8))
    with pytest.raises(ShapeMismatch, match="int32"):
        codec.encode(np.zeros((1, 1, 1), np.int64), plain(1, 8))


@pytest.mark.parametrize("bits", [1, 3, 7, 8, 12, 16, 0])
def test_raw_length_is_exact(bits):
    symbols = np.ones((2, 3, 3), np.int32)
    assert len(RawCodec().encode(symbols, plain(2, bits))) == math.ceil(18 * (bits or 32) / 8)


def test_raw_layout():
    assert RawCodec().encode(np.array([[[1, 2, 3]]], np.int32), plain(1, 4)) == bytes([0x12, 0x30])
    assert RawCodec().encode(np.array([[[-2]]], np.int32), plain(1, 0)) == b"\xfe\xff\xff\xff"
    with pytest.raises(CorruptPacket, match="bits"):
        RawCodec().decode(bytes([0x12, 0x31]), (1, 1, 3), plain(1, 4))


def test_zstd_saves_on_small_symbols():
    symbols = np.random.default_rng(0).integers(-2, 3, (8, 32, 32)).astype(np.int32)
    assert len(Zstd().encode(symbols, plain(8, 0))) < symbols.size / 2


@pytest.mark.parametrize("level", [1, 12, 22])
@pytest.mark.parametrize("side", [30, 300])
def test_zstd_round_trip_of_usual_sizes(level, side):
    symbols = np.random.default_rng(0).geometric(0.2, (3, side, side)).astype(np.int32) - 3
    codec = Zstd(level=level)
    np.testing.assert_array_equal(codec.decode(codec.encode(symbols, plain(3, 0)), symbols.shape, plain(3, 0)), symbols)


def test_zstd_bombs_are_not_unpacked():
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    model = plain(2, 8)
    sized = zstandard.ZstdCompressionParameters(format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=1)
    claims = zstandard.ZstdCompressor(compression_params=sized).compress(bytes(1 << 28))
    unsized = zstandard.ZstdCompressionParameters(format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=0)
    hides = zstandard.ZstdCompressor(compression_params=unsized).compress(bytes(1 << 28))
    wide = zstandard.ZstdCompressionParameters(
        format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=0, window_log=27
    )
    stream = zstandard.ZstdCompressor(compression_params=wide).compressobj()
    window = stream.compress(bytes(18)) + stream.flush()
    for payload in (bomb, claims, hides, window):
        with pytest.raises(CorruptPacket):
            Zstd().decode(payload, (2, 3, 3), model)


def test_zstd_symbols_beyond_the_bits_are_corrupt():
    payload = Zstd().encode(np.full((1, 2, 2), 7, np.int32), plain(1, 8))
    with pytest.raises(CorruptPacket, match="2 bits"):
        Zstd().decode(payload, (1, 2, 2), plain(1, 2))


def test_float_patterns_survive():
    latent = np.array([[[0.0, -0.0, 1e-45, 3.4e38, -1.5]]], np.float32)
    model = plain(1, 0, "bits")
    for codec in CODECS:
        symbols = model.quantise(latent)
        restored = model.dequantise(codec.decode(codec.encode(symbols, model), symbols.shape, model))
        assert restored.tobytes() == latent.tobytes()


def test_bad_level():
    with pytest.raises(RecipeError, match="level"):
        Zstd(level=0)
