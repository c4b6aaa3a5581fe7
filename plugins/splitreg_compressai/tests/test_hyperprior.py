"""The hyperprior bottlenecks: fixed-point training against the frozen integers, rates, bundles."""

import math

import numpy as np
import pytest
import torch
from splitreg_compressai.ans import CompressaiCodec
from splitreg_compressai.hyperprior import MeanScaleHyperprior, ScaleHyperprior
from splitreg_compressai.tables import PER_E, ROWS, UNIT, scale_tables
from support.bottlenecks import fit
from support.training import train

import splitreg
from splitreg.assembly import load_edge, load_server, save
from splitreg.coding import Packet, decode_streams, encode_streams
from splitreg.errors import CorruptPacket, InvalidTables, RecipeError
from splitreg.networks import FixedConv, bounded, rounded
from splitreg.publishing import verify
from splitreg.recipe import Recipe
from splitreg.specs import FeatureSpec

IMAGE, TARGET = FeatureSpec(channels=3, stride=1), FeatureSpec(channels=6, stride=4)
SMALL = {"channels": 4, "hidden": 8, "decoder_hidden": 8, "hyper_channels": 3, "hyper_hidden": 16}
BOTH = pytest.mark.parametrize("kind", [ScaleHyperprior, MeanScaleHyperprior])


def build(kind, **options):
    torch.manual_seed(0)
    return kind(IMAGE, TARGET, **(SMALL | options))


def varied(model, seed=0):
    """Weights as large as training makes them, so that rows and means spread."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, FixedConv):
                module.weight.mul_(1.7)
                module.bias.normal_(0, 1.5, generator=generator)
    return model


def some_latent(height, width, seed=0, scale=6.0):
    return scale * torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(seed))


@BOTH
@pytest.mark.parametrize("size", [(1, 1), (3, 8), (4, 4), (9, 14)])
def test_frozen_integers_are_what_was_trained(kind, size):
    model = varied(build(kind))
    frozen, latent = model.freeze(), some_latent(*size)
    hyper, rows, means = frozen.analyse(latent[0].numpy())
    with torch.no_grad():
        expected = rounded(model.hyper_analysis(model._blocks(latent)))
        scales, offsets = model._predict(expected, latent)
    np.testing.assert_array_equal(hyper, expected[0].numpy())
    np.testing.assert_array_equal(rows.indexes, (scales[0].log() * PER_E).round().int().numpy() + UNIT)
    np.testing.assert_array_equal(np.broadcast_to(means, latent.shape[1:]), np.broadcast_to(offsets, latent.shape)[0])
    assert len(np.unique(rows.indexes)) > 1 and kind.has_means == bool(means.any())


@BOTH
def test_the_codec_takes_the_bits_that_eval_states(kind):
    model = build(kind).eval()
    tables, codec, x = model.freeze(), CompressaiCodec(), torch.randn(2, 3, 90, 75)
    with torch.no_grad():
        expected, rate = model(x)
        for row, latent in enumerate(model.analyse(x)):
            streams = encode_streams(tables, latent.numpy(), codec)
            received = decode_streams(tables, streams, tuple(latent.shape), codec)
            assert received.tobytes() == tables.restore(latent.numpy()).tobytes()
            torch.testing.assert_close(model.synthesise(torch.from_numpy(received)[None])[0], expected[row])
            assert abs(8 * sum(map(len, streams)) - rate[row].item()) < 0.02 * rate[row].item() + 2 * 96
            assert tables.measure(latent.numpy())[1] == pytest.approx(rate[row].item())


@pytest.mark.integration
@BOTH
def test_training_lowers_rate_and_distortion_and_tables_follow(kind):
    torch.manual_seed(0)
    model = kind(IMAGE, FeatureSpec(channels=3, stride=4), encoder="light", **(SMALL | {"decoder_hidden": 16}))
    loud = torch.tensor([0.2, 0.2, 3.0, 3.0]).repeat_interleave(5)  # one half is flat
    x = torch.nn.functional.interpolate(torch.randn(4, 3, 20, 20) * loud, scale_factor=4, mode="bilinear")
    target = torch.nn.functional.avg_pool2d(x, 4)
    first, last = fit(model, x, target, 150, 4e-3, 2e-4)
    assert last[0] < 0.6 * first[0] and last[1] < 0.7 * first[1]
    coded = model.eval()(x)[1]
    assert 0.75 * last[1] < coded.mean().item() < 1.05 * last[1]  # rounding costs a little less than noise
    rows = model.freeze().analyse(model.analyse(x)[0].detach().numpy())[1].indexes
    assert rows[..., 5:].mean() > rows[..., :5].mean() + 2  # the loud half has the wider distributions


def test_freezing_leaves_the_weights_alone_and_is_repeatable():
    model = varied(build(MeanScaleHyperprior))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = model.freeze()
    model.eval()(torch.randn(1, 3, 20, 20))
    assert model.freeze().digest() == first.digest()
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    other = build(MeanScaleHyperprior)
    other.load_state_dict(before)
    assert other.freeze().digest() == first.digest() != build(MeanScaleHyperprior).freeze().digest()


@BOTH
@pytest.mark.parametrize("part", ["hyper_analysis.0.weight", "scales.bias", "prior.biases.0"])
def test_diverged_weights_are_not_frozen(kind, part):
    model = build(kind)
    with torch.no_grad():
        model.get_parameter(part).view(-1)[0] = math.nan
    with pytest.raises(InvalidTables, match="NaN"):
        model.freeze()


def test_huge_weights_are_clipped_in_training_as_they_are_frozen():
    model = build(ScaleHyperprior)
    with torch.no_grad():
        model.scales.weight[0, 0] = 1e4
        model.scales.weight[1, 1] = -1e4
    frozen, latent = model.freeze(), some_latent(8, 8)
    scales, _ = model._predict(rounded(model.hyper_analysis(model._blocks(latent))), latent)
    rows = frozen.analyse(latent[0].numpy())[1].indexes
    np.testing.assert_array_equal(rows, (scales[0].log() * PER_E).round().int().numpy() + UNIT)
    with torch.no_grad():
        model.scales.bias[0] = 1e9
    with pytest.raises(InvalidTables, match="weights"):
        model.freeze()


def test_scale_tables_are_normal_distributions():
    tables = scale_tables()
    assert tables.channels == ROWS and (np.diff(tables.lengths) >= 0).all() and tables.lengths[0] <= 5
    scale = math.exp((30 - UNIT) / PER_E)
    masses = np.diff(tables.cdf[30, : tables.lengths[30]]) / 2**16
    values = tables.offsets[30] + np.arange(len(masses) - 1)
    edges = [0.5 * math.erfc(-(v - 0.5) / scale / math.sqrt(2)) for v in [*values, values[-1] + 1]]
    np.testing.assert_allclose(masses[:-1], np.diff(edges), atol=6 / 2**16)
    np.testing.assert_array_equal(masses[:-1], masses[-2::-1])
    assert (values * masses[:-1]).sum() == pytest.approx(0, abs=0.05)


def test_gradients_lead_back_inside_and_nowhere_else():
    x = torch.tensor([-3.0, -3.0, 0.5, 5.0, 5.0], requires_grad=True)
    (bounded(x, -1, 1) * torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0])).sum().backward()
    assert x.grad.tolist() == [0.0, -1.0, 1.0, 1.0, 0.0]
    y = torch.tensor([-0.5, 0.5, 1.2], requires_grad=True)
    rounded(y).sum().backward()
    assert rounded(y).tolist() == [0.0, 1.0, 1.0] and y.grad.tolist() == [1.0] * 3


@pytest.mark.parametrize(
    ("options", "words"),
    [({"hyper_channels": 0}, "hyper_channels"), ({"hyper_hidden": 9999}, "hyper_hidden"), ({"stride": 3}, "shp: stride")],
)  # fmt: skip
def test_bad_options(options, words):
    with pytest.raises(RecipeError, match=words):
        build(ScaleHyperprior, **options)


def test_mixed_precision_leaves_the_rate_alone():
    model = build(MeanScaleHyperprior).train()
    latent = some_latent(9, 9)
    model.analyse = lambda x: latent
    rates = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            rates.append(model(torch.zeros(1, 3, 40, 40))[1])
    assert torch.equal(*rates)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["shp", "mshp"])
@pytest.mark.parametrize("codec", ["compressai", "zstd"])
def test_published_and_run_apart(name, codec, tmp_path):
    model = splitreg.build(
        backbone="test_resnet", cut="layer1", bottleneck={"name": name, "encoder": "light", **SMALL}, codec=codec,
        heads=[{"name": "cls", "labels": 3}], input={"size": [64, 96]},
    )  # fmt: skip
    varied(model.bottleneck)
    bundle = save(model, tmp_path / "bundle")
    edge, server = load_edge(bundle), load_server(bundle)
    picture = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    packet = edge.encode(picture)[0]
    assert packet == model.edge.encode(picture)[0]
    parsed = Packet.parse(packet)
    assert len(parsed.streams) == 2
    latent, _ = edge.latent_of(picture)
    np.testing.assert_array_equal(server.decode(parsed), edge.coding.tables.restore(latent))
    mine, theirs = model.server.infer(packet)[0]["cls"], server.infer(packet)[0]["cls"]
    assert mine.to_json() == theirs.to_json()
    assert all(check.passed for check in verify(bundle))
    for streams in (parsed.streams[:1], (*parsed.streams, b"x"), parsed.streams[::-1], (b"", parsed.streams[1])):
        wrong = Packet(model_id=parsed.model_id, original=parsed.original, coded=parsed.coded, streams=streams)
        with pytest.raises(CorruptPacket):
            server.infer(wrong.to_bytes())


@pytest.mark.integration
def test_trained_by_the_loop(tmp_path):
    recipe = Recipe.from_mapping(
        {
            "backbone": "test_resnet", "cut": "layer1", "heads": ["cls"], "codec": "compressai", "seed": 0,
            "bottleneck": {"name": "mshp", "encoder": "light", **SMALL}, "input": {"size": [32, 32]},
            "data": [{"name": "scenes", "count": 16, "size": 32}],
            "stages": [
                {"epochs": 8, "batch_size": 4, "rate_lambda": 10.0, "optimizer": {"name": "adam", "lr": 1e-2}}
            ],
        }
    )  # fmt: skip
    result = train(recipe, output=tmp_path / "run", device="cpu", progress=False)
    rates = [entry["train"]["bits"] for entry in result.history]
    assert rates[-1] < 0.9 * rates[0]
    model = result.model
    assert len(Packet.parse(model.edge.encode(np.zeros((32, 32, 3), np.uint8))[0]).streams) == 2
