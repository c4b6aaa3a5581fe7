"""The context network: training against the frozen integers, what learns, and packets that become smaller."""

import numpy as np
import pytest
import torch
from splitreg_compressai.factorized import FactorizedPrior
from splitreg_compressai.tables import density_logits, step_tables

from splitreg.coding import RansCodec, decode_streams, encode_streams
from splitreg.coding.context import MAX_LEVEL
from splitreg.errors import RecipeError
from splitreg.networks import ContextNetwork, decision_logits, level_of
from splitreg.specs import FeatureSpec

IMAGE = FeatureSpec(channels=3, stride=1)
TARGET = FeatureSpec(channels=6, stride=4)
SMALL = {"hidden": 8, "decoder_hidden": 8, "channels": 4, "context": 12, "context_units": 3}


def make(**options):
    torch.manual_seed(0)
    bottleneck = FactorizedPrior(IMAGE, TARGET, **{**SMALL, **options})
    with torch.no_grad():
        bottleneck.prior.quantiles[:, 0, 1] = torch.linspace(-1.3, 2.4, 4)
        if bottleneck.context is not None:  # new networks say nothing
            torch.nn.init.normal_(bottleneck.context.logits.weight, std=0.3)
    return bottleneck


def latents(count=3):
    generator = torch.Generator().manual_seed(2)
    smooth = torch.randn(count, 4, 5, 6, generator=generator).repeat_interleave(3, 2).repeat_interleave(3, 3)
    return 3 * smooth + 0.3 * torch.randn(smooth.shape, generator=generator)


@pytest.mark.parametrize("rates", [1, 3])
def test_bits_of_training_are_those_of_the_frozen_integers(rates):
    bottleneck = make(rates=rates).eval()
    latent = latents()
    with torch.no_grad():
        bits = bottleneck.rate(latent)
    tables = bottleneck.freeze()
    for image, expected in zip(latent.numpy(), bits.tolist(), strict=True):
        if rates == 1:
            ideal = tables.ideal_bits(tables.quantise(image))
        else:
            model = tables.model_at(tables.default)
            ideal = model.ideal_bits(model.quantise(tables.scaled(image, tables.default)))
        assert ideal == pytest.approx(expected, rel=0.02)
        plain = make(rates=rates, context=0).eval().rate(torch.from_numpy(image)[None]).item()
        assert abs(plain - expected) > 0.005 * expected  # the network matters


def test_symbols_that_come_later_do_not_matter():
    network = make().context.eval()
    symbols = latents(1).round()
    with torch.no_grad():
        before = network(symbols, torch.zeros(1))
        for c, y, x in ((0, 0, 0), (3, 14, 17), (2, 7, 9), (1, 3, 0)):
            changed = symbols.clone()
            changed[0, c, y, x] += 2
            moved = (network(changed, torch.zeros(1)) != before)[0].any(1)
            order = torch.arange(15 * 18).view(15, 18) * 4 + torch.arange(4)[:, None, None]
            assert not (moved & (order <= order[c, y, x])).any()
            assert moved.any() or (y, x) == (14, 17)


def test_corrections_equal_those_of_the_frozen_integers():
    bottleneck = make().eval()
    symbols = latents(1).round()
    for level in (0, 9, MAX_LEVEL):
        with torch.no_grad():
            trained = bottleneck.context(symbols, torch.tensor([float(level)]))[0] * 256
        (model,) = bottleneck.context.freeze([step_tables(bottleneck.prior, np.ones(4, np.float32))])
        frozen = model.context.at(level).corrections(symbols[0].int().numpy())
        assert np.array_equal(trained.numpy().round().astype(int), frozen) and frozen.any()


def test_logits_of_a_density_are_those_of_its_tables():
    prior = make().prior.eval()
    gains = torch.tensor([[1.0, 0.5, 2.0, 1.5], [3.0, 1.0, 0.3, 1.0]])
    for row, logits in zip(gains, density_logits(prior, gains), strict=True):
        tables = step_tables(prior, row.numpy())
        (frozen,) = decision_logits([tables])
        assert (logits - frozen).abs().max() < 0.1


def test_a_new_network_says_nothing():
    torch.manual_seed(0)
    assert not ContextNetwork(4, 12, 3)(latents(1).round(), torch.zeros(1)).any()


def gradient(model, scale, seeds=60):
    """The mean gradient of the bits, with regard to the latent."""
    total = 0
    for seed in range(seeds):
        latent = (latents() * scale).requires_grad_()
        torch.manual_seed(seed)
        model.rate(latent).sum().backward()
        total = total + latent.grad
    return total / seeds


@pytest.mark.parametrize("rates", [1, 3])
def test_the_latent_learns_from_what_its_symbols_cost(rates):
    """With a network that says nothing this is what the prior says; otherwise it is not."""
    speaking, silent, plain = (make(rates=rates, context=width).train() for width in (12, 12, 0))
    optimizer = torch.optim.Adam(plain.prior.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        plain.rate(0.6 * latents(8)).mean().backward()
        optimizer.step()
    for model in (speaking, silent):
        model.prior.load_state_dict(plain.prior.state_dict())
    torch.nn.init.zeros_(silent.context.logits.weight)
    mine, own, expected = (gradient(model, 0.6) for model in (speaking, silent, plain))
    assert torch.corrcoef(torch.stack([own.flatten(), expected.flatten()]))[0, 1] > 0.9
    assert 0.8 < own.norm() / expected.norm() < 1.25
    assert torch.corrcoef(torch.stack([mine.flatten(), expected.flatten()]))[0, 1] < 0.98
    assert all(p.grad is not None for p in [*speaking.context.parameters(), *speaking.prior.matrices])
    far = gradient(make(rates=rates).train(), 8, 2)[(latents() * 8).abs() > 20]
    assert far.numel() and far.abs().min() > 0


@pytest.mark.parametrize("rates", [1, 3])
def test_training_makes_packets_smaller_and_leaves_the_latent(rates):
    bottleneck, plain = make(rates=rates), make(rates=rates, context=0)
    with torch.no_grad():
        torch.nn.init.zeros_(bottleneck.context.logits.weight)
    optimizer = torch.optim.Adam(bottleneck.context.parameters(), 1e-2)
    bottleneck.train()
    for _ in range(60):
        loss = bottleneck.rate(latents(8)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    codec, tables, before = RansCodec(), bottleneck.eval().freeze(), plain.eval().freeze()
    for rate in [None] if rates == 1 else [0.0, 0.5, 1.0]:
        sizes = [0, 0]
        for image in latents(4).numpy():
            streams = encode_streams(tables, image, codec, rate)
            assert np.array_equal(
                decode_streams(tables, streams, image.shape, codec),
                decode_streams(before, encode_streams(before, image, codec, rate), image.shape, codec),
            )
            sizes = [sizes[0] + len(streams[0]), sizes[1] + len(encode_streams(before, image, codec, rate)[0])]
        assert sizes[0] < 0.9 * sizes[1]


def test_levels_span_the_rates():
    assert [level_of(i, 5) for i in range(5)] == [0, 4, 8, 12, MAX_LEVEL] and level_of(0, 1) == 0


@pytest.mark.parametrize("option", [{"context": -1}, {"context": 2000}, {"context_units": 0}])
def test_options_out_of_range(option):
    with pytest.raises(RecipeError, match=f"bottleneck fp: {next(iter(option))} must be"):
        make(**option)
