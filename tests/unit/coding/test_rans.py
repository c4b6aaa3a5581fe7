"""The rANS codec: kernel against its numpy twin, sizes against the tables' own, adaptation, damaged payloads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitreg.coding import RansCodec, SymbolModel, rans, rans_kernel
from splitreg.coding.rans_tables import CONTEXTS, derive_tables
from splitreg.errors import CorruptPacket, InvalidLatent, InvalidTables, RecipeError, ShapeMismatch

KERNEL, NUMPY = RansCodec(kernel="c"), RansCodec(kernel="numpy")
STATIC = RansCodec(kernel="c", adapt=False)


def tables(scales, reach=20, seed=0):
    """Rows of discretised Laplacians, a little noisy, in compressai's layout."""
    generator = np.random.default_rng(seed)
    rows = []
    for scale in scales:
        half = int(np.clip(4 * scale, 1, reach))
        mass = np.exp(-np.abs(np.arange(-half, half + 1)) / scale) * generator.uniform(0.8, 1.2, 2 * half + 1)
        frequencies = np.maximum(1, np.floor(mass / mass.sum() * 65000)).astype(np.int64)
        rows.append((frequencies, half))
    longest = max(len(f) for f, _ in rows) + 2
    cdf = np.zeros((len(rows), longest), np.int64)
    for row, (frequencies, _) in enumerate(rows):
        cdf[row, 1 : len(frequencies) + 1] = frequencies.cumsum()
        cdf[row, len(frequencies) + 1 :] = 2**16
    lengths = np.array([len(f) + 2 for f, _ in rows])
    return SymbolModel.from_cdf(cdf, lengths, np.array([-half for _, half in rows]))


def drawn(model, shape, seed=0):
    """Symbols that follow the tables exactly (without escapes)."""
    generator = np.random.default_rng(seed)
    symbols = np.empty(shape, np.int32)
    for row in range(shape[0]):
        ends = model.cdf[row, 1 : model.lengths[row] - 1]
        slots = generator.integers(0, ends[-1], shape[1:])
        symbols[row] = np.searchsorted(ends, slots, side="right") + model.offsets[row]
    return symbols


def latent_symbols(model, shape, seed=0):
    """Symbols with busy and quiet regions, as the latents of photographs have."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[1], : shape[2]]
    busy = (
        3.0 * np.exp(-((rows - shape[1] / 3) ** 2 + (columns - shape[2] / 2) ** 2) / (shape[1] * shape[2] / 12)) + 0.2
    )
    return np.rint(generator.laplace(0, busy, shape)).astype(np.int32)


@st.composite
def cases(draw):
    """A model, symbols (with escapes here and there), and whether the tables adapt."""
    seed = draw(st.integers(0, 2**32 - 1))
    channels, height, width = draw(st.integers(1, 5)), draw(st.integers(1, 40)), draw(st.integers(1, 40))
    generator = np.random.default_rng(seed)
    model = tables(generator.uniform(0.1, 6, channels), seed=seed)
    symbols = np.rint(generator.laplace(0, draw(st.sampled_from([0.05, 1.0, 20.0])), (channels, height, width)))
    symbols = symbols.astype(np.int32)
    for _ in range(draw(st.integers(0, 3))):
        place = tuple(generator.integers(0, size) for size in symbols.shape)
        symbols[place] = draw(st.integers(-(2**31), 2**31 - 1))
    if draw(st.booleans()):
        model = model.at(generator.integers(0, channels, symbols.shape))
    return model, symbols, draw(st.booleans())


@settings(deadline=None, max_examples=60)
@given(cases())
def test_kernel_and_twin_write_the_same_bytes(case):
    model, symbols, adapt = case
    payload = RansCodec(kernel="c", adapt=adapt).encode(symbols, model)
    assert RansCodec(kernel="numpy", adapt=adapt).encode(symbols, model) == payload
    for codec in (KERNEL, NUMPY):
        np.testing.assert_array_equal(codec.decode(payload, symbols.shape, model), symbols)


@pytest.mark.parametrize("size", [60, 200, 400])
def test_kernel_and_twin_agree_on_every_number_of_lanes(size):
    model = tables([0.3, 1.5, 4.0])
    symbols = drawn(model, (3, size, 101))
    payload = STATIC.encode(symbols, model)
    assert RansCodec(kernel="numpy", adapt=False).encode(symbols, model) == payload
    np.testing.assert_array_equal(NUMPY.decode(payload, symbols.shape, model), symbols)


def test_lanes_follow_the_size():
    model = tables([1.5])
    lanes = {1 << (STATIC.encode(drawn(model, (1, side, 64)), model)[0] & 3) for side in (32, 200, 600, 2000)}
    assert lanes == {1, 2, 4, 8}


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 8, 8), (3, 24, 24), (3, 60, 60), (3, 103, 103), (3, 400, 300)])
@pytest.mark.parametrize("codec", [KERNEL, STATIC], ids=["adapting", "static"])
def test_size_is_near_the_tables_own(codec, shape):
    """Also with adaptation: symbols that follow their tables exactly have nothing that could be learnt."""
    model = tables([0.2, 1.0, 5.0])
    symbols = drawn(model, shape)
    ideal = model.ideal_bits(symbols) / 8
    size = len(codec.encode(symbols, model))
    assert size <= ideal + (8 if ideal < 10_000 else 0.002 * ideal)


def test_adaptation_pays_on_latent_symbols():
    model = tables([3.0] * 8)
    symbols = latent_symbols(model, (8, 64, 64))
    assert len(KERNEL.encode(symbols, model)) < 0.85 * model.ideal_bits(symbols) / 8
    assert KERNEL.encode(symbols, model)[0] & 4


def test_named_rows_learn_too():
    narrow, wide = tables([0.3, 3.0]), np.zeros((4, 50, 50), np.int32)
    wide[:, ::2] = 1
    model = narrow.at(wide)
    symbols = np.zeros(wide.shape, np.int32)
    symbols[:, ::2] = 3
    assert len(KERNEL.encode(symbols, model)) < 0.1 * len(STATIC.encode(symbols, model))


def test_latents_are_quantised_as_the_model_does():
    generator = np.random.default_rng(3)
    cdf = tables([1.0, 2.0])
    model = SymbolModel.from_cdf(cdf.cdf, cdf.lengths, cdf.offsets, np.array([0.3, -7.25]))
    latent = generator.normal(0, 3, (2, 31, 17)).astype(np.float32)
    latent[0, 0, :4] = [0.5 + 0.3, 1.5 + 0.3, -0.5 + 0.3, 2.0**23]
    for codec in (KERNEL, NUMPY):
        payload = codec.encode_latent(latent, model)
        assert payload == codec.encode(model.quantise(latent), model)
        np.testing.assert_array_equal(codec.decode_latent(payload, latent.shape, model), model.restore(latent))


def test_uniform_latents_are_clipped_as_the_model_does():
    generator = np.random.default_rng(4)
    model = SymbolModel.uniform(4, np.array([-1.0, 2.0]), np.array([3.0, 0.7]), generator.random((2, 16)))
    latent = generator.normal(0, 9, (2, 9, 9)).astype(np.float32)
    latent[0, 0, :3] = [1e30, -1e30, 3.4e38]
    payload = KERNEL.encode_latent(latent, model)
    assert payload == KERNEL.encode(model.quantise(latent), model) == NUMPY.encode_latent(latent, model)
    np.testing.assert_array_equal(KERNEL.decode_latent(payload, latent.shape, model), model.restore(latent))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, -(2.0**23) - 1])
@pytest.mark.parametrize("codec", [KERNEL, NUMPY], ids=["kernel", "twin"])
def test_impossible_latents_are_refused(codec, value):
    latent = np.zeros((1, 5, 5), np.float32)
    latent[0, 4, 4] = value
    with pytest.raises(InvalidLatent):
        codec.encode_latent(latent, tables([1.0]))


@pytest.mark.parametrize("shape", [(2, 0, 3), (1, 3, 3), (2, 3), (2, 3, 3, 1)])
def test_wrong_shapes_are_refused(shape):
    model = tables([1.0, 2.0])
    with pytest.raises(ShapeMismatch):
        KERNEL.encode_latent(np.zeros(shape, np.float32), model)
    with pytest.raises(ShapeMismatch):
        KERNEL.decode(b"\0" * 40, shape, model)


def test_tables_are_needed():
    with pytest.raises(ShapeMismatch, match="zstd"):
        KERNEL.encode(np.zeros((1, 2, 2), np.int32), SymbolModel.plain("round", 1, 0))


def test_too_many_named_rows_are_refused():
    model = tables([1.0] * 257).at(np.zeros((1, 2, 2), np.int32))
    with pytest.raises(InvalidTables, match="256"):
        KERNEL.encode(np.zeros((1, 2, 2), np.int32), model)


def test_unknown_kernel_is_refused():
    with pytest.raises(RecipeError, match="'numpy'"):
        RansCodec(kernel="cuda")


def test_missing_kernel_falls_back(monkeypatch):
    monkeypatch.setattr(rans_kernel, "load", lambda: None)
    rans._warn_without_kernel.cache_clear()
    model, symbols = tables([1.0]), np.ones((1, 4, 4), np.int32)
    with pytest.warns(RuntimeWarning, match="numpy"):
        codec = RansCodec()
    assert codec.encode(symbols, model) == KERNEL.encode(symbols, model)
    RansCodec()  # the warning comes once
    with pytest.raises(RecipeError, match="kernel"):
        RansCodec(kernel="c")


@settings(deadline=None, max_examples=150)
@given(cases(), st.data())
def test_damage_is_noticed_alike(case, data):
    """Kernel and twin agree on every payload, whole or not; what they accept is what its symbols encode to."""
    model, symbols, adapt = case
    payload = bytearray(RansCodec(kernel="c", adapt=adapt).encode(symbols, model))
    for _ in range(data.draw(st.integers(1, 3))):
        match data.draw(st.sampled_from(["flip", "cut", "grow"])):
            case "flip":
                payload[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                payload = payload[: data.draw(st.integers(1, len(payload)))]
            case "grow":
                payload += data.draw(st.binary(min_size=1, max_size=5))
    results = []
    for codec in (KERNEL, NUMPY):
        try:
            results.append(codec.decode(bytes(payload), symbols.shape, model).tobytes())
        except CorruptPacket:
            results.append(None)
    assert results[0] == results[1]


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=300), st.integers(0, 63))
def test_random_bytes_are_refused_alike(data, head):
    model = tables([1.0, 0.2])
    payload = bytes([head]) + data
    for codec in (KERNEL, NUMPY):
        with pytest.raises(CorruptPacket):
            codec.decode(payload, (2, 30, 30), model)


def test_threads_give_the_same_bytes():
    model = tables([1.0, 2.0])
    latents = [latent_symbols(model, (2, 40, 40), seed).astype(np.float32) for seed in range(6)]
    with ThreadPoolExecutor(3) as pool:
        payloads = list(pool.map(lambda latent: KERNEL.encode_latent(latent, model), latents))
        decoded = list(pool.map(lambda payload: KERNEL.decode_latent(payload, (2, 40, 40), model), payloads))
    assert payloads == [KERNEL.encode_latent(latent, model) for latent in latents]
    np.testing.assert_array_equal(decoded, latents)


def test_derived_tables_are_tables():
    """Every prior of a context is a code: positive inside its row, and of the right sum."""
    derived = derive_tables(tables([0.1, 1.0, 6.0]))
    assert derived.priors is not None
    for row, symbols in enumerate(derived.symbols):
        assert (derived.priors[row, :, :symbols] > 0).all()
        assert (derived.priors[row, :, symbols:] == 0).all()
        assert (derived.priors[row].sum(1) == 2**16).all()
    assert derived.priors.shape[1] == CONTEXTS
    mode = derived.priors[1, :, derived.modes[1]]
    assert (np.diff(mode.astype(np.int64)) < 0).all(), "a quiet context is sharper than a busy one"


def test_costs_are_the_lengths_rounded_up():
    derived = derive_tables(tables([1.0]))
    frequencies = derived.frequencies[0].astype(float)
    exact = 256 * (16 - np.log2(frequencies))
    assert (derived.costs[0] >= exact - 1e-9).all() and (derived.costs[0] <= exact + 1).all()
