"""Learned gains: one prior for all rates, gradients to every gain, frozen rows, and nothing changed for one rate."""

import itertools

import numpy as np
import pytest
import torch
from splitreg_compressai.factorized import FactorizedPrior
from splitreg_compressai.gains import MIDDLE, Gains
from splitreg_compressai.hyperprior import MeanScaleHyperprior, ScaleHyperprior
from splitreg_compressai.tables import density_tables, step_masses, step_tables

from splitreg.coding import RansCodec, SymbolModel, VariableModel, encode_streams
from splitreg.coding.inspection import measure
from splitreg.errors import InvalidTables, RecipeError
from splitreg.specs import FeatureSpec

IMAGE = FeatureSpec(channels=3, stride=1)
TARGET = FeatureSpec(channels=6, stride=4)
SMALL = {"hidden": 8, "decoder_hidden": 8, "channels": 4}
CLASSES = (FactorizedPrior, ScaleHyperprior, MeanScaleHyperprior)


def make(cls=FactorizedPrior, **options):
    torch.manual_seed(0)
    bottleneck = cls(IMAGE, TARGET, **SMALL, **options)
    with torch.no_grad():
        if bottleneck.gains is not None:
            generator = torch.Generator().manual_seed(1)
            for table in (bottleneck.gains.gain, bottleneck.gains.shrink):
                table.copy_(0.2 * torch.randn(table.shape, generator=generator))
        bottleneck.prior.quantiles[:, 0, 1] = torch.linspace(-1.3, 2.4, bottleneck.prior.channels)
    return bottleneck


def images(count=3, scale=5):
    return scale * torch.randn(count, 3, 33, 47, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("cls", CLASSES)
def test_one_rate_is_as_if_there_were_no_gains(cls):
    plain, other = make(cls), make(cls, rates=1, rate_range=100.0)
    assert plain.state_dict().keys() == other.state_dict().keys()
    assert not any("gain" in name for name in plain.state_dict())
    assert not isinstance(plain.freeze(), VariableModel) and plain.freeze().digest() == other.freeze().digest()


def test_unit_steps_have_the_masses_and_tables_of_the_prior_itself():
    prior = make(encoder="gdn").prior.eval()
    centres, expected = prior(4 * torch.randn(2, 4, 5, 6))
    torch.testing.assert_close(
        step_masses(prior, centres, torch.full((2, 4, 1, 1), 0.5)), expected, rtol=1e-3, atol=1e-6
    )
    mine, theirs = step_tables(prior, np.ones(4, np.float32)), density_tables(prior)
    np.testing.assert_array_equal(mine.offsets, theirs.offsets)
    np.testing.assert_array_equal(mine.lengths, theirs.lengths)
    assert np.abs(np.diff(mine.cdf) - np.diff(theirs.cdf)).max() <= 64


def test_steps_of_any_width_share_one_whole():
    prior = make().prior.eval()
    for gain in (0.2, 1.0, 5.0):
        centres = torch.arange(-400, 401) / gain
        masses = step_masses(prior, centres.expand(1, 4, 1, -1), torch.full((1, 4, 1, 1), 0.5 / gain))
        torch.testing.assert_close(masses.sum((0, 2, 3)), torch.ones(4), rtol=0, atol=2e-3)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_gain_learns(cls):
    bottleneck = make(cls, rates=4).train()
    restored, rate = bottleneck(images(8))
    assert rate.shape == (8,) and (rate > 0).all()
    (restored.square().mean() + 1e-4 * rate.mean()).backward()
    for table in (bottleneck.gains.gain, bottleneck.gains.shrink):
        assert torch.isfinite(table.grad).all() and (table.grad.abs().sum(1) > 0).all()


def test_rates_are_drawn_over_the_whole_range_and_weighed():
    gains = Gains(4, 5, 16.0).train()
    torch.manual_seed(0)
    drawn = [gains.at(8) for _ in range(50)]
    weights = torch.stack([weight for _, _, weight in drawn])
    assert weights.min() >= 0.25 and weights.max() <= 4 and weights.log2().std() > 1
    assert (weights.diff(dim=1) < 0).all() and (weights[:, 0] > 2.5).all() and (weights[:, -1] < 0.4).all()
    for gain, inverse, weight in drawn:  # untrained, a step grows with the root of the rate's weight
        torch.testing.assert_close(gain[:, 0, 0, 0], weight.rsqrt(), rtol=1e-4, atol=0)
        torch.testing.assert_close(inverse * gain, torch.ones_like(gain))
    gain, _, weight = gains.eval().at(2)
    assert (weight == 1).all() and gain.mean().item() == pytest.approx(1, abs=0.01)


def test_between_learned_points_gains_are_interpolated_geometrically():
    gains = make(rates=3).gains
    with torch.no_grad():
        at, inverse = (g[..., 0, 0] for g in gains(torch.tensor([0.0, 0.25, 0.5, 1.0])))
    torch.testing.assert_close(at[1], (at[0] * at[2]).sqrt())
    torch.testing.assert_close(inverse[1], (inverse[0] * inverse[2]).sqrt())
    torch.testing.assert_close(at[3], (2.0 * 0 + gains.gain[2]).exp() * 2)  # 16 ** 0.25


@pytest.mark.parametrize("cls", CLASSES)
def test_frozen_it_codes_every_rate_and_validates_the_middle(cls):
    bottleneck, codec = make(cls, rates=5).eval(), RansCodec(adapt=False)
    model, x = bottleneck.freeze(), images()
    assert isinstance(model, VariableModel) and model.default == MIDDLE
    with torch.no_grad():
        expected, bits = bottleneck(x)
        latents = bottleneck.analyse(x).numpy()
    for row, latent in enumerate(latents):
        result = measure(encode_streams(model, latent, codec), latent.shape, model, codec)
        received = result.latent
        with torch.no_grad():
            restored = bottleneck.synthesise(torch.from_numpy(received)[None])
        torch.testing.assert_close(restored, expected[row : row + 1], rtol=1e-4, atol=1e-4)
        assert sum(result.stream_bits) == pytest.approx(bits[row].item(), rel=0.03)


def test_larger_rates_restore_more_closely():
    bottleneck = make(rates=5)
    torch.nn.init.zeros_(bottleneck.gains.shrink)
    model = bottleneck.freeze()
    latent = np.random.default_rng(0).normal(0, 3, (4, 9, 9)).astype(np.float32)
    errors = [np.abs(model.restore(latent, rate) - latent).mean() for rate in np.linspace(0, 1, 5)]
    assert all(later < sooner for sooner, later in itertools.pairwise(errors))


def test_tables_fit_what_is_sent_at_each_learned_rate():
    """The latents drawn from the prior itself cost what its density says, at coarse steps and at fine ones."""
    bottleneck = make(rates=3)
    prior, model = bottleneck.prior.eval(), bottleneck.freeze()
    grid = torch.linspace(-60, 60, 24001)
    with torch.no_grad():
        below = torch.sigmoid(prior.logits(grid.expand(4, 1, -1)))[:, 0].numpy()
    uniform = np.random.default_rng(0).uniform(0.002, 0.998, (4, 60, 60))
    latent = np.stack([np.interp(u, c, grid.numpy()) for u, c in zip(uniform, below, strict=True)]).astype(np.float32)
    for number, position in ((0, 0), (1, 128), (2, 255)):
        assert model.chosen[position] == number
        tables = model.models[number]
        symbols = tables.quantise(model.scaled(latent, position))
        masses = [np.bincount(row.ravel() + 600, minlength=1201) / row.size for row in symbols]
        entropy = sum(-(m[m > 0] * np.log2(m[m > 0])).sum() for m in masses) * 3600
        assert tables.ideal_bits(symbols) == pytest.approx(entropy, rel=0.03)


def test_the_device_gets_no_gains_but_the_frozen_ones():
    bottleneck = make(rates=5)
    assert not any("gain" in name for name in bottleneck.encoder.state_dict())
    assert {"gains.gain", "gains.shrink"} <= bottleneck.state_dict().keys()
    assert all(isinstance(model, SymbolModel) for model in bottleneck.freeze().models)


def test_diverged_gains_do_not_freeze():
    for value in (float("nan"), 100.0):
        bottleneck = make(rates=3)
        with torch.no_grad():
            bottleneck.gains.gain[1, 2] = value
        with pytest.raises(InvalidTables, match="gains"):
            bottleneck.freeze()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rates": 0}, "rates"), ({"rates": 300}, "rates"), ({"rate_range": 1}, "rate_range"),
        ({"rate_range": float("nan")}, "rate_range"),
    ],
)  # fmt: skip
def test_bad_options(options, words):
    with pytest.raises(RecipeError, match=words):
        make(**options)


@pytest.mark.parametrize("rates", [1, 4])
@pytest.mark.parametrize("cls", CLASSES)
def test_mixed_training_decodes_what_the_codec_leaves(cls, rates):
    """And its gradient reaches the encoder as if nothing were rounded."""
    bottleneck, latent = make(cls, rates=rates, surrogate="mixed"), 3 * torch.randn(2, 4, 9, 7)
    latent.requires_grad_()
    fixed = None if bottleneck.gains is None else bottleneck.eval().gains.at(2)
    bottleneck.train()

    def receive(x):
        if fixed is None or cls is FactorizedPrior:
            return bottleneck._transmit(x)[0]
        return bottleneck._transmit(x * fixed[0])[0] * fixed[1]

    if fixed is not None:
        bottleneck.gains.at = lambda batch: fixed
    trained = receive(latent)
    (slope,) = torch.autograd.grad(trained.sum(), latent)
    with torch.no_grad():
        bottleneck.eval()
        coded = receive(latent)
    torch.testing.assert_close(trained.detach(), coded, rtol=1e-5, atol=0.07 if cls is MeanScaleHyperprior else 1e-5)
    assert (slope != 0).all()


def test_there_are_two_surrogates():
    with pytest.raises(RecipeError, match="surrogate.*'ste'"):
        make(surrogate="ste")
