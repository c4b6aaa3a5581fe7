"""compressai's coder behind its guards: round trips, and payloads that would crash or hang it."""

import numpy as np
import pytest
from compressai import ans
from hypothesis import given, settings
from hypothesis import strategies as st
from splitreg_compressai.ans import MAX_RUN, CompressaiCodec, longest_run, padded
from splitreg_compressai.slow_decoder import decode_slowly

from splitreg.coding import SymbolModel
from splitreg.errors import CorruptPacket, InvalidLatent, ShapeMismatch


def tables(frequencies, offsets):
    """Rows of frequencies (the last one the escape's, whatever is left) to a model."""
    length = max(map(len, frequencies)) + 2
    cdf = np.zeros((len(frequencies), length), np.int32)
    for row, row_frequencies in enumerate(frequencies):
        cdf[row, 1 : len(row_frequencies) + 1] = np.cumsum(row_frequencies)
        cdf[row, len(row_frequencies) + 1] = 65536
    return SymbolModel.from_cdf(cdf, np.array([len(f) + 2 for f in frequencies]), np.array(offsets))


USUAL = tables([[100, 3000, 60000, 2000, 100], [20000, 20000, 20000], [65535]], [-2, -1, 5])
ESCAPING = tables([[1], [1, 1]], [0, 3])  # nearly every slot is the escape: the worst case for the decoder
FLAT = tables([[256] * 255], [0])
MODELS = [USUAL, ESCAPING, FLAT]


def shape_of(model, height, width):
    return model.channels, height, width


def some_symbols(model, height, width, seed, spread):
    generator = np.random.default_rng(seed)
    noise = generator.standard_cauchy((model.channels, height, width)) * spread
    return np.clip(np.rint(noise), -(2**22), 2**22).astype(np.int32) + model.offsets[:, None, None]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(MODELS),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 999),
    st.sampled_from([0, 0.7, 9, 1e6]),
)
def test_round_trip_with_escapes(model, height, width, seed, spread):
    symbols = some_symbols(model, height, width, seed, spread)
    payload = CompressaiCodec().encode(symbols, model)
    assert payload == CompressaiCodec().encode(symbols, model)
    decoded = CompressaiCodec().decode(payload, symbols.shape, model)
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, symbols)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_few_and_unlikely_symbols_do_not_overrun_the_encoder(count):
    rare = tables([[1, 1, 65533]], [0])
    symbols = np.zeros((1, 1, count), np.int32)
    for _ in range(50):
        payload = CompressaiCodec().encode(symbols, rare)
        np.testing.assert_array_equal(CompressaiCodec().decode(payload, symbols.shape, rare), symbols)


def test_payload_is_what_compressai_writes():
    symbols = some_symbols(USUAL, 4, 5, 1, 2.0)
    indexes = np.repeat(np.arange(3), 20).tolist()
    expected = ans.RansEncoder().encode_with_indexes(
        symbols.ravel().tolist(), indexes, USUAL.cdf.tolist(), USUAL.lengths.tolist(), USUAL.offsets.tolist()
    )
    assert CompressaiCodec().encode(symbols, USUAL) == expected


@pytest.mark.parametrize("extreme", [2**27 - 1, -(2**27) + 10])
def test_large_escapes_round_trip(extreme):
    symbols = np.zeros((3, 2, 2), np.int32)
    symbols[0, 0, 0] = symbols[2, 1, 1] = extreme
    payload = CompressaiCodec().encode(symbols, USUAL)
    np.testing.assert_array_equal(CompressaiCodec().decode(payload, symbols.shape, USUAL), symbols)


@pytest.mark.parametrize("extreme", [2**31 - 1, -(2**31), 2**27 + 100, -(2**27) - 100])
def test_escapes_that_would_hang_are_refused(extreme):
    symbols = np.zeros((3, 2, 2), np.int32)
    symbols[1, 1, 0] = extreme
    with pytest.raises(InvalidLatent, match="codec rans"):
        CompressaiCodec().encode(symbols, USUAL)


def expect_corrupt_or_canonical(payload, shape, model):
    codec = CompressaiCodec()
    try:
        decoded = codec.decode(payload, shape, model)
    except CorruptPacket:
        return
    assert decoded.shape == shape
    assert codec.encode(decoded, model) == payload


@pytest.mark.parametrize("length", [0, 1, 3, 4, 7, 8, 9, 12])
@pytest.mark.parametrize("filling", [0x00, 0xFF, 0x5A])
def test_short_payloads(length, filling):
    for model in MODELS:
        expect_corrupt_or_canonical(bytes([filling]) * length, shape_of(model, 16, 16), model)
    with pytest.raises(CorruptPacket):
        CompressaiCodec().decode(bytes([filling]) * length, shape_of(USUAL, 40, 40), USUAL)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MODELS), st.integers(1, 12), st.binary(min_size=0, max_size=600))
def test_random_payloads(model, side, payload):
    expect_corrupt_or_canonical(payload, shape_of(model, side, side), model)
    expect_corrupt_or_canonical(payload[: len(payload) // 4 * 4], shape_of(model, side, side), model)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MODELS), st.integers(0, 99), st.data())
def test_damaged_payloads_are_never_decoded(model, seed, data):
    symbols = some_symbols(model, 6, 6, seed, 2.0)
    payload = CompressaiCodec().encode(symbols, model)
    position = data.draw(st.integers(0, len(payload) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "lengthen", "zero", "fill"]))
    damaged = {
        "flip": lambda: payload[:position] + bytes([payload[position] ^ 1 << seed % 8]) + payload[position + 1 :],
        "cut": lambda: payload[:position],
        "lengthen": lambda: payload + bytes(4 * (1 + seed % 3)),
        "zero": lambda: payload[:position] + bytes(len(payload) - position),
        "fill": lambda: payload[:position] + b"\xff" * (len(payload) - position),
    }[kind]()
    if damaged == payload:
        return
    try:
        decoded = CompressaiCodec().decode(damaged, symbols.shape, model)
    except CorruptPacket:
        return
    # A flipped bit may give another valid payload; then it is exactly that one.
    assert CompressaiCodec().encode(decoded, model) == damaged


hostile = st.lists(
    st.one_of(st.binary(max_size=40), st.integers(0, MAX_RUN // 8).map(lambda n: b"\xff" * n)), max_size=6
).map(b"".join)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(MODELS), st.integers(1, 10), hostile)
def test_no_read_passes_the_padding(model, side, payload):
    payload = payload[: len(payload) // 4 * 4].ljust(8, b"\xff")
    indexes = np.repeat(np.arange(model.channels), side * side).tolist()
    arguments = indexes, model.cdf.tolist(), model.lengths.tolist(), model.offsets.tolist()
    whole = padded(payload, len(indexes))
    after = [
        ans.RansDecoder().decode_with_indexes(whole + guard * 100_000, *arguments)
        for guard in (b"\0", b"\xff", b"\x55")
    ]
    assert after[0] == after[1] == after[2]


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(MODELS), st.integers(1, 8), st.integers(0, 999), st.sampled_from([0.7, 30.0]))
def test_slow_decoder_agrees(model, side, seed, spread):
    symbols = some_symbols(model, side, side, seed, spread)
    if symbols.size < 4:
        return
    payload = CompressaiCodec().encode(symbols, model)
    indexes = np.repeat(np.arange(model.channels), side * side).tolist()
    decoded = decode_slowly(payload, indexes, model.cdf.tolist(), model.lengths.tolist(), model.offsets.tolist())
    assert decoded == symbols.ravel().tolist()


def test_long_runs_of_ff_go_to_the_slow_decoder_and_hurt_nobody():
    model = FLAT
    shape = (1, 80, 80)
    expect_corrupt_or_canonical(b"\xff" * 6000, shape, model)
    expect_corrupt_or_canonical(b"\xff" * 6000, (2, 80, 80), ESCAPING)
    top = np.full(shape, 254, np.int32)  # constant features make such runs honestly
    payload = CompressaiCodec().encode(top, model)
    np.testing.assert_array_equal(CompressaiCodec().decode(payload, shape, model), top)
    assert longest_run(b"\xff\xff\0\xff") == 2


def test_payload_must_be_plausible_for_the_shape():
    with pytest.raises(CorruptPacket, match="bytes"):
        CompressaiCodec().decode(bytes(1 << 20), (3, 4, 4), USUAL)


def test_another_shape_is_refused():
    symbols = some_symbols(USUAL, 6, 6, 3, 2.0)
    payload = CompressaiCodec().encode(symbols, USUAL)
    for shape in ((3, 6, 7), (3, 5, 6), (3, 1, 1), (3, 30, 30)):
        with pytest.raises(CorruptPacket):
            CompressaiCodec().decode(payload, shape, USUAL)


@pytest.mark.parametrize("shape", [(0, 2, 2), (3, 0, 2), (3, 2, 0), (2, 2, 2), (3, -1, 2)])
def test_shapes_without_a_model_or_an_element(shape):
    with pytest.raises(ShapeMismatch):
        CompressaiCodec().decode(b"", shape, USUAL)
    if min(shape) >= 0:
        with pytest.raises(ShapeMismatch):
            CompressaiCodec().encode(np.zeros(shape, np.int32), USUAL)


def test_tables_are_needed():
    with pytest.raises(ShapeMismatch, match="tables"):
        CompressaiCodec().encode(np.zeros((2, 1, 1), np.int32), SymbolModel.plain("round", 2, 0))


def test_symbols_beyond_the_bits_are_refused():
    model = SymbolModel.uniform(2, np.zeros(1), np.ones(1), np.ones((1, 4)))
    codec = CompressaiCodec()
    with pytest.raises(InvalidLatent):
        codec.encode(np.full((1, 2, 2), 4, np.int32), model)
    escaping = SymbolModel.from_cdf(model.cdf, model.lengths, model.offsets)
    payload = codec.encode(np.full((1, 2, 2), 4, np.int32), escaping)
    with pytest.raises(CorruptPacket):
        codec.decode(payload, (1, 2, 2), model)
