"""One bundle, many rates: a short training on the scenes, then packets, bundle, device, evaluation and command line."""

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from support.bundles import save_with_onnx
from support.training import train, train_late_head

import splitreg
from splitreg.assembly import ServerModel, load, load_edge
from splitreg.cli.main import cli
from splitreg.coding import Packet, VariableModel
from splitreg.data.loading import Source
from splitreg.edge import EdgeEncoder
from splitreg.errors import CorruptPacket, OverBudget, RecipeError
from splitreg.evaluation import EvalOptions, evaluate
from splitreg.publishing import verify
from splitreg.recipe import Recipe
from splitreg.training import Datasets, open_split

RATES = (0, 0.25, 0.5, 0.75, 1)


def recipe(**bottleneck):
    small = {"name": "fp", "encoder": "light", "channels": 6, "hidden": 16, "decoder_hidden": 32, "blocks": 1}
    return Recipe.from_mapping(
        {
            "backbone": "test_resnet",
            "bottleneck": {**small, **bottleneck},
            "heads": ["seg"],
            "data": [{"name": "scenes", "count": 48, "size": 64}],
            "input": {"size": [64, 64]},
            "stages": [{"epochs": 10, "batch_size": 8, "rate_lambda": 0.5, "optimizer": {"name": "adamw", "lr": 3e-3}}],
        }
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("variable")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITREG_CACHE", str(folder / "cache"))
        asked = recipe(rates=5)
        quick = {"device": "cpu", "progress": False, "tensorboard": False, "validate_every": 0}
        model = train(asked, output=folder / "run", **quick).model.cpu()
        data: Source = open_split(asked, "val")
        images = [data[i].array() for i in range(12)]
        bundle = save_with_onnx(model, folder / "bundle")
        yield model, bundle, images, data


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    model = splitreg.build(replace(recipe(), stages=(), data=()))
    model.freeze_tables()
    return save_with_onnx(model, tmp_path_factory.mktemp("fixed") / "bundle")


def test_bytes_and_fidelity_grow_with_the_rate(trained):
    model, _, images, _ = trained
    latents = [model.edge.latent_of(image)[0].copy() for image in images]
    sizes, errors = [], []
    for rate in RATES:
        packets = model.edge.encode(images, rate=rate)
        sizes.append(sum(map(len, packets)))
        received = [model.server.decode(Packet.parse(packet)) for packet in packets]
        errors.append(np.mean([np.abs(a - b).mean() for a, b in zip(received, latents, strict=True)]))
    assert sizes == sorted(sizes) and sizes[-1] - sizes[0] > 20 * len(images)
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.7 * errors[0]


def test_every_position_reaches_the_server(trained):
    model, _, images, _ = trained
    latent = model.edge.latent_of(images[0])[0].copy()
    for position in range(256):
        packet = Packet.parse(model.edge.encode(images[0], rate=position / 255)[0])
        assert packet.streams[0][0] == position
        np.testing.assert_array_equal(
            model.server.decode(packet), model.edge.coding.tables.restore(latent, position / 255)
        )


def test_a_bundle_holds_all_rates(trained):
    model, bundle, images, _ = trained
    assert all(check.passed for check in verify(bundle)), [check for check in verify(bundle) if not check.passed]
    edge, server = load_edge(bundle), ServerModel.load(bundle)
    assert (
        isinstance(server.coding.frozen, VariableModel)
        and server.coding.frozen.digest() == model.edge.coding.tables.digest()
    )
    for rate in (None, *RATES):
        packets = edge.encode(images, rate=rate)
        assert packets == model.edge.encode(images, rate=rate)
        mixed = server.infer([*packets, *model.edge.encode(images[:1], rate=1)])
        np.testing.assert_array_equal(mixed[0]["seg"].mask, server.infer(packets[0])[0]["seg"].mask)
    assert edge.encode(images) == edge.encode(images, rate=0.5)
    again = load(bundle)
    again.freeze_tables()
    assert again.edge.coding.model_id == model.edge.coding.model_id, (
        "gains are in the server's half: freezing again gives the same"
    )


def test_a_device_sends_every_rate(trained):
    _, bundle, images, _ = trained
    encoder, server = EdgeEncoder.open(bundle), ServerModel.load(bundle)
    sizes = [len(encoder.encode(images, rate=rate, batch=True)[0]) for rate in RATES]
    assert sizes == sorted(sizes)
    packet = encoder.encode(images, rate=0.9, batch=True)[0]
    assert {image.streams[0][0] for image in Packet.parse(packet).images} == {round(0.9 * 255)}
    assert len(server.infer(packet)) == len(images)


def test_a_budget_is_kept_and_used(trained):
    model, _, images, _ = trained
    all_sizes = [[len(model.edge.encode(p, rate=i / 255)[0]) for i in range(256)] for p in images[:3]]
    for image, sizes in zip(images, all_sizes, strict=False):
        for budget in (sizes[0], (sizes[0] + sizes[-1]) // 2, sizes[-1], 10 * sizes[-1]):
            packet = model.edge.encode(image, budget_bytes=budget)[0]
            assert len(packet) <= budget and len(packet) >= 0.85 * min(budget, sizes[-1])
        assert packet == model.edge.encode(image, rate=1)[0]
        with pytest.raises(OverBudget, match=rf"\b{sizes[0]}\b.*\b21\b"):
            model.edge.encode(image, budget_bytes=21)
    budget = max(sizes[0] for sizes in all_sizes) + 20
    packets = model.edge.encode(images[:3], budget_bytes=budget)
    assert all(len(packet) <= budget for packet in packets)


def test_what_a_rate_may_be(trained):
    edge, image = trained[0].edge, trained[2][0]
    for rate in (-1e-9, 1.5, float("nan")):
        with pytest.raises(RecipeError, match=str(rate)):
            edge.encode(image, rate=rate)
    with pytest.raises(RecipeError, match="rate.*budget_bytes"):
        edge.encode(image, rate=0.5, budget_bytes=100)
    with pytest.raises(RecipeError, match="budget_bytes"):
        edge.encode(image, budget_bytes=0)


def test_a_model_of_one_rate_says_so(fixed, trained):
    for edge in (load_edge(fixed), EdgeEncoder.open(fixed)):
        for options in ({"rate": 0.5}, {"budget_bytes": 1000}):
            with pytest.raises(RecipeError, match="rates = 5"):
                edge.encode(trained[2][0], **options)
            with pytest.raises(RecipeError, match="rates"):
                edge.encode([], **options)
    with pytest.raises(RecipeError, match="rates"):
        evaluate(load(fixed), trained[3], rate=0.5)


def test_a_late_head_learns_from_all_rates(trained, tmp_path, monkeypatch):
    model, _, _, data = trained
    seen = []
    encode = type(model.edge).encode

    def watched(self, images, **options):
        packets = encode(self, images, **options)
        seen.extend(Packet.parse(packet).streams[0][0] for packet in packets)
        return packets

    monkeypatch.setattr(type(model.edge), "encode", watched)
    late = replace(recipe(rates=5), heads=Recipe.from_mapping({"backbone": "x", "heads": ["cls"]}).heads)
    late = replace(late, augment={**dict(late.augment), "flip": 0.0}, stages=(replace(late.stages[0], epochs=1),))
    result = train_late_head(
        model, late, "cls", output=tmp_path / "late", datasets=Datasets(train=data, val=None), device="cpu",
        progress=False, tensorboard=False,
    )  # fmt: skip
    assert result.packets_compared == min(32, len(data))
    assert min(seen) < 26 and max(seen) > 229 and len(set(seen)) > min(len(data), 50) * 0.8


def test_an_empty_stream_is_refused(trained):
    model, _, images, _ = trained
    packet = Packet.parse(model.edge.encode(images[0], rate=0)[0])
    for stream in (b"", packet.streams[0][:1], b"\xff" + packet.streams[0][1:9]):
        with pytest.raises(CorruptPacket):
            model.server.infer(replace(packet, streams=(stream,)).to_bytes())


def test_evaluation_takes_a_rate(trained):
    model, _, _, data = trained
    low, high = (evaluate(model, data, EvalOptions(limit=6), rate=rate) for rate in (0, 1))
    assert low.bytes.mean < high.bytes.mean and (low.sent, high.sent) == ("packet, rate 0", "packet, rate 1")


def test_command_line(trained, fixed, tmp_path):
    _, bundle, images, _ = trained
    image = tmp_path / "a.png"
    Image.fromarray(images[0]).save(image)

    def run(*arguments):
        return CliRunner().invoke(cli, [str(argument) for argument in arguments])

    sizes = []
    for command in (["encode"], ["edge", "encode"]):
        for rate in (0, 1):
            done = run(*command, bundle, image, "-o", tmp_path / "out", "--rate", rate, "--json")
            assert done.exit_code == 0, done.output
            sizes.append(json.loads(done.stdout)[0]["bytes"])
        done = run(*command, bundle, image, "-o", tmp_path / "out", "--budget", sizes[0] + 30, "--json")
        assert sizes[0] <= json.loads(done.stdout)[0]["bytes"] <= sizes[0] + 30
        for wrong in (["--rate", "2"], ["--budget", "21"]):
            done = run(*command, bundle, image, "-o", tmp_path / "out", *wrong)
            assert isinstance(done.exception, RecipeError | OverBudget), (wrong, done.output)
        assert run(*command, bundle, image, "-o", tmp_path / "out", "--rate", "nan").exit_code == 2
        done = run(*command, fixed, image, "-o", tmp_path / "out", "--rate", "0.5")
        assert isinstance(done.exception, RecipeError) and "rates = 5" in str(done.exception)
    assert sizes[0] < sizes[1] and sizes[2] < sizes[3]

    assert run("encode", bundle, image, "-o", tmp_path / "out", "--rate", 0.2).exit_code == 0
    done = run("inspect", tmp_path / "out" / "a.splitreg", "--bundle", bundle, "--json")
    assert json.loads(done.stdout)[0]["decoded"][0]["rate"] == 0.2
    assert "rate 0.2" in run("inspect", tmp_path / "out" / "a.splitreg", "--bundle", bundle).stdout

    done = run("eval", bundle, "--limit", 4, "--rate", "0,0.5,1", "--json", "--quiet")
    assert done.exit_code == 0, done.output
    means = [report["bytes"]["mean"] for report in json.loads(done.stdout)]
    assert len(means) == 3 and means == sorted(means)
    assert "rate 0.5" in run("eval", bundle, "--limit", 4, "--rate", "0,0.5,1", "--quiet").stdout
    assert run("eval", bundle, "--rate", "a,b").exit_code == 2
