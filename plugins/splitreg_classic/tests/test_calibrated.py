"""calibrated: rotation, step, tables, and the path from a finished model to smaller packets."""

import numpy as np
import pytest
import torch
from splitreg_classic.calibrated import Calibrated

import splitreg
from splitreg.assembly import calibrate, load, save
from splitreg.coding import RansCodec, decode_streams, encode_streams
from splitreg.errors import InvalidTables, RecipeError
from splitreg.specs import FeatureSpec

pytestmark = pytest.mark.integration

SPEC = FeatureSpec(channels=6, stride=8)


def features(count=64):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(6, 6, generator=generator) * torch.tensor([5.0, 2.0, 1.0, 0.3, 0.1, 0.01])
    return torch.einsum("ck,bkhw->bchw", mixing, torch.randn(count, 6, 5, 5, generator=generator)) + 3


def calibrated(sensitivity=None, **options):
    bottleneck = Calibrated(SPEC, SPEC, **options)
    bottleneck.calibrate(features(), torch.eye(6) if sensitivity is None else sensitivity)
    return bottleneck.eval()


def coded(bottleneck, x, rate):
    tables = bottleneck.freeze()
    with torch.no_grad():
        latent = bottleneck.analyse(x).numpy()
        restored = np.stack([tables.restore(row, rate) for row in latent])
        return bottleneck.synthesise(torch.from_numpy(restored)), tables


def bits(tables, latent, rate):
    position = tables.position(rate)
    model = tables.model_at(position)
    return model.ideal_bits(model.quantise(tables.scaled(latent, position)))


def test_error_falls_and_bits_rise_with_the_rate():
    bottleneck, x = calibrated(), features(4)
    errors, sizes = [], []
    for rate in (0.0, 0.25, 0.5, 0.75, 1.0):
        restored, tables = coded(bottleneck, x, rate)
        errors.append(float((restored - x).square().mean()))
        sizes.append(bits(tables, bottleneck.analyse(x)[0].detach().numpy(), rate))
    assert errors == sorted(errors, reverse=True) and sizes == sorted(sizes)
    assert errors[-1] < 1e-2 * float((x - 3).square().mean()) and sizes[0] < sizes[-1] / 3


def test_the_step_has_the_same_error_for_every_component():
    bottleneck = calibrated()
    x = features(16)
    latent = bottleneck.analyse(x).detach()
    covariance = torch.cov(latent.transpose(0, 1).flatten(1))
    off = covariance - covariance.diagonal().diag()
    assert float(off.abs().max()) < 0.05 * float(covariance.diagonal().max())
    assert float(covariance.diagonal()[0]) > 10 * float(covariance.diagonal()[-1])


def test_sensitive_directions_get_the_smaller_error():
    sensitivity = torch.diag(torch.tensor([100.0, 1, 1, 1, 1, 1]))
    x = torch.randn(64, 6, 5, 5, generator=torch.Generator().manual_seed(0))
    errors = []
    for metric in (torch.eye(6), sensitivity):
        bottleneck = Calibrated(SPEC, SPEC)
        bottleneck.calibrate(x, metric)
        error = (coded(bottleneck, x[:8], 0.5)[0] - x[:8]).square().mean((0, 2, 3))
        errors.append(float(error[0] / error[1:].mean()))
    assert errors[1] < 0.3 * errors[0]


def test_fewer_channels_keep_the_largest_components():
    bottleneck = calibrated(channels=3)
    restored, _ = coded(bottleneck, features(8), 1.0)
    relative = (restored - features(8)).square().mean() / (features(8) - 3).square().mean()
    assert bottleneck.latent.channels == 3 and float(relative) < 0.05


def test_training_moves_the_rotation_and_the_tables():
    bottleneck = calibrated().train()
    before = bottleneck.freeze().digest()
    restored, rate = bottleneck(features(8))
    (restored.square().mean() + 1e-3 * rate.mean()).backward()
    assert bottleneck.encoder.weight.grad.abs().sum() > 0 and bottleneck.freeze().digest() != before


def smooth(count, seed):
    """Features whose neighbours resemble each other."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 6, 4, 4, generator=generator).repeat_interleave(3, 2).repeat_interleave(3, 3)
    scale = torch.tensor([5.0, 2.0, 1.0, 0.3, 0.1, 0.01])[:, None, None]
    return scale * (coarse + 0.2 * torch.randn(coarse.shape, generator=generator))


def test_a_context_network_makes_packets_smaller_and_leaves_the_latent():
    bottlenecks = [Calibrated(SPEC, SPEC, context=width, context_units=4) for width in (16, 0)]
    for bottleneck in bottlenecks:
        bottleneck.calibrate(smooth(32, 0), torch.eye(6))
    speaking, plain = bottlenecks
    speaking.train()
    optimizer = torch.optim.Adam(speaking.context.parameters(), 1e-2)
    with torch.no_grad():
        latents = speaking.analyse(smooth(16, 1))
    for _ in range(100):
        optimizer.zero_grad()
        speaking.rate(latents).log().mean().backward()
        optimizer.step()
    assert all(p.grad is None for p in speaking.encoder.parameters())
    with torch.no_grad():
        latent = speaking.eval().analyse(smooth(4, 2))
        expected = speaking.rate(latent)
    tables, before, codec = speaking.freeze(), plain.eval().freeze(), RansCodec()
    for rate in (0.4, 0.5, 0.6):
        after, alone = (
            [encode_streams(frozen, image, codec, rate) for image in latent.numpy()] for frozen in (tables, before)
        )
        assert sum(len(streams[0]) for streams in after) < 0.9 * sum(len(streams[0]) for streams in alone)
        for image, ours, theirs in zip(latent.numpy(), after, alone, strict=True):
            decoded = decode_streams(tables, ours, image.shape, codec)
            assert np.array_equal(decoded, decode_streams(before, theirs, image.shape, codec)) and decoded.any()
    for image, estimate in zip(latent.numpy(), expected.tolist(), strict=True):
        assert bits(tables, image, None) == pytest.approx(estimate, rel=0.03)
    speaking.quantiles *= 4  # other tables; the bits follow them
    with torch.no_grad():
        changed = speaking.rate(latent)
    assert (changed > 1.1 * expected).all()
    for image, estimate in zip(latent.numpy(), changed.tolist(), strict=True):
        assert bits(speaking.freeze(), image, None) == pytest.approx(estimate, rel=0.03)


@pytest.mark.parametrize(
    "options", [{"channels": 7}, {"channels": -1}, {"rate_range": 1.0}, {"context": -1}, {"context_units": 0}]
)
def test_options_out_of_range(options):
    with pytest.raises(RecipeError, match=next(iter(options))):
        Calibrated(SPEC, SPEC, **options)


def test_it_reads_only_the_feature_at_the_cut():
    with pytest.raises(RecipeError, match="from = 'feature'"):
        Calibrated(FeatureSpec(channels=3, stride=1), SPEC)


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_constant_feature_cannot_be_calibrated(value):
    with pytest.raises(InvalidTables):
        Calibrated(SPEC, SPEC).calibrate(torch.full((2, 6, 3, 3), value), torch.eye(6))


def images(count=6):
    generator = np.random.default_rng(0)
    return [generator.integers(0, 255, (8, 8, 3), np.uint8).repeat(8, 0).repeat(8, 1) for _ in range(count)]


def model(bottleneck):
    return splitreg.build(
        backbone="mobilenetv3_small_100", bottleneck=bottleneck, input={"size": [64, 64]},
        heads=[{"name": "cls", "labels": 4}, {"name": "det", "labels": 2}],
    )  # fmt: skip


def test_a_model_is_calibrated_without_training_and_saved(tmp_path):
    finished = model("calibrated")
    before = {name: value.clone() for name, value in finished.body.state_dict().items()}
    calibrate(finished, images())
    assert all(torch.equal(value, before[name]) for name, value in finished.body.state_dict().items())
    sizes = [len(finished.edge.encode(images(1), rate=rate)[0]) for rate in (0.0, 0.5, 1.0)]
    assert sizes[0] < sizes[1] < sizes[2]
    save(finished, tmp_path / "bundle")
    again = load(tmp_path / "bundle")
    packets = finished.edge.encode(images(1), rate=0.5)
    assert again.edge.encode(images(1), rate=0.5) == packets and again.trained
    again.server.infer(packets)


def test_other_bottlenecks_say_that_they_need_training():
    with pytest.raises(RecipeError, match="calibrated"):
        calibrate(model("fp"), images())
    with pytest.raises(RecipeError, match="image"):
        calibrate(model("calibrated"), [])


def test_a_training_sets_it_first_and_a_frozen_one_stays(tmp_path, monkeypatch):
    from splitreg.recipe import Recipe
    from splitreg.training import TrainOptions, train

    monkeypatch.setenv("SPLITREG_CACHE", str(tmp_path / "cache"))
    stage = {"epochs": 1, "batch_size": 4, "freeze": ["prefix", "encoder", "decoder"]}
    recipe = Recipe.from_mapping({
        "backbone": "test_resnet", "cut": "layer2", "bottleneck": "calibrated", "heads": ["cls"],
        "input": {"size": [32, 32], "mode": "resize"}, "data": {"name": "scenes", "size": 32, "count": 8},
    })  # fmt: skip
    states = {}
    for freeze in ([], stage["freeze"]):
        changed = Recipe.from_mapping({**recipe.to_mapping(), "stages": [{**stage, "freeze": freeze}]})
        options = TrainOptions(progress=False, tensorboard=False, device="cpu")
        model = train(changed, tmp_path / f"run{len(freeze)}", options=options).model
        states[bool(freeze)] = {name: value.clone() for name, value in model.bottleneck.state_dict().items()}
        assert len(model.edge.encode(np.zeros((32, 32, 3), np.uint8), rate=0.0)[0]) > 20
    eye = 8 * torch.eye(*states[True]["encoder.weight"].shape[:2])
    assert float((states[True]["encoder.weight"][..., 0, 0] - eye).abs().max()) > 0.1  # calibrated
    assert all(not torch.equal(states[True][name], states[False][name]) for name in states[True])
