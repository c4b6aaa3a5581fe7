"""Temporal coding of symbols: the kernel against its numpy twin, what frames cost, damaged payloads."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.laplace import laplace_model

from splitreg.coding import RansCodec
from splitreg.errors import CorruptPacket, ShapeMismatch

INT32 = np.iinfo(np.int32)


def coders():
    return [RansCodec(kernel=kernel).temporal() for kernel in ("c", "numpy")]


def states(coder):
    return [getattr(coder._history, field.name) for field in dataclasses.fields(coder._history)]


def clip(rng, shape, frames, changed, reach):
    """Frames that change here and there; neighbours change together."""
    frame = np.rint(rng.laplace(0, 1.5, shape)).astype(np.int64)
    for _ in range(frames):
        yield frame.clip(INT32.min, INT32.max).astype(np.int32)
        at = rng.random(shape) < changed
        at[:, 1:] |= at[:, :-1] & (rng.random((shape[0], shape[1] - 1, shape[2])) < 0.5)
        frame = np.where(at, frame + np.rint(rng.standard_cauchy(shape) * reach).astype(np.int64), frame)


@st.composite
def clips(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(draw(st.integers(1, most)) for most in (4, 9, 13))
    changed, reach = draw(st.sampled_from([0.0, 0.01, 0.1, 0.7])), draw(st.sampled_from([1, 30, 2**31]))
    model = laplace_model(rng.uniform(0.1, 8, shape[0]))
    if draw(st.booleans()):
        model = model.at(rng.integers(0, shape[0], shape))
    return model, list(clip(rng, shape, draw(st.integers(2, 5)), changed, reach))


@settings(deadline=None, max_examples=60)
@given(clips())
def test_kernel_and_twin_write_the_same_bytes_and_keep_the_same_state(case):
    model, (first, *rest) = case
    kernel, twin = coders()
    decoders = coders()
    for coder in (kernel, twin, *decoders):
        coder.begin(first)
    for symbols in rest:
        payload = kernel.encode(symbols, model, limit=2**20)
        assert payload == twin.encode(symbols, model, limit=2**20)
        for decoder in decoders:
            assert np.array_equal(decoder.decode(payload, model), symbols)
        for arrays in zip(*map(states, (kernel, twin, *decoders)), strict=True):
            assert all(np.array_equal(arrays[0], other) for other in arrays[1:])


def test_the_largest_distances_are_coded():
    model = laplace_model([1.0])
    frames = [np.array([[[value]]], np.int32) for value in (INT32.min, INT32.max, INT32.min, 0, INT32.max, 5)]
    for coder, decoder in zip(coders(), coders(), strict=True):
        coder.begin(frames[0])
        decoder.begin(frames[0])
        for symbols in frames[1:]:
            assert np.array_equal(decoder.decode(coder.encode(symbols, model, limit=100), model), symbols)


@pytest.mark.parametrize("coder", coders())
def test_a_frame_without_change_has_no_payload(coder):
    model, symbols = laplace_model([1.0, 2.0]), np.ones((2, 8, 8), np.int32)
    coder.begin(symbols)
    assert [coder.encode(symbols, model, limit=0) for _ in range(300)] == [b""] * 300
    assert np.array_equal(coder.decode(b"", model), symbols)


@pytest.mark.parametrize("coder", coders())
def test_what_repeats_costs_less_and_less(coder):
    """A symbol that flickers between two values is learned."""
    model, rng = laplace_model([1.0] * 4), np.random.default_rng(0)
    frame = np.rint(rng.laplace(0, 1, (4, 16, 16))).astype(np.int32)
    other = frame.copy()
    other[:, 4:8, 4:8] += 1
    coder.begin(frame)
    sizes = [len(coder.encode(other if i % 2 else frame, model, limit=9999)) for i in range(1, 21)]
    assert sum(sizes[-4:]) < 0.4 * sum(sizes[:4])


@pytest.mark.parametrize("coder", coders())
def test_a_payload_that_does_not_fit_is_refused(coder):
    model, rng = laplace_model([4.0]), np.random.default_rng(0)
    coder.begin(np.zeros((1, 16, 16), np.int32))
    assert coder.encode(np.rint(rng.laplace(0, 9, (1, 16, 16))).astype(np.int32), model, limit=40) is None


@pytest.mark.parametrize("coder", coders())
def test_another_shape_and_a_missing_key_frame_are_refused(coder):
    model = laplace_model([1.0])
    with pytest.raises(CorruptPacket, match="key frame"):
        coder.decode(b"1", model)
    coder.begin(np.zeros((1, 4, 4), np.int32))
    with pytest.raises(ShapeMismatch, match=r"\(1, 4, 4\)"):
        coder.encode(np.zeros((1, 4, 5), np.int32), model, limit=99)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=60), st.integers(0, 3))
def test_any_payload_is_decoded_or_refused_the_same_by_both(payload, seed):
    model, rng = laplace_model([0.5, 3.0, 8.0]), np.random.default_rng(seed)
    first = np.rint(rng.laplace(0, 3, (3, 6, 7))).astype(np.int32)
    found = []
    for coder in coders():
        coder.begin(first)
        try:
            found.append(coder.decode(payload, model))
        except CorruptPacket:
            found.append(None)
    assert np.array_equal(*found) if found[0] is not None else found[1] is None
