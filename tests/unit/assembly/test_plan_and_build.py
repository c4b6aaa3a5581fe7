import dataclasses

import numpy as np
import pytest
import torch
from support.toys import KEYS, registry

import splitreg
from splitreg.coding import Packet
from splitreg.errors import CorruptPacket, ForeignPacket, PlanError, RecipeError


def build(**changes):
    return splitreg.build(registry=registry(), **{**KEYS, **changes})


def image(seed=0, size=(50, 70)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture
def model():
    model = build(cut="stage1", bottleneck={"name": "toy", "from": "image"})
    model.freeze_tables()
    return model


def test_plan_resolves_cut_source_and_labels():
    plan = splitreg.plan(registry=registry(), **KEYS)
    assert plan.recipe.cut == "stage1"  # the first stage of stride 4
    assert plan.recipe.bottleneck.source == "feature"
    assert plan.recipe.heads[0].labels == ("class 0", "class 1")
    assert plan.shapes.latent == (2, 16, 16)
    assert plan.heads[0].adapted == {32: 16}
    assert all(parameter.is_meta for parameter in plan.skeleton.body.parameters())


def test_plan_reports_every_problem_at_once():
    with pytest.raises(PlanError) as caught:
        splitreg.plan(
            registry=registry(), backbone={"name": "toy", "widht": 3}, bottleneck="tooy", codec="toi",
            heads=[{"name": "toy", "labels": 2, "hiden": 3}, {"name": "tog", "labels": 2}],
        )  # fmt: skip
    text = str(caught.value)
    assert len(caught.value.problems) == 5
    for name in ("'widht'", "'width'", "'toy'", "'hiden'", "'hidden'"):
        assert name in text


def test_plan_refuses_a_codec_that_wants_tables():
    with pytest.raises(PlanError, match="codec tables.*bottleneck toy"):
        splitreg.plan(registry=registry(), **{**KEYS, "codec": "tables"})


def test_plan_names_the_stages_of_a_wrong_cut():
    with pytest.raises(PlanError, match="'stage9'.*'stage1'"):
        splitreg.plan(registry=registry(), **{**KEYS, "cut": "stage9"})


def test_labels_come_from_the_dataset():
    plan = splitreg.plan(registry=registry(), **{**KEYS, "heads": ["toy"], "data": {"name": "toys"}})
    assert plan.recipe.heads[0].labels == ("dark", "bright")
    with pytest.raises(PlanError, match="/nowhere"):
        splitreg.plan(registry=registry(), **{**KEYS, "heads": ["toy"], "data": {"name": "toys", "root": "/nowhere"}})


def test_costs_count_what_runs(model):
    costs = model.plan.costs()
    assert costs["edge"].macs == 16 * 16 * 2 * 3 * 16  # one 4x4 convolution, 3 to 2 channels, on 16x16 positions
    assert costs["edge"].parameters == 2 * 3 * 16 + 2
    assert costs["heads.toy"].parameters == sum(p.numel() for p in model.branches["toy"].parameters())


def test_same_seed_same_weights():
    first, second, other = build(), build(), build(seed=1)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert not all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), other.state_dict().values(), strict=True)
    )


def test_parts_hold_every_weight_once(model):
    ids = [id(p) for part in model.parts().values() for p in part.parameters()]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in model.parameters()}


def test_packets_do_not_depend_on_their_neighbours(model):
    images = [image(seed) for seed in range(4)]
    together = model.edge.encode(images)
    assert together == [model.edge.encode(image)[0] for image in images]


def test_a_batch_is_one_packet_with_the_same_predictions(model):
    images = [np.resize(image(seed), (40 + seed, 60, 3)) for seed in range(3)]
    packets = model.edge.encode(images)
    batch = model.edge.encode(images, batch=True)
    assert len(batch) == 1 and len(batch[0]) < sum(map(len, packets)) - 2 * 10
    assert [image.to_bytes() for image in Packet.parse(batch[0]).images] == packets
    alone = model.server.infer(packets)
    # Packet by packet, image by image: a batch between two packets keeps its place.
    mixed = model.server.infer([packets[2], batch[0], packets[0]])
    assert [predictions["toy"].to_json() for predictions in mixed] == [
        alone[i]["toy"].to_json() for i in (2, 0, 1, 2, 0)
    ]
    with pytest.raises(CorruptPacket, match=r"\b3\b"):
        model.server.decode(Packet.parse(batch[0]))


def test_a_batch_runs_in_parts_that_fit_memory(model, monkeypatch):
    calls, features = [], model.server.features

    def counted(latents, coded):
        calls.append(len(latents))
        return features(latents, coded)

    monkeypatch.setattr(model.server, "features", counted)
    monkeypatch.setattr("splitreg.assembly.server.MAX_CODED_PIXELS", 2 * 64 * 64)
    assert len(model.server.infer(model.edge.encode([image(s) for s in range(5)], batch=True))) == 5
    assert calls == [2, 2, 1]


def test_a_batch_may_not_ask_for_more_pixels_than_an_image(model):
    own = Packet.parse(model.edge.encode([image()])[0])
    data = dataclasses.replace(own, original=(8000, 8000), others=((8000, 8000),), streams=own.streams * 2).to_bytes()
    with pytest.raises(CorruptPacket, match="128000000"):
        model.server.infer([data])


def test_infer_runs_only_the_requested_heads(model):
    packets = model.edge.encode([image()])
    assert list(model.server.infer(packets)[0]) == ["toy"]
    assert model.server.infer(packets, heads=[]) == [{}]
    with pytest.raises(RecipeError, match="'toi'.*'toy'"):
        model.server.infer(packets, heads=["toi"])


def test_select_runs_heads_on_some_images(model):
    images = torch.zeros(3, 3, 64, 64)
    assert model(images, {"toy": torch.tensor([0, 2])}).outputs["toy"].shape[0] == 2
    assert model(images, {"toy": torch.tensor([], dtype=torch.long)}).outputs == {}


def test_foreign_and_damaged_packets_are_refused(model):
    packet = model.edge.encode([image()])[0]
    other = build(seed=5, cut="stage1", bottleneck={"name": "toy", "from": "image"})
    other.freeze_tables()
    with pytest.raises(ForeignPacket):
        other.server.infer([packet])
    for data in (b"", packet[:10], packet[:-1], packet + b"x", bytes([packet[0] ^ 1]) + packet[1:]):
        with pytest.raises(CorruptPacket):
            model.server.infer([data])


def test_a_packet_of_an_absurd_size_costs_nothing(model):
    huge = Packet(
        model_id=model.edge.coding.model_id, original=(9, 9), coded=(65535, 65535), streams=(b"x",)
    ).to_bytes()
    with pytest.raises(CorruptPacket, match="65535x65535"):
        model.server.infer([huge])


@pytest.mark.parametrize("coded", [(129, 128), (1, 4 * 64 * 64 + 1)])
def test_a_coded_size_far_beyond_the_models_own_is_refused_unread(model, coded, monkeypatch):
    monkeypatch.setattr(model.server, "shapes", None)  # would fail if it were asked
    data = Packet(model_id=model.edge.coding.model_id, original=(9, 9), coded=coded, streams=(b"x",)).to_bytes()
    with pytest.raises(CorruptPacket, match=rf"{coded[1]}x{coded[0]}.*\b{4 * 64 * 64}\b"):
        model.server.infer([data])


def test_predictions_of_an_absurd_original_size_are_refused(model):
    own = Packet.parse(model.edge.encode([image()])[0])
    with pytest.raises(CorruptPacket, match="65535x65535.*100000000"):
        model.server.infer([dataclasses.replace(own, original=(65535, 65535)).to_bytes()])


def test_a_body_that_fails_at_another_size_is_the_packets_fault(model, monkeypatch):
    def fails(latents, coded):
        raise RuntimeError("sizes of tensors must match")

    monkeypatch.setattr(model.server, "features", fails)
    shape = model.server.shapes((32, 32)).latent
    payload = model.edge.coding.codec.encode(np.zeros(shape, np.int32), model.edge.coding.tables)
    data = Packet(model_id=model.edge.coding.model_id, original=(9, 9), coded=(32, 32), streams=(payload,)).to_bytes()
    with pytest.raises(CorruptPacket, match="32x32"):
        model.server.infer([data])
    with pytest.raises(RuntimeError):  # at its own size it is a bug, and told as one
        model.server.infer(model.edge.encode([image()]))


@pytest.mark.parametrize("name", ["type", "train", "items"])
def test_a_head_cannot_have_a_name_that_torch_keeps_for_itself(name):
    with pytest.raises(PlanError, match=f"'{name}'"):
        splitreg.plan(registry=registry(), **{**KEYS, "heads": [{"name": "toy", "as": name, "labels": ["a", "b"]}]})
