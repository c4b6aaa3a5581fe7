"""Every cut of one small model of each kind, against timm's own features."""

import copy
import subprocess
import sys

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from splitreg_timm import loading, stages
from splitreg_timm.backbone import TimmBackbone
from splitreg_timm.specs import TIMM
from splitreg_timm.token_layout import TokenLayout
from torch import nn

from splitreg.errors import (
    BrokenComponent,
    BundleError,
    CheckpointError,
    MissingExtra,
    RecipeError,
    UnknownComponent,
)  # fmt: skip
from splitreg.interop import import_weights
from splitreg.registry import Registry

pytestmark = pytest.mark.integration

SIZE = (64, 96)
#: name -> number of cuts.
MODELS = {
    "resnet18": 5,
    "densenet121": 5,
    "regnetx_002": 5,
    "mobilenetv3_small_050": 5,
    "test_efficientnet": 5,
    "test_convnext": 4,  # channels last inside
    "focalnet_tiny_srf": 4,  # channels last in memory alone
    "test_byobnet": 5,
    "mobilevit_xxs": 5,
    "test_vit": 7,  # class token
    "test_vit3": 10,  # no class token, average of layers of its own
    "vit_tiny_patch16_dinov3_qkvb": 13,  # rotary embedding, register tokens
    "deit_tiny_distilled_patch16_224": 13,  # two extra tokens
    "test_maxvit": 5,
    "swin_tiny_patch4_window7_224": 4,
    "pvt_v2_b0": 4,
    "levit_128s": 4,  # tokens in a pyramid
    "efficientformerv2_s0": 4,
    "poolformer_s12": 4,
    "coat_lite_tiny": 5,  # class tokens in a pyramid
    "hrnet_w18_small": 2,  # parallel branches
}


def build(name, size=SIZE, seed=0, **options):
    torch.manual_seed(seed)
    backbone = TimmBackbone(name, image_size=size, **options)
    with torch.no_grad():
        for parameter in backbone.parameters():  # what is initialised as zero would hide a mistake
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return backbone.eval()


def own_features(backbone, name, image):
    """timm's own, with the same weights: they go by timm's names."""
    meta = loading.build_meta(name, tuple(image.shape[-2:]), 0.0)
    model = timm.create_model(name, **meta.options).eval()
    state = {key.removeprefix("net."): value for key, value in backbone.state_dict().items()}
    assert not model.load_state_dict(state, strict=False).unexpected_keys
    return model.forward_intermediates(image, intermediates_only=True)


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_every_cut_gives_the_bits_of_timm(name):
    backbone = build(name)
    assert len(backbone.stages) == MODELS[name]
    image = torch.randn(2, 3, *SIZE)
    whole = backbone(image)
    own = {feature.shape[2:]: feature for feature in own_features(backbone, name, image)}
    everything = set(backbone.state_dict())
    specs = list(backbone.stages.values())
    for index, (cut, spec) in enumerate(backbone.stages.items()):
        prefix, body = backbone.split(cut)
        first, second = set(prefix.state_dict()), set(body.state_dict())
        assert not first & second
        assert first | second <= everything
        assert name.startswith("hrnet") or first | second == everything
        feature = prefix(image)
        assert feature.shape == (2, spec.channels, -(-SIZE[0] // spec.stride), -(-SIZE[1] // spec.stride))
        restored = body(torch.from_numpy(feature.numpy().copy()))
        assert list(restored) == sorted({later.stride for later in specs[index:]})
        for stride, given_ in restored.items():
            assert torch.equal(given_, whole[stride]), (cut, stride)
    for stride, feature in whole.items():
        expected = own[feature.shape[2:]]
        assert torch.equal(feature[:, : expected.shape[1]], expected), stride
        assert feature.shape[1] == [spec for spec in specs if spec.stride == stride][-1].channels


@pytest.mark.parametrize("name", ["resnet18", "test_convnext", "test_vit", "levit_128s", "pvt_v2_b0"])
def test_gradients_reach_every_weight_through_the_cut(name):
    backbone = build(name).train()
    prefix, body = backbone.split(list(backbone.stages)[1])
    features = body(prefix(torch.randn(2, 3, *SIZE)))
    sum(feature.square().mean() for feature in features.values()).backward()
    assert [key for key, weight in backbone.named_parameters() if weight.grad is None] == []


@pytest.mark.parametrize("name", ["resnet18", "test_vit", "swin_tiny_patch4_window7_224", "test_maxvit", "levit_128s"])
def test_meta_skeleton_is_the_model_without_weights(name):
    with torch.device("meta"):
        skeleton = TimmBackbone(name, image_size=SIZE)
    backbone = build(name)
    assert skeleton.stages == backbone.stages
    assert all(tensor.is_meta for tensor in (*skeleton.parameters(), *skeleton.buffers()))
    shapes = {key: value.shape for key, value in backbone.state_dict().items()}
    assert {key: value.shape for key, value in skeleton.state_dict().items()} == shapes
    assert list(skeleton.state_dict()) == list(shapes)
    prefix, body = skeleton.split(list(skeleton.stages)[1])
    features = body(prefix(torch.empty((1, 3, *SIZE), device="meta")))
    assert {s: f.shape[1:] for s, f in features.items()} == {
        s: f.shape[1:] for s, f in backbone(torch.zeros(1, 3, *SIZE)).items() if s in features
    }


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
@torch.no_grad()
def test_halves_can_be_moved_apart(name):
    trained, fresh = build(name, seed=0), build(name, seed=1)
    cut = list(trained.stages)[2]
    image = torch.randn(1, 3, *SIZE)
    halves = list(zip(trained.split(cut), fresh.split(cut), strict=True))
    for mine, theirs in halves:
        theirs.load_state_dict(mine.state_dict(), strict=True)
    (_, prefix), (_, body) = halves
    expected = trained(image)
    assert all(torch.equal(feature, expected[stride]) for stride, feature in body(prefix(image)).items())


@torch.no_grad()
def test_split_shares_weights_and_modes_with_the_backbone():
    backbone = build("resnet18")
    prefix, body = backbone.split("layer2")
    mine = {id(weight) for weight in backbone.parameters()}
    assert {id(weight) for part in (prefix, body) for weight in part.parameters()} == mine
    for mode in (True, False):
        backbone.train(mode)
        assert {m.training for part in backbone.split("layer2") for m in part.modules()} == {mode}
    before = prefix.state_dict()["net.bn1.running_mean"].clone()
    prefix.train()
    prefix(torch.randn(2, 3, *SIZE))
    assert not torch.equal(before, backbone.state_dict()["net.bn1.running_mean"])


@torch.no_grad()
def test_convolutions_run_on_other_sizes():
    backbone, image = build("resnet18"), torch.randn(1, 3, 131, 75)
    prefix, body = backbone.split("layer1")
    features, whole = body(prefix(image)), backbone(image)
    assert features[32].shape == (1, 512, 5, 3)
    assert all(torch.equal(feature, whole[stride]) for stride, feature in features.items())


@torch.no_grad()
def test_plain_transformers_see_whole_patches():
    backbone = build("test_vit", size=(100, 50))
    prefix, body = backbone.split("blocks.1")
    image = torch.randn(1, 3, 100, 50)
    assert prefix(image).shape[2:] == (7, 4)
    assert torch.equal(body(prefix(image))[16], backbone(image)[16])
    with pytest.raises(ValueError, match=r"100, 50.*96, 50"):
        prefix(torch.randn(1, 3, 96, 50))


@torch.no_grad()
def test_cut_is_after_the_stage_that_it_names():
    backbone = build("coat_tiny")  # its first map is taken after the serial blocks, but parallel blocks change it later
    assert "serial_blocks1" in backbone.refused
    prefix, _ = build("pit_ti_224").split("transformers.2")
    assert any(key.startswith("net.transformers.2.blocks") for key in prefix.state_dict())


def test_sizes_that_modules_return_do_not_cross():
    with torch.device("meta"):
        backbone = TimmBackbone("mvitv2_tiny")  # its stages return their tokens and (height, width)
    assert [spec.stride for spec in backbone.stages.values()] == [4, 8, 16, 32]


@torch.no_grad()
def test_odd_patches_give_the_stride_of_the_nearest_power_of_two():
    backbone, image = build("vit_small_patch14_dinov2"), torch.randn(1, 3, *SIZE)
    assert {spec.stride for spec in backbone.stages.values()} == {16}
    prefix, body = backbone.split("blocks.4")
    feature = prefix(image)
    assert feature.shape[2:] == (4, 6)
    assert torch.equal(body(feature)[16], backbone(image)[16])


@torch.no_grad()
def test_maps_without_padding_get_the_size_of_their_stride():
    size = (139, 160)
    backbone, image = build("inception_v3", size=size), torch.randn(1, 3, *size)
    (own,) = (feature for feature in own_features(backbone, "inception_v3", image) if feature.shape[1] == 288)
    prefix, body = backbone.split("Mixed_5d")
    feature = prefix(image)
    assert feature.shape == (1, 288, -(-139 // 8), -(-160 // 8))
    top, left = (feature.shape[2] - own.shape[2]) // 2, (feature.shape[3] - own.shape[3]) // 2
    assert torch.equal(feature[..., top : top + own.shape[2], left : left + own.shape[3]], own)
    whole = backbone(image)
    for stride, restored in body(feature).items():
        assert restored.shape[2:] == (-(-139 // stride), -(-160 // stride))
        assert torch.equal(restored, whole[stride])


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_dinov3_qkvb", "eva02_tiny_patch14_224"])
@torch.no_grad()
def test_copies_are_whole_and_independent(name):
    backbone, image = build(name), torch.randn(1, 3, *SIZE)
    for module in (backbone, *backbone.split(list(backbone.stages)[2])):
        copied = copy.deepcopy(module)
        assert list(copied.state_dict()) == list(module.state_dict())
        assert not {id(p) for p in copied.parameters()} & {id(p) for p in module.parameters()}
    assert torch.equal(copy.deepcopy(backbone)(image)[16], backbone(image)[16])


@torch.no_grad()
def test_embedding_is_cut_before_class_tokens_are_added():
    backbone = build("test_vit")
    assert next(iter(backbone.stages)) == "patch_embed"
    assert backbone.stages["patch_embed"].channels == 64
    prefix, _ = backbone.split("patch_embed")
    assert not any("pos_embed" in key or "cls_token" in key for key in prefix.state_dict())


@torch.no_grad()
def test_norm_is_applied_to_the_last_feature_alone():
    image = torch.randn(1, 3, *SIZE)
    plain, normed = build("test_vit"), build("test_vit", norm=True)
    normed.load_state_dict(plain.state_dict(), strict=False)
    cut = "blocks.3"
    assert torch.equal(plain.split(cut)[0](image), normed.split(cut)[0](image))
    assert any("norm." in key for key in normed.split(cut)[1].state_dict())
    assert not torch.equal(plain(image)[16], normed(image)[16])


def test_drop_path_works_in_training_alone():
    torch.manual_seed(0)
    backbone = build("test_vit", drop_path_rate=0.9)
    image = torch.randn(4, 3, *SIZE)
    with torch.no_grad():
        assert torch.equal(backbone(image)[16], backbone(image)[16])
        backbone.train()
        assert not torch.equal(backbone(image)[16], backbone(image)[16])


@given(
    st.sampled_from([0, 1, 2, 5]), st.integers(1, 40), st.integers(1, 5), st.integers(1, 5), st.booleans()
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_tokens_survive_the_crossing(extra, channels, height, width, transposed):
    layout = TokenLayout(
        kind="tokens",
        channels=channels,
        grid=(height, width),
        extra=extra,
        order=(0, 2, 1) if transposed else (0, 1, 2),
    )
    value = torch.randn(2, extra + height * width, channels)
    packed = layout.pack(value)
    assert packed.shape == (2, channels + layout.carriers, height, width)
    assert torch.equal(packed[:, :channels].flatten(2), value[:, extra:].transpose(1, 2))
    assert torch.equal(layout.unpack(packed), value)


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_come_from_a_file(tmp_path, suffix):
    torch.manual_seed(3)
    model = timm.create_model("test_vit")
    path = tmp_path / f"weights.{suffix}"
    save_file(model.state_dict(), path) if suffix == "safetensors" else torch.save(model.state_dict(), path)
    backbone = TimmBackbone("test_vit", pretrained=str(path), image_size=(160, 160))
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, model.state_dict()[key.removeprefix("net.")]), key
    small = TimmBackbone("test_vit", pretrained=str(path), image_size=(64, 96))
    assert small.state_dict()["net.pos_embed"].shape[1] == 4 * 6 + 1  # resized with the image
    assert torch.equal(small.state_dict()["net.cls_token"], model.cls_token)


def test_wrong_files_are_one_error(tmp_path):
    with pytest.raises(BundleError, match="nowhere"):
        TimmBackbone("test_resnet", pretrained=str(tmp_path / "nowhere.safetensors"), image_size=SIZE)
    other = tmp_path / "other.safetensors"
    save_file(nn.Linear(2, 2).state_dict(), other)
    with pytest.raises(BundleError, match="missing"):
        TimmBackbone("test_resnet", pretrained=str(other), image_size=SIZE)
    wide = tmp_path / "wide.safetensors"
    save_file(timm.create_model("resnet34").state_dict(), wide)
    with pytest.raises(BundleError, match="resnet50"):
        TimmBackbone("resnet50", pretrained=str(wide), image_size=SIZE)
    (tmp_path / "text.safetensors").write_text("not weights")
    with pytest.raises(BundleError, match="weights"):
        TimmBackbone("test_resnet", pretrained=str(tmp_path / "text.safetensors"), image_size=SIZE)


def test_failing_download_is_one_error(monkeypatch):
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("cannot reach the hub")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(MissingExtra, match=r"resnet18.*cannot reach the hub.*pretrained = 'weights.safetensors'"):
        TimmBackbone("resnet18", pretrained=True, image_size=SIZE)


def test_messages_name_what_there_is():
    backbone = build("test_resnet")
    with pytest.raises(RecipeError, match=r"'layer9'.*layer1"):
        backbone.split("layer9")
    with pytest.raises(RecipeError, match="'stage2'"):
        build("hrnet_w18_small").split("stage2")
    with pytest.raises(UnknownComponent, match="'resnet50'"):
        TimmBackbone("resnet5o", image_size=SIZE)
    with pytest.raises(UnknownComponent, match=r"'resnet18\.a1_in1k'"):
        TimmBackbone("resnet18.a1_in1j", image_size=SIZE)
    with pytest.raises(RecipeError, match="drop_path_rate"):
        TimmBackbone("vgg11", image_size=SIZE, drop_path_rate=0.1)
    with pytest.raises(RecipeError, match="7x5"):
        TimmBackbone("halonet26t", image_size=(5, 7))


def test_model_without_a_cut_is_one_error(monkeypatch):
    monkeypatch.setattr(stages, "find", lambda *_: ({}, {"a": "too wide", "b": "too wide"}))
    with pytest.raises(BrokenComponent, match="resnet18.*too wide$"):
        TimmBackbone("resnet18", image_size=(72, 72))  # a size of its own: traces are cached


def test_family_answers_for_timm_names():
    registry = Registry.of(TIMM)
    assert registry.resolve("backbone", "resnet50") == (TIMM, "resnet50")
    assert registry.resolve("backbone", "timm:resnet50.a1_in1k")[1] == "resnet50.a1_in1k"
    assert registry.load(TIMM) is TimmBackbone


def test_specs_import_neither_torch_nor_timm():
    code = "import sys, splitreg_timm.specs; print({'torch', 'timm'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_normalisation_is_the_weights_own():
    assert build("resnet18").mean == (0.485, 0.456, 0.406)
    assert build("vit_tiny_patch16_224").mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenetv3_small_050", "test_convnext", "test_vit", "deit_tiny_distilled_patch16_224"]
)
def test_a_kept_classifier_says_what_timms_does(name, tmp_path):
    model = timm.create_model(name).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    size = model.pretrained_cfg["input_size"][1:]
    weights = str(tmp_path / "weights.safetensors")
    backbone = TimmBackbone(name, pretrained=weights, image_size=size, classifier=True).eval()
    image = torch.randn(2, 3, *size)
    with torch.no_grad():
        features, logits = backbone.teach(image)
        assert torch.equal(logits, model(image))
        for stride, feature in backbone(image).items():
            assert torch.equal(feature, features[stride])
    assert TimmBackbone(name, image_size=size).eval().teach(image)[1] is None


def test_a_file_without_the_classifier_is_refused_where_it_is_kept(tmp_path):
    state = {k: v for k, v in timm.create_model("resnet18").state_dict().items() if not k.startswith("fc.")}
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(BundleError, match="missing"):
        TimmBackbone("resnet18", pretrained=str(tmp_path / "weights.safetensors"), classifier=True)


def foreign(state):
    """Return timm's EfficientNet-Lite0 under the names of efficientnet_pytorch, in the order of the network."""
    blocks = list(dict.fromkeys(".".join(name.split(".")[:3]) for name in state if name.startswith("blocks.")))
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1", "classifier": "_fc"}
    plain = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    expanding = {
        "conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1", "conv_pwl": "_project_conv",
        "bn3": "_bn2",
    }  # fmt: skip
    renamed = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0] == "blocks":
            block = ".".join(parts[:3])
            table = expanding if f"{block}.conv_pwl.weight" in state else plain
            renamed[f"_blocks.{blocks.index(block)}.{table[parts[3]]}.{parts[4]}"] = value
        else:
            renamed[f"{outside[parts[0]]}.{parts[1]}"] = value
    return renamed


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite2"])
def test_weights_with_names_of_efficientnet_pytorch_are_read(name, tmp_path):
    torch.manual_seed(5)
    state = timm.create_model(name).state_dict()
    path = tmp_path / "efficientnet-lite.pth"
    torch.save(foreign(state), path)
    backbone = TimmBackbone(name, pretrained=str(path), image_size=(224, 224), classifier=True)
    own = {key.removeprefix("net."): value for key, value in backbone.state_dict().items()}
    assert own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in state)
    written = import_weights(path, name, tmp_path / "lite.safetensors")
    again = load_file(written.path)
    assert again.keys() == state.keys() and all(torch.equal(again[key], state[key]) for key in state)
    with pytest.raises(CheckpointError, match=r"lite\.safetensors.*overwrite"):
        import_weights(path, name, written.path)
    with pytest.raises(BundleError, match="resnet18"):
        import_weights(path, "resnet18", tmp_path / "other.safetensors")
    assert not (tmp_path / "other.safetensors").exists()
