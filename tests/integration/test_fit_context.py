"""``fit-context``: smaller packets and the same answers, errors, the command line."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from support.bundles import save_with_onnx

from splitreg.assembly import ServerModel, build, calibrate, load, save
from splitreg.cli.main import cli
from splitreg.coding import Packet
from splitreg.edge import EdgeEncoder
from splitreg.errors import CorruptPacket, RecipeError
from splitreg.training.context import ContextOptions, fit_context, packet_sizes
from splitreg.training.data import open_split

pytestmark = pytest.mark.integration

FAST = ContextOptions(width=16, units=4, steps=300, lr=1e-2, images=12, views=2)


@pytest.fixture(scope="module")
def model():
    data = {"name": "scenes", "count": {"train": 16, "val": 6}, "size": 64}
    made = build(
        backbone="mobilenetv3_small_100", heads=["seg"], input={"size": [64, 64]}, data=data,
        bottleneck={"name": "fp", "channels": 8, "rates": 3},
    )  # fmt: skip
    source = open_split(made.recipe, "train", None)
    with torch.no_grad():
        for parameter in made.bottleneck.encoder.parameters():  # an untrained encoder writes zeros only
            parameter *= 1.25
        made.eval()
        latents = torch.from_numpy(np.stack([made.edge.latent_of(source[i].array())[0] for i in range(len(source))]))
    optimizer = torch.optim.Adam(made.bottleneck.prior.parameters(), 2e-2)
    for _ in range(200):
        optimizer.zero_grad()
        made.bottleneck.rate(latents).mean().backward()
        optimizer.step()
    made.eval()
    made.freeze_tables()
    return made


@pytest.fixture(scope="module")
def fitted(model):
    return fit_context(model, open_split(model.recipe, "train", None), FAST)


def test_packets_are_smaller_and_predictions_the_same(model, fitted, tmp_path):
    val = open_split(model.recipe, "val", None)
    before = packet_sizes(model, val)
    after = packet_sizes(fitted, val)
    assert list(before) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert after[0.5] < 0.97 * before[0.5]
    assert model.recipe.bottleneck.options.get("context", 0) == 0 and fitted.recipe.bottleneck.options["context"] == 16
    assert fitted.coding.model_id != model.coding.model_id
    save(fitted, tmp_path / "fitted")
    loaded = load(tmp_path / "fitted")
    image = val[0].array()
    answers = []
    for one in (model, fitted, loaded):
        (packet,) = one.edge.encode(image, rate=0.7)
        answers.append(one.server.infer([packet])[0]["seg"].mask)
    assert all(np.array_equal(answers[0], other) for other in answers[1:]) and answers[0].any()
    assert loaded.edge.encode(image) == fitted.edge.encode(image)
    assert ServerModel.load(tmp_path / "fitted").infer(loaded.edge.encode(image))


def test_a_device_may_leave_it_out(model, fitted, tmp_path):
    folder, image = save_with_onnx(fitted, tmp_path / "fitted"), open_split(model.recipe, "val", None)[0].array()
    whole, device = EdgeEncoder.open(folder), EdgeEncoder.open(folder, context=False)
    (small,), (alone,), (before,) = (half.encode(image, rate=0.7) for half in (whole, device, model.edge))
    packet = Packet.parse(alone)
    assert not packet.context and packet.streams == Packet.parse(before).streams and len(alone) > len(small)
    answers = [fitted.server.infer([data])[0]["seg"].mask for data in (small, alone)]
    assert np.array_equal(*answers) and answers[0].any()
    with pytest.raises(CorruptPacket, match="this model has none"):
        model.server.infer([replace(Packet.parse(before), context=False).to_bytes()])
    Image.fromarray(image).save(tmp_path / "image.png")
    arguments = ["edge", "encode", str(folder), str(tmp_path / "image.png"), "--rate", "0.7"]
    for option, wanted in (("--no-context", alone), ("--context", small)):
        result = CliRunner().invoke(cli, [*arguments, option, "-o", str(tmp_path / option)])
        assert result.exit_code == 0, result.output
        assert (tmp_path / option / "image.splitreg").read_bytes() == wanted
    report = CliRunner().invoke(
        cli, ["inspect", str(tmp_path / "--no-context" / "image.splitreg"), "--bundle", str(folder)]
    )
    assert report.exit_code == 0 and "without context network" in report.output and "ideal" in report.output


def test_a_model_that_was_never_trained(tmp_path):
    data = {"name": "scenes", "count": {"train": 16, "val": 6}, "size": 64}
    model = build(
        backbone="mobilenetv3_small_100", cut="blocks.0", heads=["seg"], input={"size": [64, 64]}, data=data,
        bottleneck="calibrated",
    )  # fmt: skip
    train, val = (open_split(model.recipe, split, None) for split in ("train", "val"))
    calibrate(model, [train[index].array() for index in range(len(train))])
    fitted = fit_context(model, train, FAST)
    assert packet_sizes(fitted, val)[0.5] < 0.95 * packet_sizes(model, val)[0.5]
    save(fitted, tmp_path / "fitted")
    image, loaded = val[0].array(), load(tmp_path / "fitted")
    answers = [one.server.infer(one.edge.encode(image, rate=0.5))[0]["seg"].mask for one in (model, fitted, loaded)]
    assert all(np.array_equal(answers[0], other) for other in answers[1:]) and answers[0].any()


@pytest.mark.parametrize(("cut", "units"), [("blocks.0", 8), ("blocks.5", 2)])
def test_many_channels_get_fewer_units(cut, units):
    made = build(backbone="mobilenetv3_small_100", cut=cut, heads=["cls"], bottleneck="calibrated", input={"size": [64, 64]},
                 data={"name": "scenes", "count": {"train": 4, "val": 2}, "size": 64})  # fmt: skip
    source = open_split(made.recipe, "train", None)
    calibrate(made, [source[index].array() for index in range(len(source))])
    fitted = fit_context(made, source, ContextOptions(width=4, steps=1, images=2, views=1))
    assert fitted.recipe.bottleneck.options["context_units"] == units


def test_a_context_is_replaced_by_another(model):
    train = open_split(model.recipe, "train", None)
    first = fit_context(model, train, FAST)
    second = fit_context(first, train, ContextOptions(width=8, units=2, steps=2, images=4, views=1))
    assert second.recipe.bottleneck.options["context"] == 8
    assert second.coding.model_id not in (first.coding.model_id, model.coding.model_id)


def test_bottlenecks_without_context_are_refused():
    made = build(backbone="mobilenetv3_small_100", heads=["cls"], bottleneck="quantise", input={"size": [64, 64]},
                 data={"name": "scenes", "count": {"train": 4, "val": 2}, "size": 64})  # fmt: skip
    with pytest.raises(
        RecipeError, match=r"bottleneck quantise has no option 'context'.* those that have: calibrated, fp"
    ):
        fit_context(made, open_split(made.recipe, "train", None), FAST)


def test_codecs_that_use_no_context_are_refused():
    made = build(backbone="mobilenetv3_small_100", heads=["cls"], codec="zstd", input={"size": [64, 64]},
                 data={"name": "scenes", "count": {"train": 4, "val": 2}, "size": 64})  # fmt: skip
    with pytest.raises(RecipeError, match="does not use a context network"):
        fit_context(made, open_split(made.recipe, "train", None), FAST)


def test_command(model, tmp_path):
    save(model, tmp_path / "bundle", metrics={"training": [{"epoch": 3}]})
    arguments = ["fit-context", str(tmp_path / "bundle"), "--steps", "3", "--images", "4", "-o", str(tmp_path / "new")]
    result = CliRunner().invoke(cli, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    rows = report["bytes"]
    assert report["left_out"] == []
    assert [row["rate"] for row in rows] == [0, 0.25, 0.5, 0.75, 1] and all(row["after"] > 0 for row in rows)
    assert json.loads((tmp_path / "new" / "metrics.json").read_text()) == {"training": [{"epoch": 3}]}
    assert load(tmp_path / "new").recipe.bottleneck.options["context"] == 64
    again = CliRunner().invoke(cli, arguments)
    assert again.exit_code == 1 and "there is one already" in str(again.exception)


def test_a_folder_without_splits_says_what_is_measured(model, tmp_path):
    save(model, tmp_path / "bundle")
    (tmp_path / "images").mkdir()
    for number in range(5):
        Image.new("RGB", (64, 64), (number * 50, 9, 9)).save(tmp_path / "images" / f"{number}.png")
    arguments = ["fit-context", str(tmp_path / "bundle"), "--data", "folder", "--root", str(tmp_path / "images")]
    arguments += ["--steps", "2", "--overwrite", "-o", str(tmp_path / "new")]
    for options, said in (([], True), (["--set", "hold_out=0.4"], False)):
        result = CliRunner().invoke(cli, [*arguments, *options])
        assert result.exit_code == 0, result.output
        assert ("images of the fit" in result.output) == said


def test_exports_that_are_left_out_are_named(model, tmp_path):
    save_with_onnx(model, tmp_path / "bundle")
    arguments = ["fit-context", str(tmp_path / "bundle"), "--steps", "2", "--images", "3", "-o", str(tmp_path / "new")]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0 and "edge.onnx; splitreg publish writes them again" in result.output
