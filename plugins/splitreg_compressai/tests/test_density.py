"""The density, its training and its tables are compressai's, bit for bit, without importing compressai."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.entropy_models.entropy_models import pmf_to_quantized_cdf
from hypothesis import given
from hypothesis import strategies as st
from splitreg_compressai.density import FactorizedDensity
from splitreg_compressai.tables import REACH, TAIL, density_tables, quantised

from splitreg.coding import SymbolModel

pytestmark = pytest.mark.integration


def pair(channels=5, seed=0, spread=0.0):
    """compressai's layer and ours, with the same weights."""
    torch.manual_seed(seed)
    theirs = EntropyBottleneck(channels)
    torch.manual_seed(seed)
    ours = FactorizedDensity(channels)
    if spread:
        with torch.no_grad():
            for parameter in theirs.parameters():
                parameter.add_(spread * torch.randn_like(parameter))
        ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def test_names_and_first_values():
    theirs, ours = pair()
    expected, state = theirs.state_dict(), ours.state_dict()
    assert list(state) == list(expected)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    for name, value in expected.items():
        assert value.dtype == state[name].dtype and torch.equal(value, state[name]), name


def test_training_takes_the_same_steps():
    models = pair()
    optimizers = [torch.optim.Adam(model.parameters(), 1e-2) for model in models]
    for step in range(10):
        latent = 4 * torch.randn(3, 5, 4, 6, generator=torch.Generator().manual_seed(step))
        slopes = []
        for model, optimizer in zip(models, optimizers, strict=True):
            torch.manual_seed(step)  # of the noise
            x = latent.clone().requires_grad_()
            received, likelihood = model(x)
            optimizer.zero_grad()
            (received.square().mean() - likelihood.log2().sum() + model.loss()).backward()
            optimizer.step()
            slopes.append(x.grad)
        assert torch.equal(*slopes)
    for theirs, ours in zip(*(model.state_dict().values() for model in models), strict=True):
        assert torch.equal(theirs, ours)


@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0])
def test_evaluation(spread):
    theirs, ours = (model.eval() for model in pair(spread=spread))
    latent = 9 * torch.randn(2, 5, 7, 3, generator=torch.Generator().manual_seed(1))
    for expected, value in zip(theirs(latent), ours(latent), strict=True):
        assert torch.equal(expected, value)


@pytest.mark.parametrize("seed", range(6))
def test_tables(seed):
    """compressai's ``update``, with the quantiles where the density leaves ``TAIL`` on either side."""
    theirs, ours = pair(seed=seed, spread=0.05 * 2**seed)
    with torch.no_grad():
        medians, steps = theirs.quantiles[:, 0, 1].clone(), torch.arange(-REACH, REACH + 1)
        _, mass = theirs((medians[:, None] + steps)[None], training=False)
        below, above = ((m.cumsum(1) < TAIL).sum(1).clamp(max=REACH - 1) for m in (mass[0], mass[0].flip(1)))
        theirs.quantiles[:, 0, 0], theirs.quantiles[:, 0, 2] = medians + steps[below], medians - steps[above]
    theirs.update(force=True)
    arrays = (theirs.quantized_cdf, theirs.cdf_length, theirs.offset, medians)
    assert density_tables(ours).digest() == SymbolModel.from_cdf(*(array.numpy() for array in arrays)).digest()


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=60).filter(lambda masses: sum(masses) > 0.01))
def test_frequencies_are_rounded_like_compressai(masses):
    pmf = np.array(masses, np.float32) / np.float32(sum(masses))
    expected = np.diff(pmf_to_quantized_cdf(torch.from_numpy(pmf)).numpy())
    np.testing.assert_array_equal(quantised(pmf.astype(np.float64)), expected)


def test_bottlenecks_are_trained_and_frozen_without_compressai():
    code = (
        "import sys, torch\n"
        "from splitreg_compressai.factorized import FactorizedPrior\n"
        "from splitreg_compressai.hyperprior import MeanScaleHyperprior\n"
        "from splitreg.specs import FeatureSpec\n"
        "for cls in (FactorizedPrior, MeanScaleHyperprior):\n"
        "    model = cls(FeatureSpec(channels=3, stride=1), FeatureSpec(channels=4, stride=4), hidden=4, decoder_hidden=4)\n"
        "    sum(part.mean() for part in model(torch.rand(1, 3, 32, 32))).backward()\n"
        "    model.freeze()\n"
        "print('compressai' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
