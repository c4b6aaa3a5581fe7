"""The factorised-prior bottleneck: published shape, every size, training path against coded path, tables."""

import numpy as np
import pytest
import torch
from splitreg_compressai.ans import CompressaiCodec
from splitreg_compressai.factorized import FactorizedPrior
from splitreg_compressai.layers import GDN1
from support.bottlenecks import fit

from splitreg.errors import InvalidTables, RecipeError
from splitreg.specs import FeatureSpec

pytestmark = pytest.mark.integration

IMAGE = FeatureSpec(channels=3, stride=1)
SMALL = {"hidden": 8, "decoder_hidden": 8, "channels": 4}


def spec(channels, stride):
    return FeatureSpec(channels=channels, stride=stride)


def ceil(side, stride):
    return -(-side // stride)


def test_ladon_shape():
    model = FactorizedPrior(IMAGE, spec(256, 4), encoder="gdn").eval()
    assert sum(p.numel() for p in model.encoder.parameters()) == 138_672
    with torch.device("meta"):
        model = FactorizedPrior(IMAGE, spec(256, 4), encoder="gdn").eval()
        latent = model.analyse(torch.empty(1, 3, 416, 416))
        assert latent.shape == (1, 24, 103, 103)
        assert model.synthesise(latent).shape == (1, 256, 104, 104)
    assert model.latent == spec(24, 4)
    assert [tuple(m.weight.shape) for m in model.decoder if isinstance(m, torch.nn.Conv2d)] == [
        (512, 24, 2, 2), (256, 512, 2, 2), (256, 256, 2, 2),
    ]  # fmt: skip


def test_light_shape():
    with torch.device("meta"):
        model = FactorizedPrior(IMAGE, spec(24, 4), encoder="light").eval()
        assert model.analyse(torch.empty(1, 3, 192, 256)).shape == (1, 24, 24, 32)


@pytest.mark.parametrize("encoder", ["gdn", "light"])
@pytest.mark.parametrize("decoder", ["gdn", "residual", None])
@pytest.mark.parametrize(
    ("source", "target", "stride"),
    [
        (IMAGE, spec(6, 4), None), (IMAGE, spec(6, 2), None), (IMAGE, spec(6, 16), None), (IMAGE, spec(6, 32), 32),
        (IMAGE, spec(6, 8), 4), (IMAGE, spec(6, 4), 16), (IMAGE, spec(6, 1), None), (IMAGE, spec(6, 2), 1),
        (spec(6, 4), spec(6, 4), None), (spec(6, 4), spec(6, 4), 16), (spec(6, 8), spec(6, 8), 16),
    ],
)  # fmt: skip
def test_every_size_is_restored(source, target, stride, encoder, decoder):
    model = FactorizedPrior(source, target, stride=stride, encoder=encoder, decoder=decoder, **SMALL).eval()
    for height, width in ((1, 1), (2, 5), (7, 7), (14, 14), (33, 47), (64, 48)):
        x = torch.randn(1, source.channels, ceil(height, source.stride), ceil(width, source.stride))
        with torch.no_grad():
            latent = model.analyse(x)
            restored = model.synthesise(latent)
        assert latent.shape[1] == model.latent.channels and min(latent.shape) >= 1
        assert restored.shape[1] == target.channels
        assert restored.shape[2] >= ceil(height, target.stride) and restored.shape[3] >= ceil(width, target.stride)


@pytest.mark.parametrize("encoder", ["gdn", "light"])
def test_eval_path_equals_the_coded_path(encoder):
    torch.manual_seed(0)
    model = FactorizedPrior(IMAGE, spec(6, 4), encoder=encoder, **SMALL)
    with torch.no_grad():
        model.prior.quantiles[:, 0, 1] = torch.linspace(-1.3, 2.4, 4)
    model.eval()
    x = 5 * torch.randn(2, 3, 33, 47)
    with torch.no_grad():
        expected, rate = model(x)
        latent = model.analyse(x)
    tables, codec = model.freeze(), CompressaiCodec()
    for row in range(2):
        symbols = tables.quantise(latent[row].numpy())
        payload = codec.encode(symbols, tables)
        decoded = tables.dequantise(codec.decode(payload, symbols.shape, tables))
        with torch.no_grad():
            restored = model.synthesise(torch.from_numpy(decoded)[None])
        torch.testing.assert_close(restored, expected[row : row + 1], rtol=1e-5, atol=1e-5)
        assert rate[row].item() == pytest.approx(tables.ideal_bits(symbols), rel=0.02)
        assert abs(8 * len(payload) - tables.ideal_bits(symbols)) < 0.02 * tables.ideal_bits(symbols) + 96


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize(
    ("encoder", "operators"),
    [("gdn", {"Abs", "Conv", "Div"}), ("light", {"Conv", "HardSwish", "Shape", "Neg", "Mod", "Concat", "Pad"})],
)
def test_encoder_exports_to_few_operators_and_any_size(encoder, operators, tmp_path):
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    model, path = FactorizedPrior(IMAGE, spec(6, 4), encoder=encoder, **SMALL).eval(), str(tmp_path / "encoder.onnx")
    free = {"image": {0: "batch", 2: "height", 3: "width"}}
    torch.onnx.export(
        model.encoder, (torch.zeros(1, 3, 64, 64),), path, input_names=["image"], dynamic_axes=free, opset_version=17,
        dynamo=False,
    )  # fmt: skip
    assert {node.op_type for node in onnx.load(path).graph.node} - {"Identity", "Constant"} == operators
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for shape in ((1, 64, 64), (1, 33, 47), (3, 57, 90), (2, 9, 128), (1, 72, 31)):
        x = torch.randn(shape[0], 3, *shape[1:])
        with torch.no_grad():
            expected = model.analyse(x).numpy()
        np.testing.assert_allclose(session.run(None, {"image": x.numpy()})[0], expected, atol=1e-4)


def test_training_fits_and_tables_follow():
    torch.manual_seed(0)
    model = FactorizedPrior(IMAGE, spec(3, 4), encoder="light", channels=4, hidden=8, decoder_hidden=16)
    x = torch.nn.functional.interpolate(torch.randn(4, 3, 8, 8), scale_factor=4, mode="bilinear")
    target = torch.nn.functional.avg_pool2d(x, 4)
    first, last = fit(model, x, target, 120, 3e-3, 1e-4)
    assert last[0] < 0.5 * first[0] and last[1] < 0.8 * first[1]
    tables = model.eval().freeze()
    with torch.no_grad():
        _, rate = model(x)
        symbols = tables.quantise(model.analyse(x)[0].numpy())
    assert tables.ideal_bits(symbols) == pytest.approx(rate[0].item(), rel=0.02)


def test_freezing_is_repeatable_and_leaves_the_weights_alone():
    model = FactorizedPrior(IMAGE, spec(6, 4), **SMALL)
    before = {name: tensor.shape for name, tensor in model.state_dict().items()}
    assert model.freeze().digest() == model.freeze().digest()
    assert {name: tensor.shape for name, tensor in model.state_dict().items()} == before
    other = FactorizedPrior(IMAGE, spec(6, 4), **SMALL)
    other.load_state_dict(model.state_dict())
    assert other.freeze().digest() == model.freeze().digest()


def test_freezing_survives_odd_priors():
    model = FactorizedPrior(IMAGE, spec(6, 4), **SMALL)
    with torch.no_grad():
        model.prior.quantiles[0] = torch.tensor([[5.0, 5.0, 5.0]])  # collapsed, and where the density is not
        model.prior.quantiles[1] = torch.tensor([[-1e7, 0.0, 1e7]])
        model.prior.quantiles[2] = torch.tensor([[0.0, 900.0, 0.0]])
        model.prior.matrices[0][3] = -30.0  # nearly flat over everything
    tables = model.freeze()
    assert tables.cdf.shape[1] <= 2 * 512 + 4
    latent = np.random.default_rng(0).normal(0, 1000, (4, 5, 5)).astype(np.float32)
    symbols, codec = tables.quantise(latent), CompressaiCodec()
    np.testing.assert_array_equal(codec.decode(codec.encode(symbols, tables), symbols.shape, tables), symbols)
    with torch.no_grad():
        model.prior.biases[0][2] = float("nan")
    with pytest.raises(InvalidTables, match="NaN"):
        model.freeze()


def test_the_device_gets_no_prior():
    model = FactorizedPrior(IMAGE, spec(6, 4), **SMALL)
    alone = FactorizedPrior(IMAGE, spec(6, 4), **SMALL).eval()
    alone.encoder.load_state_dict(model.encoder.state_dict())
    x = torch.randn(1, 3, 20, 20)
    with torch.no_grad():
        torch.testing.assert_close(alone.analyse(x), model.eval().analyse(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"encoder": "big"}, "encoder"), ({"decoder": "x"}, "decoder"), ({"stride": 3}, "stride"),
        ({"channels": 0}, "channels"), ({"hidden": 0}, "hidden"), ({"blocks": -1}, "blocks"), ({"stride": 0}, "stride"),
    ],
)  # fmt: skip
def test_bad_options(options, words):
    with pytest.raises(RecipeError, match=words):
        FactorizedPrior(IMAGE, spec(6, 4), **options)


def test_a_latent_finer_than_its_source():
    with pytest.raises(RecipeError, match="stride 4"):
        FactorizedPrior(spec(6, 8), spec(6, 8), stride=4)


def test_gdn_normalises_and_inverts_direction():
    x = torch.randn(2, 3, 5, 5)
    assert GDN1(3)(x).abs().sum() < x.abs().sum() < GDN1(3, inverse=True)(x).abs().sum()


def test_the_rate_is_the_same_under_mixed_precision():
    bottleneck = FactorizedPrior(
        IMAGE, FeatureSpec(channels=8, stride=4), channels=4, hidden=8, decoder_hidden=8
    ).eval()
    latent = torch.randn(2, 4, 9, 9)
    bottleneck.analyse = lambda x: latent
    exact = bottleneck(torch.zeros(2, 3, 40, 40))[1]
    with torch.autocast("cpu", torch.bfloat16):
        mixed = bottleneck(torch.zeros(2, 3, 40, 40))[1]
    assert torch.equal(exact, mixed)
