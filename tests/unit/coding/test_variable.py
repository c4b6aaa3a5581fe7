"""Many rates in one model: every position comes back exactly, nothing is recomputed, hostile bytes and files are refused."""

import hashlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitreg.coding import RansCodec, SymbolModel, VariableModel, decode_streams, encode_streams, load_model
from splitreg.errors import CodingError, CorruptPacket, InvalidLatent, InvalidTables, RecipeError, ShapeMismatch

C = 3
CODEC = RansCodec()


def tables(reach):
    """Triangular frequencies around zero, the same for all channels."""
    half = np.arange(1, reach + 1)
    weights = np.concatenate([half, [reach + 1], half[::-1], [1]])
    frequencies = 1 + weights * (2**16 - len(weights)) // weights.sum()
    frequencies[reach] += 2**16 - frequencies.sum()
    row = np.concatenate([[0], frequencies.cumsum()])
    return SymbolModel.from_cdf(np.tile(row, (C, 1)), np.full(C, len(row)), np.full(C, -reach))


def variable(**changes):
    """Gains from 1/4 to 4 in exact binary fractions, so that no machine computes them otherwise."""
    steps = np.arange(256, dtype=np.float32)[:, None] / 64 + np.array([0.25, 0.5, 0.125], np.float32)
    parts = {
        "models": (tables(6), tables(12), tables(24)), "chosen": (np.arange(256) * 3 // 256).astype(np.uint8),
        "gains": steps, "inverses": np.float32(1) / steps, "shift": np.array([0.5, -3, 0], np.float32), "default": 128,
    }  # fmt: skip
    return VariableModel(**{**parts, **changes})


def latent(seed=0, size=(6, 7)):
    return np.random.default_rng(seed).normal(0, 3, (C, *size)).astype(np.float32)


@pytest.mark.parametrize("codec", [RansCodec(), RansCodec(kernel="numpy")], ids=["c", "numpy"])
def test_every_position_comes_back_exactly(codec):
    model, sent = variable(), latent()
    for position in range(256):
        rate = position / 255
        assert model.position(rate) == position
        streams = encode_streams(model, sent, codec, rate)
        assert streams[0][0] == position and model.rate_of(streams) == rate
        received = decode_streams(model, streams, sent.shape, codec)
        assert received.dtype == np.float32
        np.testing.assert_array_equal(received, model.restore(sent, rate))
        steps = model.inverses[position][:, None, None]
        assert (np.abs(received - sent) <= 0.5001 * steps).all()


def test_a_receiver_multiplies_by_the_frozen_inverse_and_by_nothing_else():
    model, sent = variable(inverses=np.full((256, C), 0.3, np.float32)), latent()
    for position in (0, 77, 255):
        (stream,) = encode_streams(model, sent, CODEC, position / 255)
        symbols = CODEC.decode(stream[1:], sent.shape, model.models[model.chosen[position]])
        expected = symbols.astype(np.float32) * np.float32(0.3) + model.shift[:, None, None]
        np.testing.assert_array_equal(decode_streams(model, (stream,), sent.shape, CODEC), expected)


def test_larger_rates_are_more_bytes():
    model, sent = variable(), latent(size=(24, 24))
    sizes = [len(encode_streams(model, sent, CODEC, rate)[0]) for rate in np.linspace(0, 1, 9)]
    # where the tables change it may go down a little
    assert all(later > 0.9 * sooner for sooner, later in itertools.pairwise(sizes)) and sizes[-1] > 2 * sizes[0]


def test_the_default_is_its_position():
    model, sent = variable(default=7), latent()
    assert encode_streams(model, sent, CODEC) == encode_streams(model, sent, CODEC, 7 / 255)
    np.testing.assert_array_equal(model.restore(sent), model.restore(sent, 7 / 255))


@pytest.mark.parametrize("rate", [-0.01, 1.01, float("nan"), float("inf"), -float("inf")])
def test_a_rate_that_is_none(rate):
    with pytest.raises(RecipeError, match="rate"):
        encode_streams(variable(), latent(), CODEC, rate)


def test_golden_bytes_and_digest():
    model = variable()
    sent = ((np.arange(C * 5 * 6) * 37 % 41 - 20) / 4).reshape(C, 5, 6).astype(np.float32)
    written = b"".join(encode_streams(model, sent, CODEC, position / 255)[0] for position in (0, 100, 128, 255))
    assert hashlib.sha256(written).hexdigest()[:16] == "cb45fae808af5dfb"
    assert model.digest().hex()[:16] == "b6c800b0943f1de7"


def test_arrays_are_the_model():
    model = variable()
    again = load_model(model.to_arrays())
    assert isinstance(again, VariableModel) and again.digest() == model.digest() and again.default == model.default
    assert encode_streams(again, latent(), CODEC, 0.4) == encode_streams(model, latent(), CODEC, 0.4)
    assert {array.dtype.kind for array in model.to_arrays().values()} <= {"i", "u", "f"}
    assert not model.gains.flags.writeable
    for name in ("gains", "inverses", "shift", "chosen", "default"):
        arrays = {**model.to_arrays(), name: model.to_arrays()[name].copy()}
        arrays[name].flat[0] += 1
        assert load_model(arrays).digest() != model.digest(), name


def test_the_callers_gains_may_change():
    gains = variable().gains.copy()
    model = variable(gains=gains)
    gains[:] = 9
    assert model.digest() == variable().digest()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_hostile_streams_cost_a_typed_error(data):
    model = variable()
    try:
        received = decode_streams(model, (data,), (C, 3, 3), CODEC)
    except CodingError:
        return
    assert received.shape == (C, 3, 3) and np.isfinite(received).all()


def test_empty_and_missing_streams():
    model, sent = variable(), latent()
    (stream,) = encode_streams(model, sent, CODEC, 0)
    for streams in ((), (b"",), (b"", b"x"), (stream, b"x"), (stream[:1],)):
        with pytest.raises(CorruptPacket):
            decode_streams(model, streams, sent.shape, CODEC)
    with pytest.raises(CorruptPacket, match="stream"):
        model.rate_of((b"",))


def test_bad_latents():
    model = variable()
    for shape in ((C + 1, 2, 2), (1, 2, 2), (C, 4), (C, 0, 4)):
        with pytest.raises(ShapeMismatch):
            encode_streams(model, np.zeros(shape, np.float32), CODEC)
    for value in (np.nan, np.inf, 3e38, -3e38, 2.0**23):
        with pytest.raises(InvalidLatent):
            encode_streams(model, np.full((C, 2, 2), value, np.float32), CODEC, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"models": ()}, "gains"), ({"models": (SymbolModel.plain("uniform", C, 4),) * 3}, "models"),
        ({"models": (tables(6),)}, "chosen"), ({"default": 256}, "default"), ({"default": -1}, "default"),
        ({"gains": np.zeros((256, C), np.float32)}, "gains"), ({"gains": np.ones((255, C), np.float32)}, "gains"),
        ({"gains": np.ones((256, C))}, "float32"), ({"inverses": np.full((256, C), np.nan, np.float32)}, "inverses"),
        ({"inverses": np.full((256, C), 2**21, np.float32)}, "inverses"), ({"gains": -variable().gains}, "gains"),
        ({"shift": np.full(C, np.inf, np.float32)}, "shift"), ({"shift": np.zeros(2, np.float32)}, "shift"),
        ({"chosen": np.zeros(256, np.int32)}, "chosen"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit(changes, words):
    with pytest.raises(InvalidTables, match=words):
        variable(**changes)


def test_arrays_that_are_not_a_model():
    whole = variable().to_arrays()
    for name in whole:
        if name != "gains":  # without it they are taken for another kind, and refused as that
            with pytest.raises(InvalidTables):
                load_model({key: array for key, array in whole.items() if key != name})
    for extra in (
        {"x": np.zeros(1)},
        {"4.cdf": np.zeros((1, 1))},
        {"00.cdf": np.zeros(1)},
        {"default": np.zeros(2, np.int32)},
    ):
        with pytest.raises(InvalidTables):
            load_model({**whole, **extra})
    with pytest.raises(InvalidTables):
        load_model({key: array for key, array in whole.items() if key != "gains"})
    nested = {**{k: a for k, a in whole.items() if not k.startswith("0.")}, **{f"0.{k}": a for k, a in whole.items()}}
    with pytest.raises(InvalidTables):
        load_model(nested)
