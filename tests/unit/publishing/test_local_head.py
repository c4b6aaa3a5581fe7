"""A local head: calibrated, added to a copy of a bundle, and used by a client that escalates."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from support.bundles import save_with_onnx
from support.fake_service import FakeService

from splitreg.assembly import build
from splitreg.bundle import Bundle
from splitreg.cli.send_ import command
from splitreg.edge import EdgeEncoder, EscalatingClient, LocalHead
from splitreg.errors import BundleError, RecipeError
from splitreg.publishing.local_head import (
    LocalHeadOptions,
    add_local_head,
    choose_threshold,
    curve,
    fit_temperature,
)
from splitreg.recipe import Recipe
from splitreg.training.data import open_split

pytestmark = pytest.mark.integration

RECIPE = {
    "backbone": "mobilenetv3_small_050", "bottleneck": {"name": "fp", "encoder": "light", "channels": 2, "blocks": 1},
    "heads": ["cls"], "input": {"size": [32, 32], "mode": "resize"}, "data": {"name": "scenes", "size": 32, "count": 24},
}  # fmt: skip


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """An untrained bundle, and its copy with a local head."""
    folder = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPLITREG_CACHE", str(folder / "cache"))
        recipe = Recipe.from_mapping(RECIPE)
        train, val = (open_split(recipe, split, None) for split in ("train", "val"))
        model = build(recipe, targets=dict(train.targets)) if _wants_targets() else build(recipe)
        save_with_onnx(model, folder / "plain")
        result = add_local_head(folder / "plain", folder / "local", train, val, LocalHeadOptions(epochs=2, width=4))
    return folder, result


def _wants_targets():
    import inspect

    return "targets" in inspect.signature(build).parameters


IMAGE = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)


def test_only_the_local_head_is_added(bundles):
    folder, result = bundles
    plain, local = Bundle.open(folder / "plain"), Bundle.open(folder / "local")
    assert set(local.config.files) - set(plain.config.files) == {"local.onnx", "local.json"}
    assert all(local.read(name) == plain.read(name) for name in plain.config.files)
    assert local.config.model_id == plain.config.model_id
    one, other = (EdgeEncoder.open(folder / name).encode(IMAGE) for name in ("plain", "local"))
    assert one == other
    calibration = result.calibration
    assert json.loads(local.read("local.json")) == calibration
    assert calibration["head"] == "cls" and calibration["temperature"] > 0 and 0 <= calibration["sent"] <= 1
    assert calibration["curve"][0]["sent"] == 0 and calibration["curve"][-1]["sent"] == 1
    assert calibration["curve"][-1]["accuracy"] == pytest.approx(calibration["accuracy"]["server"])


def test_a_client_sends_what_its_local_head_is_not_sure_of(bundles):
    folder, _ = bundles
    encoder = EdgeEncoder.open(folder / "local")
    with FakeService() as service, EscalatingClient(service.url, encoder, heads=["cls"]) as client:
        client.local = LocalHead.open(folder / "local", threshold=0.0)
        answer = client.send(IMAGE, name="a")
        assert answer.packet_bytes == 0 and (client.answered, client.escalated) == (1, 0)
        assert answer.predictions["cls"].probabilities.sum() == pytest.approx(1)
        client.local.threshold = 1.1
        sent = client.send(IMAGE, name="b")
        assert sent.packet_bytes == len(encoder.encode(IMAGE)[0]) and client.escalated == 1
        client.local = None
        assert client.send(IMAGE).packet_bytes == sent.packet_bytes
    with EscalatingClient("http://127.0.0.1:1", encoder) as other:
        other.local = LocalHead.open(folder / "local")
        with pytest.raises(RecipeError, match="'cls'"):
            other.send(IMAGE)


def test_labels_have_a_local_head_too(tmp_path, monkeypatch):
    monkeypatch.setenv("SPLITREG_CACHE", str(tmp_path / "cache"))
    recipe = Recipe.from_mapping(
        {**RECIPE, "heads": ["multilabel"], "data": {"name": "scenes", "size": 32, "count": 12}}
    )
    train, val = (open_split(recipe, split, None) for split in ("train", "val"))
    save_with_onnx(
        build(recipe, targets=dict(train.targets)) if _wants_targets() else build(recipe), tmp_path / "plain"
    )
    options = LocalHeadOptions(epochs=2, width=4)
    calibration = add_local_head(tmp_path / "plain", tmp_path / "local", train, val, options).calibration
    labels = train.targets["multilabel"].labels
    assert calibration["labels"] == list(labels) and 0 <= calibration["accuracy"]["local"] <= 1
    assert calibration["curve"][-1]["accuracy"] == pytest.approx(calibration["accuracy"]["server"])
    local = LocalHead.open(tmp_path / "local")
    latent, _ = EdgeEncoder.open(tmp_path / "local").latent_of(IMAGE)
    answer = local.answer(latent)
    probabilities = answer.prediction.probabilities
    assert answer.prediction.to_json()["task"] == "multilabel" and len(probabilities) == len(labels)
    assert answer.confidence == pytest.approx(np.maximum(probabilities, 1 - probabilities).mean())


def test_the_command_escalates(bundles, tmp_path):
    from PIL import Image

    folder, _ = bundles
    Image.fromarray(IMAGE).save(tmp_path / "image.png")
    with FakeService() as service:
        for threshold, answered in ((0, 1), (1, 0)):
            done = CliRunner().invoke(
                command, [str(folder / "local"), str(tmp_path / "image.png"), "--to", service.url, "--escalate",
                          "--threshold", str(threshold), "--json"],
            )  # fmt: skip
            assert done.exit_code == 0, done.output
            assert (json.loads(done.stdout.splitlines()[0])["packet_bytes"] == 0) == bool(answered)


def test_bundles_and_thresholds_that_are_none(bundles, tmp_path):
    folder, _ = bundles
    with pytest.raises(BundleError, match="splitreg escalate"):
        LocalHead.open(folder / "plain")
    with pytest.raises(RecipeError, match="2"):
        LocalHead.open(folder / "local", threshold=2)


def test_a_temperature_that_is_known_is_found():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (4000, 5))
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = shifted / shifted.sum(1, keepdims=True)
    labels = np.array([rng.choice(5, p=row) for row in probabilities])
    assert fit_temperature(3.0 * logits, labels) == pytest.approx(3.0, rel=0.06)


def test_the_threshold_sends_the_fewest_images_within_the_loss():
    confidence = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    local = np.array([True, True, False, True, False])
    server = np.array([True, True, True, True, True])
    assert choose_threshold(confidence, local, server, 0.0) == 0.8
    assert choose_threshold(confidence, local, server, 0.2) == 0.6
    assert choose_threshold(confidence, local, server, 1.0) == 0.5
    assert choose_threshold(confidence, ~server, server, 0.0) > 1
    assert choose_threshold(np.full(5, 0.7), local, server, 0.2) > 1  # equal confidences are not told apart
    rows = curve(confidence, local, server, points=6)
    assert [row["sent"] for row in rows] == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert rows[0]["accuracy"] == 0.6 and rows[1]["accuracy"] == 0.8 and rows[-1]["accuracy"] == 1
