"""Context models: the kernel against its numpy twin, code lengths, what a decoder may read, damaged payloads."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.contexts import context_model
from support.laplace import laplace_model

from splitreg.coding import ContextModel, RansCodec, SymbolModel, VariableModel, load_model
from splitreg.coding.context import MAX_LEVEL
from splitreg.errors import CorruptPacket, InvalidTables

CODECS = [RansCodec(kernel=kernel) for kernel in ("c", "numpy")]
INT32 = np.iinfo(np.int32)


def coded(rng, shape, scale=1.0, width=8, units=3):
    scales = rng.uniform(0.1, 2 * scale, shape[0])
    model = laplace_model(scales).with_context(context_model(rng, shape[0], width, units, level=int(rng.integers(17))))
    return model, np.rint(rng.laplace(0, scales[:, None, None], shape)).astype(np.int32)


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(draw(st.integers(1, most)) for most in (5, 7, 9))
    model, symbols = coded(
        rng, shape, draw(st.sampled_from([0.2, 2.0, 40.0])), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    )
    for value in draw(st.lists(st.sampled_from([INT32.min, INT32.max, 25, -1000]), max_size=3)):
        symbols.ravel()[rng.integers(symbols.size)] = value
    return model, symbols


@settings(deadline=None, max_examples=80)
@given(cases())
def test_kernel_and_twin_write_the_same_bytes_and_read_them(case):
    model, symbols = case
    payload = CODECS[0].encode(symbols, model)
    assert payload == CODECS[1].encode(symbols, model)
    for codec in CODECS:
        assert np.array_equal(codec.decode(payload, symbols.shape, model), symbols)


@settings(deadline=None, max_examples=80)
@given(cases(), st.data())
def test_a_payload_has_one_encoding(case, data):
    """Damaged bytes are refused, or they decode to symbols that are encoded as these bytes."""
    model, symbols = case
    payload = bytearray(CODECS[0].encode(symbols, model))
    match data.draw(st.sampled_from(["flip", "cut", "longer", "random"])):
        case "flip" if payload:
            payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
        case "cut" if payload:
            del payload[data.draw(st.integers(0, len(payload) - 1)) :]
        case "longer":
            payload += data.draw(st.binary(min_size=1, max_size=9))
        case _:
            payload = bytearray(data.draw(st.binary(max_size=60)))
    results = []
    for codec in CODECS:
        try:
            results.append(codec.decode(bytes(payload), symbols.shape, model))
        except CorruptPacket:
            results.append(None)
    if results[0] is None:
        assert results[1] is None
    else:
        assert np.array_equal(*results) and CODECS[0].encode(results[0], model) == payload


def test_the_ideal_code_length_is_what_the_coder_spends_before_it_learns():
    rng = np.random.default_rng(0)
    model, symbols = coded(rng, (6, 24, 32))
    ideal, spent = model.ideal_bits(symbols) / 8, len(CODECS[0].encode(symbols, model))
    assert abs(ideal - spent) < 0.06 * ideal
    assert abs(ideal - model.with_context(None).ideal_bits(symbols) / 8) > 0.04 * ideal  # the network matters


def test_corrections_depend_on_nothing_that_a_decoder_lacks():
    rng = np.random.default_rng(1)
    context = context_model(rng, 4)
    symbols = rng.integers(-3, 4, (4, 5, 6)).astype(np.int32)
    before = context.corrections(symbols)
    reached = 0
    for c in range(4):
        for y in range(5):
            for x in range(6):
                changed = symbols.copy()
                changed[c, y, x] += 2 if symbols[c, y, x] <= 0 else -5
                moved = (context.corrections(changed) != before).any(1)
                order = np.arange(5 * 6).reshape(5, 6) * 4 + np.arange(4)[:, None, None]  # of coding
                assert not (moved & (order <= order[c, y, x])).any()
                reached += moved.sum()
    assert reached > 1000


def test_a_network_that_says_nothing_leaves_the_tables():
    model, symbols = coded(np.random.default_rng(2), (3, 12, 16))
    most = -model.offsets[:, None, None]
    symbols = symbols.clip(-most, most)  # escapes cost more than the tables say
    silent = replace(model.context, logits=replace(model.context.logits, low=0, high=0))
    ideal = model.with_context(silent).ideal_bits(symbols)
    assert ideal == pytest.approx(model.with_context(None).ideal_bits(symbols), rel=0.02)


def test_arrays_rebuild_the_model_and_rates_share_the_layers():
    rng = np.random.default_rng(3)
    model, _ = coded(rng, (3, 4, 5))
    again = load_model(model.to_arrays())
    assert (
        isinstance(again, SymbolModel)
        and again.digest() == model.digest()
        and again.context.level == model.context.level
    )
    first, last = (model.with_context(model.context.at(level)) for level in (0, MAX_LEVEL))
    ones = np.ones((256, 3), np.float32)
    chosen = (np.arange(256) // 128).astype(np.uint8)
    variable = VariableModel(
        models=(first, last), chosen=chosen, gains=ones, inverses=ones, shift=np.zeros(3, np.float32), default=9
    )
    arrays = variable.to_arrays()
    assert "0.context.0.weight" in arrays and "1.context.level" in arrays and "1.context.0.weight" not in arrays
    loaded = load_model(arrays)
    assert loaded.digest() == variable.digest()
    assert (
        loaded.models[1].context.shares_layers(loaded.models[0].context) and loaded.models[1].context.level == MAX_LEVEL
    )
    alone = {name: array for name, array in arrays.items() if not name.startswith("0.context.")}
    with pytest.raises(InvalidTables, match="the first one lacks"):
        load_model(alone)


def test_models_with_other_layers_keep_their_own():
    rng = np.random.default_rng(4)
    (first, _), (second, _) = coded(rng, (2, 3, 3)), coded(rng, (2, 3, 3))
    ones = np.ones((256, 2), np.float32)
    chosen = (np.arange(256) // 128).astype(np.uint8)
    variable = VariableModel(
        models=(first, second), chosen=chosen, gains=ones, inverses=ones, shift=np.zeros(2, np.float32), default=0
    )
    loaded = load_model(variable.to_arrays())
    assert [model.digest() for model in loaded.models] == [first.digest(), second.digest()]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("around", {"weight": lambda w: w[:, :-1]}, "must be"),
        ("hidden", {"weight": lambda w: w[:-1], "bias": lambda b: b[:-1]}, "must be"),
        ("here", {"weight": lambda w: np.ones_like(w)}, "does not have yet"),
        ("hidden", {"bias": lambda b: np.full_like(b, 2**31 - 1)}, "may exceed 32 bits"),
        ("around", {"low": lambda _: -5}, "must clip within 0"),
        ("logits", {"high": lambda _: 4000}, "must clip within -2047"),
    ],
)
def test_layers_that_do_not_fit_are_refused(name, change, message):
    context = context_model(np.random.default_rng(5), 3)
    layer = getattr(context, name)
    layer = replace(layer, **{key: function(getattr(layer, key)) for key, function in change.items()})
    with pytest.raises(InvalidTables, match=message):
        replace(context, **{name: layer})


def test_levels_channels_and_modes_that_do_not_fit_are_refused():
    context = context_model(np.random.default_rng(6), 3)
    with pytest.raises(InvalidTables, match="level"):
        context.at(MAX_LEVEL + 1)
    with pytest.raises(InvalidTables, match="3 channels needs tables of as many"):
        laplace_model([1.0, 2.0]).with_context(context)
    with pytest.raises(InvalidTables, match="needs tables"):
        SymbolModel.plain("round", 3, 0).with_context(context)
    arrays = context.to_arrays()
    for name in arrays:  # whole layers may not be left out either
        with pytest.raises(InvalidTables):
            ContextModel.from_arrays({key: value for key, value in arrays.items() if key != name})
