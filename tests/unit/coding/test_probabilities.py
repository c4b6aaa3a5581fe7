"""Tables from probabilities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitreg.coding import SymbolModel
from splitreg.coding.frequencies import rows_from_probabilities
from splitreg.coding.rans import RansCodec
from splitreg.errors import InvalidTables


@given(st.integers(0, 999), st.integers(1, 4), st.integers(1, 300))
def test_rows_are_valid_and_near_the_probabilities(seed, rows, values):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.full(values + 1, 0.3), rows)[:, :-1]
    cdf = rows_from_probabilities(probabilities)
    assert cdf.shape == (rows, values + 2) and (cdf[:, 0] == 0).all() and (cdf[:, -1] == 2**16).all()
    assert (np.diff(cdf) >= 1).all()
    assert np.abs(np.diff(cdf)[:, :-1] / 2**16 - probabilities).max() < (values + 2) / 2**15


def test_symbols_and_escapes_come_back():
    probabilities = np.array([[0.1, 0.6, 0.2], [0.3, 0.3, 0.3]])
    model = SymbolModel.from_probabilities(probabilities, np.array([-1, 4]), np.array([0.0, 0.5]))
    latent = np.array([[[0.2, -1.1, 99.0]], [[4.4, 6.6, -3.0]]], np.float32)
    codec, symbols = RansCodec(), model.quantise(latent)
    assert np.array_equal(codec.decode(codec.encode(symbols, model), symbols.shape, model), symbols)
    assert model.offsets.tolist() == [-1, 4] and model.channels == 2


@pytest.mark.parametrize(
    "probabilities",
    [[0.5], [[]], [[0.7, 0.7]], [[-0.1, 0.5]], [[float("nan")]], np.zeros((0, 3)), np.zeros((1, 40_000))],
)
def test_what_is_no_distribution_is_refused(probabilities):
    with pytest.raises(InvalidTables, match="probabilities"):
        SymbolModel.from_probabilities(np.array(probabilities, float), 0)
