"""quantise and raw: calibration, surrogates, tables, and the training path against the coded path."""

import numpy as np
import pytest
import torch
from splitreg_classic.packed import RawCodec
from splitreg_classic.quantise import INITIAL_RANGE, RANGE_BATCHES, Quantise, RawFeature

from splitreg.errors import RecipeError
from splitreg.specs import FeatureSpec

SPEC = FeatureSpec(channels=3, stride=8)


def make(**options):
    return Quantise(SPEC, SPEC, **options)


def features(seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([0.1, 1.0, 10.0])[:, None, None]
    return torch.randn(4, 3, 6, 6, generator=generator) * scale


def test_range_follows_the_features():
    bottleneck = make()
    x = features()
    bottleneck(x)
    torch.testing.assert_close(bottleneck.low, x.min().expand(3))
    torch.testing.assert_close(bottleneck.high, x.max().expand(3))
    bottleneck(0 * x)
    torch.testing.assert_close(bottleneck.low, 0.9 * x.min().expand(3))
    bottleneck.eval()(1000 * x)
    torch.testing.assert_close(bottleneck.low, 0.9 * x.min().expand(3))


def test_each_channel_may_have_its_own_range():
    bottleneck = make(per_channel=True)
    x = features()
    bottleneck(x)
    torch.testing.assert_close(bottleneck.low, x.amin((0, 2, 3)))
    bottleneck = make(per_channel=True, percentile=90.0)
    bottleneck(x)
    assert (bottleneck.low > x.amin((0, 2, 3))).all() and (bottleneck.high < x.amax((0, 2, 3))).all()


def test_one_bad_batch_does_not_spoil_the_range():
    bottleneck = make()
    bottleneck(features())
    before = bottleneck.low.clone(), bottleneck.counts.clone()
    bottleneck(torch.full((1, 3, 2, 2), float("nan")))
    assert torch.equal(bottleneck.low, before[0]) and torch.equal(bottleneck.counts, before[1])


@pytest.mark.parametrize("bits", [1, 4, 8, 12, 16])
@pytest.mark.parametrize("per_channel", [False, True])
def test_eval_path_equals_the_coded_path(bits, per_channel):
    bottleneck = make(bits=bits, per_channel=per_channel)
    for seed in range(3):
        bottleneck(features(seed))
    bottleneck.eval()
    x = 1.5 * features(9)  # some values lie outside the range
    with torch.no_grad():
        expected, rate = bottleneck(x)
        tables = bottleneck.freeze()
        for row, latent in enumerate(bottleneck.analyse(x)):
            symbols = tables.quantise(latent.numpy())
            assert symbols.min() >= 0 and symbols.max() < 2**bits
            restored = bottleneck.synthesise(torch.from_numpy(tables.dequantise(symbols)))
            torch.testing.assert_close(restored, expected[row], rtol=1e-6, atol=1e-6)
            if tables.has_tables:
                assert tables.ideal_bits(symbols) == pytest.approx(rate[row].item(), rel=0.02)
            else:
                assert rate[row].item() == bits * symbols.size


@pytest.mark.parametrize("surrogate", ["noise", "ste"])
def test_surrogates(surrogate):
    torch.manual_seed(0)
    bottleneck = make(bits=4, surrogate=surrogate)
    x = features().requires_grad_()
    restored, rate = bottleneck(x)
    step = (x.max() - x.min()).item() / 15
    assert (restored - x).abs().max().item() <= 0.5001 * step
    restored.sum().backward()
    inside = (x > x.min()) & (x < x.max())
    torch.testing.assert_close(x.grad[inside], torch.ones(int(inside.sum())))
    assert rate.shape == (4,) and not rate.requires_grad
    if surrogate == "ste":
        levels = (restored.detach() - bottleneck.low[:, None, None]) / step
        torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)


@pytest.mark.parametrize("bits", [4, 8])
def test_learned_steps_are_the_same_in_training_and_coding(bits):
    torch.manual_seed(0)
    bottleneck = make(bits=bits, learned_steps=True)
    for seed in range(3):
        bottleneck(features(seed))
    with torch.no_grad():
        bottleneck.log_gain.uniform_(-0.05, 0.0)
        bottleneck.eval()
        x = features(9)
        expected, _ = bottleneck(x)
        tables = bottleneck.freeze()
        steps = bottleneck.symbols(x).round()
        for row, latent in enumerate(x):
            symbols = tables.quantise(latent.numpy())
            np.testing.assert_array_equal(symbols, steps[row].numpy())
            restored = bottleneck.synthesise(torch.from_numpy(tables.dequantise(symbols)))
            torch.testing.assert_close(restored, expected[row], rtol=1e-5, atol=1e-5)


def test_steps_grow_where_bytes_cost_something():
    torch.manual_seed(0)
    bottleneck = make(learned_steps=True)
    bottleneck(features())
    first = bottleneck.freeze().scale
    optimizer = torch.optim.Adam(bottleneck.parameters(), 2e-3)
    for seed in range(60):
        x = features(seed)
        optimizer.zero_grad()
        restored, _ = bottleneck(x)
        steps = bottleneck.symbols(x) - 128
        error = ((restored - x) / torch.tensor([0.1, 1.0, 10.0])[:, None, None]).square().mean()
        (error + 0.003 * (steps.abs() + 1).log2().mean()).backward()
        optimizer.step()
    assert bottleneck.batches == RANGE_BATCHES
    gains = bottleneck.freeze().scale / first
    assert (gains < 0.8).any() and gains[2] < 0.5 * gains[0]  # the strongest channel has the most levels to lose
    assert bottleneck.symbols(x).mean((0, 2, 3)).sub(128).abs().max() < 2 and make().symbols(x) is None


def test_surrogate_jpeg_changes_every_other_image():
    torch.manual_seed(0)
    bottleneck = Quantise(FeatureSpec(channels=4, stride=8), FeatureSpec(channels=4, stride=8), surrogate="jpeg")
    x = torch.randn(4, 4, 8, 8)
    bottleneck(x)
    restored, _ = bottleneck(x)
    errors = (restored - x).abs().amax((1, 2, 3)) * (255 / (bottleneck.high[0] - bottleneck.low[0]))
    assert (errors[1::2] <= 0.51).all() and (errors[::2] > 1.5).all()


def test_skewed_features_cost_less_than_their_bits():
    bottleneck = make(bits=8)
    x = torch.relu(features() - 1)
    for _ in range(3):
        bottleneck(x)
    _, rate = bottleneck.eval()(x)
    assert (rate < 0.6 * 8 * x[0].numel()).all()


def test_uncalibrated_tables_are_flat():
    bottleneck = make(bits=4)
    tables = bottleneck.freeze()
    assert tables.bits == 4 and tables.shift[0] == INITIAL_RANGE[0]
    frequencies = np.diff(tables.cdf[0])
    assert frequencies[:16].max() - frequencies[:16].min() <= 16 and frequencies[-1] == 1
    restored, rate = bottleneck.eval()(features())
    assert torch.isfinite(restored).all() and rate[0].item() == pytest.approx(4 * 108, rel=1e-4)


def test_constant_features():
    bottleneck = make()
    bottleneck(torch.full((2, 3, 4, 4), 2.5))
    restored, rate = bottleneck.eval()(torch.full((2, 3, 4, 4), 2.5))
    torch.testing.assert_close(restored, torch.full((2, 3, 4, 4), 2.5))
    assert torch.isfinite(rate).all()


def test_nothing_goes_to_the_device():
    bottleneck = make()
    assert not bottleneck.encoder.state_dict() and not bottleneck.decoder.state_dict()
    assert set(bottleneck.state_dict()) == {"low", "high", "counts", "batches"}


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 0},
        {"bits": 17},
        {"percentile": 50},
        {"momentum": 0},
        {"surrogate": "none"},
        {"surrogate": "jpeg", "bits": 9},
    ],
)
def test_bad_options(options):
    with pytest.raises(RecipeError):
        make(**options)


@pytest.mark.parametrize("cls", [Quantise, RawFeature])
def test_the_image_is_not_the_feature(cls):
    with pytest.raises(RecipeError, match="from = 'feature'"):
        cls(FeatureSpec(channels=3, stride=1), SPEC)


def test_raw_is_bit_exact():
    bottleneck, codec = RawFeature(SPEC, SPEC), RawCodec()
    x = features()
    restored, rate = bottleneck(x)
    assert torch.equal(restored, x) and rate.tolist() == [32 * 108] * 4
    tables = bottleneck.freeze()
    symbols = tables.quantise(x[0].numpy())
    payload = codec.encode(symbols, tables)
    assert len(payload) == 4 * 108
    assert tables.dequantise(codec.decode(payload, symbols.shape, tables)).tobytes() == x[0].numpy().tobytes()
