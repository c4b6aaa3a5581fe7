"""Checkpoints of sc2bench: made with its own classes where it is installed, and always with the same layers of compressai."""

import argparse
import json
import math
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from compressai.layers import GDN1 as PeerGDN1
from hypothesis import given, settings
from hypothesis import strategies as st
from splitreg_compressai.layers import GDN1
from splitreg_torchvision.levels import region_pool
from support.sc2_peers import KEYS, SIZE, Bottleneck, Classifier, detector, features, make, segmenter, write
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.misc import FrozenBatchNorm2d
from torchvision.ops.poolers import LevelMapper

import splitreg
from splitreg import checkpoints
from splitreg.assembly import load, save
from splitreg.assembly.labels import class_names
from splitreg.cli.import_ import command
from splitreg.coding import decode_streams, encode_streams
from splitreg.errors import CheckpointError, PlanError
from splitreg.interop import import_checkpoint
from splitreg.interop.layouts import SC2BENCH

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=["compressai", "sc2bench"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def peer(kind):
    return make(kind)


@pytest.fixture(scope="module")
def plain():
    return make("compressai")


@pytest.fixture(scope="module")
def saved(plain, tmp_path_factory):
    return write(tmp_path_factory.mktemp("checkpoints") / "model.pt", plain)


@pytest.fixture
def image():
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))


def close(ours, reference):
    assert ours.abs().max() > 1e-3
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_classifier(peer, tmp_path, image):
    peer.bottleneck_layer.update()  # integer tables are in the checkpoint, too
    args = argparse.Namespace(config="a.yaml", epochs=3)
    path = write(tmp_path / "model.pt", peer, args=args, best_value=np.float64(71.5), lr_scheduler=None)
    imported = import_checkpoint(path, strict=True, **KEYS)
    assert imported.fit.misfits == () and imported.model.trained
    assert imported.model.recipe.heads[0].labels == tuple(f"class {i}" for i in range(5))
    save(imported.model, tmp_path / "bundle")
    model = load(tmp_path / "bundle")

    latent = model.edge.latent(image)
    close(latent, peer.bottleneck_layer.encoder(image))

    prior = peer.bottleneck_layer.entropy_bottleneck
    means = prior.quantiles[:, 0, 1][:, None, None].expand_as(latent)
    symbols = prior.quantize(latent, "dequantize", means)
    restored, _ = model.bottleneck.prior(latent)
    close(restored, symbols)
    assert symbols.unique().numel() > 8  # the medians and more than one step each
    reference = list(features(peer, symbols).values())
    ours = model.server.features(restored, (SIZE, SIZE))
    for feature, other in zip((ours[stride] for stride in (4, 8, 16, 32)), reference, strict=True):
        close(feature, other)
    logits = model.server.branches["cls"](ours, (SIZE, SIZE))
    close(logits, peer.fc(peer.avgpool(reference[-1]).flatten(1)))


@torch.no_grad()
def test_sent_latents_are_the_peers(peer, tmp_path):
    """What a server gets of a packet is what the peer's entropy coder gives back for the same latent."""
    peer.bottleneck_layer.update()
    model = import_checkpoint(write(tmp_path / "model.pt", peer), **KEYS).model
    model.freeze_tables()
    latent = 8 * torch.randn(1, 4, 15, 15, generator=torch.Generator().manual_seed(5))
    prior = peer.bottleneck_layer.entropy_bottleneck
    reference = prior.decompress(prior.compress(latent), (15, 15))
    symbols = model.edge.coding.tables
    streams = encode_streams(symbols, latent[0].numpy(), model.edge.coding.codec)
    ours = torch.from_numpy(decode_streams(symbols, streams, (4, 15, 15), model.edge.coding.codec))[None]
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_heads_on_one_bitstream(kind, peer, tmp_path, image):
    boxes, masks = detector(kind, peer), segmenter(kind, peer)
    paths = [write(tmp_path / f"{i}.pt", model) for i, model in enumerate((peer, boxes, masks))]
    model = import_checkpoint(paths, strict=True, **KEYS).model
    assert model.heads == ("cls", "det-fasterrcnn", "seg-deeplabv3")
    latent = model.edge.latent(image)
    shared = model.server.features(latent, (SIZE, SIZE))

    output = model.branches["seg-deeplabv3"](shared, (SIZE, SIZE))
    close(output.logits.values, masks.classifier(features(peer, latent)["4"]))
    assist = model.head("seg-deeplabv3").assist
    close(assist(shared[16]), masks.aux_classifier(shared[16]))

    head = model.head("det-fasterrcnn")
    head.regions.score_thresh = 0.2
    predictions = head.predict(model.branches["det-fasterrcnn"](shared, (SIZE, SIZE)))
    # From the same features: a difference in the last place may order boxes of nearly the same score another way.
    levels = boxes.backbone.fpn(OrderedDict(zip("1234", (shared[s] for s in (4, 8, 16, 32)), strict=True)))
    boxes.roi_heads.box_roi_pool.featmap_names = list(levels)[:4]
    proposals, _ = boxes.rpn(ImageList(image, [(SIZE, SIZE)] * 2), levels)
    reference, _ = boxes.roi_heads(levels, proposals, [(SIZE, SIZE)] * 2)
    for ours, other in zip(predictions, reference, strict=True):
        assert len(ours.boxes) == len(other["boxes"]) > 5
        np.testing.assert_allclose(ours.boxes, other["boxes"].numpy(), atol=1e-3)
        np.testing.assert_allclose(ours.scores, other["scores"].numpy(), atol=1e-5)
        assert (ours.labels == other["labels"].numpy() - 1).all()


def test_regions_are_read_at_torchvisions_levels():
    sides = torch.logspace(0.5, 3, 97)
    boxes = [torch.stack([0 * sides, 0 * sides, sides, sides], 1)]
    ours = region_pool((4, 8, 16, 32), SC2BENCH.options["det-fasterrcnn"]["region_scale"]).map_levels(boxes)
    assert torch.equal(ours, LevelMapper(2, 5)(boxes)) and len(ours.unique()) == 4


def test_frozen_statistics_lack_counters(tmp_path):
    peer = Classifier(Bottleneck(), resnet18(num_classes=5, norm_layer=FrozenBatchNorm2d))
    assert not any("num_batches" in name for name in peer.state_dict())
    assert import_checkpoint(write(tmp_path / "model.pt", peer), strict=True, **KEYS).model.trained


@pytest.mark.parametrize(
    "wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {f"module.{k}": v for k, v in s.items()}]
)
def test_places_of_the_state_dict(plain, tmp_path, wrap):
    torch.save(wrap(plain.state_dict()), tmp_path / "model.pt")
    assert checkpoints.read_checkpoint(tmp_path / "model.pt").keys() == plain.state_dict().keys()


def test_older_names(plain, tmp_path):
    new = detector("compressai", plain).state_dict()
    old = {}
    for name, value in new.items():
        for now, then in (("matrices.", "_matrix"), ("biases.", "_bias"), ("factors.", "_factor")):
            name = name.replace(now, then)
        if "fpn" in name:
            name = name.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        old[name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")] = value
    assert sum(name not in new for name in old) >= 14 + 16 + 2
    torch.save(old, tmp_path / "model.pt")
    assert import_checkpoint(tmp_path / "model.pt", strict=True, **KEYS).fit.misfits == ()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-2, 2, width=32), min_size=6, max_size=6))
def test_gdn_is_the_same_function(values):
    peer, ours = PeerGDN1(2), GDN1(2)
    with torch.no_grad():
        peer.beta.copy_(torch.tensor(values[:2]))
        peer.gamma.copy_(torch.tensor(values[2:]).view(2, 2))
        for name in ("beta", "gamma"):
            getattr(ours, name).copy_(SC2BENCH.convert(f"bottleneck.encoder.2.{name}", getattr(peer, name)))
    beta, gamma = peer.beta_reparam(peer.beta), peer.gamma_reparam(peer.gamma)
    # float32 squares and subtracts 2**-36 there: half a unit in the last place of 4
    torch.testing.assert_close(ours.beta.square() + 1e-6, beta, rtol=3e-7, atol=1e-12)
    torch.testing.assert_close(ours.gamma.square(), gamma, rtol=3e-7, atol=1e-12)


def test_every_misfit_is_told(plain, tmp_path):
    state = plain.state_dict()
    state["extra.weight"] = torch.zeros(3)
    del state["layer3.0.conv1.weight"]
    state["layer4.0.conv1.weight"] = state["layer4.0.conv1.weight"][:, :7]
    state["layer2.0.conv1.weight"] = state["layer2.0.conv1.weight"] * math.nan
    torch.save(state, tmp_path / "model.pt")
    imported = import_checkpoint(tmp_path / "model.pt", **{**KEYS, "heads": ["cls", "depth"]})
    rows = {(misfit.kind, misfit.name) for misfit in imported.fit.misfits}
    depth = {("missing", f"branches.depth.{name}") for name, _ in imported.model.branches["depth"].named_parameters()}
    expected = {
        ("unused", "extra.weight"), ("shape", "layer4.0.conv1.weight"), ("values", "layer2.0.conv1.weight"),
        *(("missing", f"body.net.layer{n}.0.conv1.weight") for n in (2, 3, 4)),
    }  # fmt: skip
    assert expected | depth <= rows
    assert {row for row in rows - expected - depth if not row[1].startswith("branches.depth.")} == set()
    assert not imported.model.trained
    with pytest.raises(CheckpointError, match=rf"\b{len(rows)}\b"):
        import_checkpoint(tmp_path / "model.pt", strict=True, **{**KEYS, "heads": ["cls", "depth"]})


def test_recipe_says_what_the_checkpoint_does_not(plain, tmp_path):
    boxes = write(tmp_path / "model.pt", detector("compressai", plain))
    sizes = {"channels": 4, "hidden": 16}
    recipe = splitreg.Recipe.from_mapping({
        **KEYS, "bottleneck": {"name": "fp", "encoder": "gdn", "from": "image", **sizes}, "data": [{"name": "coco"}],
        "heads": [{"name": "det-fasterrcnn", "as": "boxes", "labels": ["a", "b", "c"], "score": 0.3}],
    })  # fmt: skip
    model = import_checkpoint(boxes, recipe, strict=True).model
    (head,) = model.recipe.heads
    assert head.labels == ("a", "b", "c") and head.options["score"] == 0.3 and head.options["anchor_scale"] == 8
    assert not model.recipe.data
    assert import_checkpoint(boxes, recipe, overrides=["codec=zstd"]).model.recipe.codec.name == "zstd"


def test_usual_class_names():
    names = class_names("detection", 90)
    assert names[0] == "person" and names[79] == "toothbrush" and names[80] == "no class 12" and len(set(names)) == 90
    assert class_names("segmentation", 21)[15] == "person" and class_names("classification", 21)[15] == "class 15"


@pytest.mark.parametrize("labels", [None, 90])
def test_coco_ids_become_the_datasets_classes(plain, tmp_path, labels):
    """torchvision's 91 rows are ids with gaps; the dataset counts 80 classes. Labels of one's own keep the order."""
    peer = detector("compressai", plain)
    peer.roi_heads.box_predictor = FastRCNNPredictor(1024, 91)
    head = {"name": "det-fasterrcnn", "as": "det", **({"labels": labels} if labels else {})}
    path = write(tmp_path / "model.pt", peer)
    model = import_checkpoint(path, strict=True, **{**KEYS, "heads": [head]}).model
    actual, expected = model.head("det").regions.box_predictor, peer.roi_heads.box_predictor
    categories = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    for index, name in enumerate(model.recipe.heads[0].labels):
        row = index + 1 if labels else int(name.split()[-1]) if name.startswith("no class") else categories.index(name)
        assert torch.equal(actual.cls_score.weight[index + 1], expected.cls_score.weight[row])
        assert torch.equal(
            actual.bbox_pred.bias[4 * index + 4 : 4 * index + 8], expected.bbox_pred.bias[4 * row : 4 * row + 4]
        )
    assert torch.equal(actual.cls_score.bias[0], expected.cls_score.bias[0])


def test_two_bottlenecks_are_an_error_two_bodies_a_misfit(plain, saved, tmp_path):
    masks = segmenter("compressai", plain)
    with torch.no_grad():
        masks.backbone.layer2[0].bn1.running_mean.add_(0.5)
    fit = import_checkpoint([saved, write(tmp_path / "a.pt", masks)], **KEYS).fit
    assert [(m.kind, m.name) for m in fit.misfits] == [("differs", "backbone.layer2.0.bn1.running_mean")]
    with torch.no_grad():
        masks.backbone.bottleneck_layer.encoder[0].weight.add_(1e-3)
    with pytest.raises(CheckpointError, match="b.pt.*bottleneck_layer.encoder.0.weight"):
        import_checkpoint([saved, write(tmp_path / "b.pt", masks)], **KEYS)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def _bad(case, folder, saved):
    path = folder / "model.pt"
    if case == "text":
        path.write_text("not a checkpoint")
    elif case == "empty":
        path.touch()
    elif case == "folder":
        path.mkdir()
    elif case == "truncated":
        path.write_bytes(saved.read_bytes()[: saved.stat().st_size // 2])
    elif case == "code":
        torch.save({"model": {"a": torch.zeros(1)}, "trap": Trap(folder / "sprung")}, path)
    elif case == "old pickle":
        path.write_bytes(pickle.dumps({"trap": Trap(folder / "sprung")}))
    elif case == "no tensors":
        torch.save({"epoch": 3}, path)
    elif case == "a list":
        torch.save([torch.zeros(1)], path)
    elif case == "sparse":
        torch.save({"a": torch.eye(3).to_sparse()}, path)
    elif case == "endless":
        torch.save({"fc.weight": torch.zeros(1).expand(10**12)}, path)
    elif case == "hollow":
        torch.save({"fc.weight": torch.zeros(10**12, 0)}, path)
    elif case == "another":
        torch.save({"fc.weight": torch.zeros(5, 7), "stem.weight": torch.zeros(3)}, path)
    elif case == "nothing known":
        torch.save({"a": torch.zeros(1)}, path)
    return path


BAD = {
    "absent": "model.pt", "folder": "folder", "text": "model.pt", "empty": "model.pt", "truncated": "model.pt",
    "code": r"io\.open", "old pickle": "model.pt", "no tensors": "epoch", "a list": "list", "sparse": r"\ba\b",
    "endless": "fc.weight", "hollow": "fc.weight", "another": r"\b0 of \d+ .*\(0 %\)", "nothing known": "det-fasterrcnn",
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_typed_error(case, saved, tmp_path):
    before = set(torch.serialization.get_safe_globals())
    with pytest.raises(CheckpointError, match=BAD[case]):
        import_checkpoint(_bad(case, tmp_path, saved), **KEYS)
    assert not (tmp_path / "sprung").exists()
    assert set(torch.serialization.get_safe_globals()) == before


def test_another_architecture(saved):
    with pytest.raises(CheckpointError, match=r"\d+ of \d+ .*\(\d+ %\)"):
        import_checkpoint(saved, **{**KEYS, "backbone": "mobilenetv3_small_100"})
    with pytest.raises(PlanError):
        import_checkpoint(saved, **{**KEYS, "heads": ["no-such-head"]})


def test_too_large(saved, monkeypatch):
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 1 << 20)
    with pytest.raises(CheckpointError, match="GiB"):
        import_checkpoint(saved, **KEYS)


def test_stand_ins_make_nothing(tmp_path):
    """A dtype's or a namespace's own code is not reached, whatever the file asks of it."""
    torch.save(
        {"model": {"a": torch.zeros(1)}, "args": argparse.Namespace(x=np.float64(1)), "best": np.float32(2)},
        tmp_path / "m.pt",
    )
    assert [*checkpoints.read_checkpoint(tmp_path / "m.pt")] == ["a"]


def test_command(saved, plain, tmp_path):
    out = tmp_path / "bundle"
    arguments = [str(saved), "--backbone", "resnet18", "--input", "64", "-o", str(out)]
    run = CliRunner().invoke(command, [*arguments, "--json", "--strict"])
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["misfits"] == [] and load(out).trained
    weight = load(out).state_dict()["branches.cls.head.layers.3.weight"]
    assert torch.equal(weight, plain.fc.weight)
    assert "overwrite" in str(CliRunner().invoke(command, arguments).exception)

    other = tmp_path / "other"
    strict = CliRunner().invoke(command, [*arguments[:-1], str(other), "--heads", "cls,depth", "--strict"])
    assert isinstance(strict.exception, CheckpointError) and "missing" in strict.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]
    nameless = CliRunner().invoke(command, [str(saved), "-o", str(other)])
    assert isinstance(nameless.exception, CheckpointError) and "--backbone" in str(nameless.exception)
    loose = CliRunner().invoke(command, [*arguments[:-1], str(other), "--heads", "cls,depth"])
    assert loose.exit_code == 0 and not load(other).trained
