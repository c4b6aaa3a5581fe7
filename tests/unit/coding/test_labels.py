"""Label maps: the kernel and its twin, sequences, damage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from splitreg.coding.labels import LabelCoder
from splitreg.errors import CorruptAnswer, ShapeMismatch

MAPS = npst.arrays(
    np.uint8, npst.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 1, 2, 31, 32, 255])
)


def blobs(seed, shape=(40, 48), classes=9, moved=0):
    """A map of smooth regions, shifted to the right."""
    y, x = np.mgrid[: shape[0], : shape[1]] / 12
    rng = np.random.default_rng(seed)
    fields = [np.sin(rng.normal() * (x - moved / 12) + rng.normal() * y + rng.uniform(0, 6)) for _ in range(classes)]
    return np.argmax(fields, axis=0).astype(np.uint8)


def payloads(coder, maps):
    return [coder.encode(labels) for labels in maps]


@given(st.lists(MAPS, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None)
def test_the_kernel_and_its_twin_give_the_same_bytes(maps):
    assert payloads(LabelCoder("c"), maps) == payloads(LabelCoder("numpy"), maps)


@pytest.mark.parametrize("kernel", ["c", "numpy"])
@given(maps=st.lists(MAPS, min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_maps_return(kernel, maps):
    encoder, decoder = LabelCoder("c"), LabelCoder(kernel)
    for labels in maps:
        np.testing.assert_array_equal(decoder.decode(encoder.encode(labels), labels.shape), labels)


def test_smooth_maps_are_small_and_smaller_after_another():
    encoder = LabelCoder()
    first, second, again = payloads(encoder, [blobs(1), blobs(1, moved=1), blobs(1, moved=1)])
    assert len(first) < 40 * 48 / 12 and 0 < len(second) < 0.7 * len(LabelCoder().encode(blobs(1, moved=1)))
    assert again == b""


def test_noise_costs_little_more_than_its_entropy():
    labels = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    assert len(LabelCoder().encode(labels)) < 1.1 * labels.size


def test_every_map_of_one_label_is_coded_the_first_time():
    decoder = LabelCoder()
    payload = LabelCoder().encode(np.zeros((3, 3), np.uint8))
    assert payload and not decoder.decode(payload, (3, 3)).any()


def test_another_size_begins_without_the_map_before():
    encoder, decoder = LabelCoder(), LabelCoder()
    for labels in (blobs(1), blobs(1, (20, 24)), blobs(1)):
        payload = encoder.encode(labels)
        assert payload
        np.testing.assert_array_equal(decoder.decode(payload, labels.shape), labels)


@given(st.binary(max_size=60), st.booleans())
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_map_or_one_error(payload, follows):
    results = []
    for kernel in ("c", "numpy"):
        decoder = LabelCoder(kernel)
        if follows:
            decoder.decode(LabelCoder().encode(blobs(2, (6, 5))), (6, 5))
        try:
            results.append(decoder.decode(payload, (6, 5)).tolist())
        except CorruptAnswer:
            results.append(None)
    assert results[0] == results[1]


def test_damage_begins_again():
    encoder, decoder = LabelCoder(), LabelCoder()
    with pytest.raises(CorruptAnswer):
        decoder.decode(encoder.encode(blobs(3)) + bytes(range(1, 9)), (40, 48))
    np.testing.assert_array_equal(decoder.decode(LabelCoder().encode(blobs(4)), (40, 48)), blobs(4))


def test_refused():
    with pytest.raises(ShapeMismatch):
        LabelCoder().encode(np.zeros((0, 3), np.uint8))
    with pytest.raises(ShapeMismatch):
        LabelCoder().encode(np.zeros(3, np.uint8))
    with pytest.raises(CorruptAnswer):
        LabelCoder().decode(b"\0", (1 << 13, 1 << 13))
    with pytest.raises(CorruptAnswer):
        LabelCoder().decode(b"", (3, 3))
