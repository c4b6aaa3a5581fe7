"""Integer tables: what is refused, quantisation, serialisation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from splitreg.coding import SymbolModel
from splitreg.errors import CorruptPacket, InvalidLatent, InvalidTables, ShapeMismatch

CDF = np.array([[0, 30000, 60000, 65536, 0], [0, 1, 2, 3, 65536]], np.int32)
LENGTHS, OFFSETS = np.array([4, 5], np.int32), np.array([-1, 7], np.int32)


def tables(**changes):
    return SymbolModel.from_cdf(
        **{"cdf": CDF, "lengths": LENGTHS, "offsets": OFFSETS, "medians": np.array([0.25, -3]), **changes}
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"lengths": np.array([2, 5])}, {"lengths": np.array([4, 6])}, {"lengths": np.array([4])},
        {"offsets": np.array([0, 2**30 + 1])}, {"offsets": np.array([0, 2**40])}, {"offsets": np.array([0.0, 1.0])},
        {"cdf": CDF.astype(float)}, {"cdf": CDF[0]}, {"cdf": CDF + 1}, {"cdf": CDF[:, ::-1]}, {"cdf": CDF[:1]},
        {"cdf": np.array([[0, 5, 5, 65536, 0], [0, 1, 2, 3, 65536]])}, {"medians": np.array([np.nan, 0])},
        {"medians": np.array([0.0])},
    ],
)  # fmt: skip
def test_tables_that_are_not_a_code(changes):
    with pytest.raises(InvalidTables):
        tables(**changes)


def test_plain_models_have_limits():
    for arguments in (
        ("cube", 1, 0),
        ("round", 0, 0),
        ("round", 1, 33),
        ("round", 1, -1),
        ("uniform", 1, 25),
        ("uniform", 1, 0),
    ):
        with pytest.raises(InvalidTables):
            SymbolModel.plain(*arguments)
    for scale in (0.0, -1.0, np.inf):
        with pytest.raises(InvalidTables):
            SymbolModel.plain("uniform", 1, 8, scale=np.array([scale]))


latents = arrays.arrays(
    np.float32, st.tuples(st.just(2), st.integers(1, 4), st.integers(1, 4)), elements=st.floats(-8e6, 8e6, width=32)
)


@given(latents)
def test_rounding_is_within_half_a_step(latent):
    model = tables()
    symbols = model.quantise(latent)
    assert symbols.dtype == np.int32
    slack = 0.5 + 1e-6 * np.abs(latent)
    assert (np.abs(model.dequantise(symbols) - latent) <= slack + np.abs(latent) * 2**-22).all()


@given(latents, st.integers(1, 24))
def test_uniform_symbols_stay_in_range(latent, bits):
    model = SymbolModel.plain("uniform", 2, bits, np.array([-1.0, 0.0]), np.full(2, (2**bits - 1) / 2.0))
    symbols = model.quantise(latent)
    assert symbols.min() >= 0 and symbols.max() < 2**bits
    if bits <= 16:
        np.testing.assert_array_equal(model.quantise(model.dequantise(symbols)), symbols)


@given(arrays.arrays(np.float32, (2, 2, 3), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_bit_patterns_are_exact(latent):
    model = SymbolModel.plain("bits", 2, 0)
    assert model.dequantise(model.quantise(latent)).tobytes() == latent.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e10, -1e10, 3e38])
def test_bad_values_are_refused(bad):
    latent = np.zeros((2, 2, 2), np.float32)
    latent[1, 0, 1] = bad
    with pytest.raises(InvalidLatent):
        tables().quantise(latent)
    if not np.isfinite(bad):
        for mode in ("bits", "uniform"):
            with pytest.raises(InvalidLatent):
                SymbolModel.plain(mode, 2, 8 if mode == "uniform" else 0).quantise(latent)


def test_huge_finite_values_saturate_a_uniform_quantiser():
    model = SymbolModel.plain("uniform", 1, 8, scale=np.array([1e6]))
    latent = np.array([[[3e38, -3e38]]], np.float32)
    assert model.quantise(latent).tolist() == [[[255, 0]]]


@pytest.mark.parametrize("shape", [(2, 2), (3, 2, 2), (2, 0, 2), (2, 2, 2, 1)])
def test_shapes_are_checked(shape):
    with pytest.raises(ShapeMismatch):
        tables().quantise(np.zeros(shape, np.float32))
    with pytest.raises(ShapeMismatch):
        tables().check_symbols(np.zeros(shape, np.int32))


@pytest.mark.parametrize("bits", [1, 8, 31, 32, 0])
def test_symbols_are_checked_against_the_bits(bits):
    model = SymbolModel.plain("round", 1, bits)
    for value in (-(2**31), -1, 0, 1, 2, 255, 256, 2**31 - 1):
        symbols = np.full((1, 1, 1), value, np.int32)
        if bits in (0, 32) or 0 <= value < 2**bits:
            assert model.check_symbols(symbols).tolist() == [[[value]]]
            assert model.check_decoded(symbols) is symbols
        else:
            with pytest.raises(InvalidLatent):
                model.check_symbols(symbols)
            with pytest.raises(CorruptPacket):
                model.check_decoded(symbols)


@given(st.integers(1, 10), st.integers(1, 3), st.data())
def test_histograms_become_codes(bits, channels, data):
    counts = data.draw(arrays.arrays(np.float64, (channels, 2**bits), elements=st.floats(0, 1e12)))
    model = SymbolModel.uniform(bits, np.zeros(channels), np.ones(channels), counts)
    frequencies = np.diff(model.cdf, axis=1)
    assert frequencies.min() >= 1 and (frequencies.sum(1) == 65536).all() and (frequencies[:, -1] == 1).all()
    if 0 < counts[0].max() and counts[0].max() > 2 * np.sort(counts[0])[-2]:
        assert frequencies[0, :-1].argmax() == counts[0].argmax()


def test_histograms_must_be_histograms():
    for bits, counts in (
        (2, np.ones((1, 5))),
        (2, np.full((1, 4), np.nan)),
        (2, -np.ones((1, 4))),
        (16, np.ones((1, 65536))),
    ):
        with pytest.raises(InvalidTables):
            SymbolModel.uniform(bits, np.zeros(1), np.ones(1), counts)


def test_ideal_bits_count_escapes():
    model = tables()
    symbols = np.array([[[-1, 0, 5]], [[7, 7, 9]]], np.int32)
    shares = [30000, 30000, 5536, 1, 1, 1]
    assert model.ideal_bits(symbols) == pytest.approx(sum(16 - np.log2(s) for s in shares))


def test_ideal_bits_need_tables():
    with pytest.raises(InvalidTables, match="tables"):
        SymbolModel.plain("bits", 1, 0).ideal_bits(np.zeros((1, 1, 1), np.int32))


@pytest.mark.parametrize(
    "model",
    [tables(), SymbolModel.plain("bits", 3, 0), SymbolModel.uniform(3, np.zeros(2), np.ones(2), np.ones((2, 8)))],
)
def test_arrays_and_digest(model):
    again = SymbolModel.from_arrays(model.to_arrays())
    assert again.digest() == model.digest()
    assert (again.mode, again.bits, again.channels) == (model.mode, model.bits, model.channels)
    with pytest.raises(ValueError, match="read-only"):
        again.shift[0] = 1


def test_the_digest_sees_every_array():
    model = tables()
    seen = {model.digest()}
    for name, array in model.to_arrays().items():
        changed = {key: value.copy() for key, value in model.to_arrays().items()}
        if name == "cdf":
            changed[name][0, 1] += 1
        elif name == "mode":
            changed[name] = np.array([1, 8], np.int32)
        elif name == "lengths":
            changed["cdf"] = np.concatenate([changed["cdf"], np.zeros_like(changed["cdf"][:, :1])], 1)
        else:
            changed[name] = array + array.dtype.type(1)
        seen.add(SymbolModel.from_arrays(changed).digest())
    assert len(seen) == 7


def test_arrays_must_be_complete_and_sound():
    arrays_ = tables().to_arrays()
    for changed in (
        {k: v for k, v in arrays_.items() if k != "cdf"},
        {**arrays_, "more": arrays_["cdf"]},
        {**arrays_, "mode": np.array([9, 0], np.int32)},
        {**arrays_, "mode": np.array([0], np.int32)},
        {**arrays_, "mode": np.array([0, 99], np.int32)},
        {**arrays_, "shift": np.zeros(3, np.float32)},
        {**arrays_, "shift": np.float32(0)},
        {**arrays_, "cdf": arrays_["cdf"].astype(np.float64) + 0.5},
        {**arrays_, "lengths": np.array([np.nan, 3.0])},
    ):
        with pytest.raises(InvalidTables):
            SymbolModel.from_arrays(changed)


def test_symbols_do_not_share_the_latents_memory():
    latent = np.ones((1, 2, 2), np.float32)
    symbols = SymbolModel.plain("bits", 1, 0).quantise(latent)
    latent[:] = 0
    assert (symbols == 0x3F800000).all()


def test_a_model_does_not_change_with_what_it_was_built_from():
    shift = np.zeros(2, np.float32)
    model = SymbolModel.plain("round", 2, 0, shift=shift)
    shift += 1
    assert (model.shift == 0).all()
