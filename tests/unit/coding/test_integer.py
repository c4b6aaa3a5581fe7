"""Integer networks against plain integer arithmetic, for any weights and inputs, and files that are not networks."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitreg.coding import IntegerLayer, IntegerNetwork
from splitreg.coding.integer import MAX_ACTIVATION, depth_to_space, space_to_depth
from splitreg.errors import InvalidTables, ShapeMismatch


def layer(weight, bias=None, shift=0, low=-MAX_ACTIVATION, high=MAX_ACTIVATION):
    weight = np.asarray(weight, np.int16)
    weight = weight.reshape(*weight.shape, 1, 1) if weight.ndim == 2 else weight
    bias = np.zeros(len(weight), np.int32) if bias is None else np.asarray(bias, np.int32)
    return IntegerLayer(weight=weight, bias=bias, shift=shift, low=low, high=high)


def some_network(seed, widths, largest=2**15 - 1, kernel=1):
    generator = np.random.default_rng(seed)
    layers = []
    for before, after in itertools.pairwise(widths):
        low, high = sorted(generator.integers(-MAX_ACTIVATION, MAX_ACTIVATION + 1, 2).tolist())
        layers.append(layer(
            generator.integers(-largest, largest + 1, (after, before, kernel, kernel)),
            generator.integers(-(2**31), 2**31, after), int(generator.integers(0, 25)), low, high,
        ))  # fmt: skip
    return IntegerNetwork(layers, *sorted(generator.integers(-MAX_ACTIVATION, MAX_ACTIVATION + 1, 2).tolist()))


def plainly(network, x):
    """The definition, in Python's integers."""
    x = np.clip(x.astype(object), network.low, network.high)
    for step in network.layers:
        kernel = step.weight.shape[2]
        padded = np.zeros((len(x), x.shape[1] + kernel - 1, x.shape[2] + kernel - 1), object)
        reach = kernel // 2
        padded[:, reach : reach + x.shape[1], reach : reach + x.shape[2]] = x
        result = np.empty((len(step.weight), *x.shape[1:]), object)
        for out, row, column in np.ndindex(*result.shape):
            around = padded[:, row : row + kernel, column : column + kernel]
            total = int((around * step.weight[out].astype(object)).sum()) + int(step.bias[out])
            half = (1 << step.shift) >> 1
            result[out, row, column] = min(max((total + half) >> step.shift, step.low), step.high)
        x = result
    return x.astype(np.int64)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.lists(st.integers(1, 5), min_size=2, max_size=4), st.sampled_from([1, 3]),
    st.sampled_from([3, 200, 2**15 - 1]), st.integers(1, 4), st.integers(1, 4),
)  # fmt: skip
def test_equals_plain_integer_arithmetic(seed, widths, kernel, largest, height, width):
    network = some_network(seed, widths, largest, kernel)
    x = np.random.default_rng(seed).integers(-(2**31), 2**31, (widths[0], height, width)).astype(np.int32)
    np.testing.assert_array_equal(network(x), plainly(network, x))


def test_sums_at_the_edge_of_float32_are_exact():
    fine = layer(np.full((1, 512), 127), [100], low=-1, high=1)
    assert IntegerNetwork([fine], 0, 255)._matrices[0][0].dtype == np.float32
    assert IntegerNetwork([fine], 0, 300)._matrices[0][0].dtype == np.float64
    network = IntegerNetwork(
        [layer([[MAX_ACTIVATION, MAX_ACTIVATION, 1]], [-2 * MAX_ACTIVATION**2])], 0, MAX_ACTIVATION
    )
    assert network(np.array([MAX_ACTIVATION, MAX_ACTIVATION, 1]).reshape(3, 1, 1)).item() == 1  # float32 would lose it


def test_order_and_layout_do_not_matter():
    network = some_network(3, [64, 48, 8], 300)
    x = np.random.default_rng(0).integers(-500, 500, (64, 9, 11)).astype(np.float32)
    expected = network(x)
    np.testing.assert_array_equal(network(np.asfortranarray(x)), expected)
    order = np.random.default_rng(1).permutation(64)
    first = network.layers[0]
    mixed = IntegerNetwork(
        [layer(first.weight[:, order], first.bias, first.shift, first.low, first.high), *network.layers[1:]],
        network.low, network.high,
    )  # fmt: skip
    np.testing.assert_array_equal(mixed(x[order]), expected)
    np.testing.assert_array_equal(np.concatenate([network(x[:, :, :4]), network(x[:, :, 4:])], 2), expected)


def test_halves_are_rounded_up_and_bounds_hold():
    network = IntegerNetwork([layer([[1]], shift=1, low=-2, high=3)], -100, 100)
    x = np.array([-100, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 100]).reshape(1, 1, -1)
    assert network(x).ravel().tolist() == [-2, -2, -2, -1, -1, 0, 0, 1, 1, 2, 2, 3, 3, 3]
    assert network.range == (-2, 3) and (network.inputs, network.outputs) == (1, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weight": np.zeros((2, 2), np.int16)}, "weight"), ({"weight": np.zeros((2, 2, 2, 2), np.int16)}, r"\(2, 2, 2, 2\)"),
        ({"weight": np.zeros((2, 0, 1, 1), np.int16)}, "weight"), ({"weight": np.zeros((2, 2, 1, 1), np.int32)}, "int16"),
        ({"bias": np.zeros(3, np.int32)}, "bias"), ({"bias": np.zeros(2)}, "int32"), ({"shift": 25}, "shift"),
        ({"shift": -1}, "shift"), ({"low": 2, "high": 1}, "2 to 1"), ({"high": 2**15}, "32768"),
    ],
)  # fmt: skip
def test_wrong_layers(change, words):
    fine = {"weight": np.ones((2, 2, 1, 1), np.int16), "bias": np.zeros(2, np.int32), "shift": 1, "low": 0, "high": 9}
    IntegerLayer(**fine)
    with pytest.raises(InvalidTables, match=words):
        IntegerLayer(**(fine | change))


def test_wrong_networks():
    one = layer(np.ones((2, 3)))
    for layers, low, high in (([], 0, 1), ([one] * 17, 0, 1), ([one, one], 0, 1), ([one], 1, 0), ([one], 0, 2**15)):
        with pytest.raises(InvalidTables):
            IntegerNetwork(layers, low, high)
    for shape in ((2, 2, 2), (3, 0, 2), (3, 2), (1, 3, 2, 2)):
        with pytest.raises(ShapeMismatch):
            IntegerNetwork([one], 0, 1)(np.zeros(shape))


def test_the_caller_cannot_change_a_layer():
    weight = np.ones((1, 1, 1, 1), np.int16)
    copy = layer(weight)
    weight[0] = 5
    assert copy.weight.item() == 1
    with pytest.raises(ValueError, match="read-only"):
        copy.weight[0] = 5


def test_arrays_round_trip():
    network = some_network(1, [3, 4, 2], kernel=3)
    again = IntegerNetwork.from_arrays(network.to_arrays())
    x = np.random.default_rng(0).integers(-999, 999, (3, 5, 6))
    np.testing.assert_array_equal(again(x), network(x))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_arrays_are_refused_or_a_network(data):
    arrays = some_network(2, [3, 4, 2]).to_arrays()
    name = data.draw(st.sampled_from(sorted(arrays)))
    kind = data.draw(st.sampled_from(["drop", "rename", "dtype", "shape", "values"]))
    if kind == "drop":
        del arrays[name]
    elif kind == "rename":
        arrays[data.draw(st.sampled_from(["", "x", "3.weight", "0.weight.1", "-1.bias"]))] = arrays.pop(name)
    elif kind == "dtype":
        arrays[name] = arrays[name].astype(data.draw(st.sampled_from(["f4", "i8", "u1", "?", "c8", "i2", "i4"])))
    elif kind == "shape":
        arrays[name] = np.resize(arrays[name], data.draw(st.sampled_from([(), (0,), (1,), (2, 2), (4, 4, 1, 1)])))
    else:
        values = data.draw(st.integers(-(2**31), 2**31 - 1))
        arrays[name] = np.full_like(arrays[name], np.int64(values).astype(arrays[name].dtype))
    try:
        network = IntegerNetwork.from_arrays(arrays)
    except InvalidTables:
        return
    assert network(np.ones((network.inputs, 2, 2))).shape == (network.outputs, 2, 2)


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 2, 4, 8]))
def test_space_to_depth_and_back(height, width, factor):
    x = np.random.default_rng(0).random((3, height, width))
    deep = space_to_depth(x, factor)
    assert deep.shape == (3 * factor**2, -(-height // factor), -(-width // factor))
    np.testing.assert_array_equal(depth_to_space(deep, factor, (height, width)), x)
    padded = torch.nn.functional.pad(
        torch.from_numpy(x)[None], (0, -width % factor, 0, -height % factor), mode="replicate"
    )
    np.testing.assert_array_equal(torch.nn.functional.pixel_unshuffle(padded, factor)[0].numpy(), deep)
