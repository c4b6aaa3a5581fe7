"""cls-timm: the split model has the logits of timm's model."""

import pytest
import timm
import torch
from safetensors.torch import save_file

import splitreg
from splitreg.assembly import load, save
from splitreg.errors import PlanError

pytestmark = pytest.mark.integration

FAMILIES = [
    "tf_efficientnet_lite0", "resnet18", "mobilenetv3_small_100", "convnext_atto", "regnetx_002", "repvgg_a0",
]  # fmt: skip


def recipe(name, **options):
    return {
        "backbone": {"name": name, **options}, "bottleneck": "raw", "input": {"size": [64, 64], "mode": "resize"},
        "heads": [{"name": "cls-timm", "as": "cls", "model": name, **options}],
    }  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_timm(name, tmp_path):
    torch.manual_seed(1)
    model = timm.create_model(name).eval()
    path = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    split = splitreg.build(**recipe(name, pretrained=str(path))).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(split(image).outputs["cls"], model(image), rtol=1e-5, atol=1e-5)
    assert split.head("cls").labels[:2] == ("tench", "goldfish")


def test_a_bundle_needs_no_file_of_weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    state = timm.create_model("resnet18").state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    model = splitreg.build(**recipe("resnet18", pretrained=str(path))).eval()
    save(model, tmp_path / "bundle")
    path.unlink()
    again = load(tmp_path / "bundle")
    assert "pretrained" not in again.recipe.heads[0].options
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(image).outputs["cls"], model(image).outputs["cls"])


@pytest.mark.parametrize(
    ("change", "facts"),
    [({"model": "resnet50"}, "2048.*512"), ({"labels": 10}, "1000.*10"), ({"model": "vit_tiny_patch16_224"}, "cls")],
)
def test_a_classifier_that_does_not_fit(change, facts):
    keys = recipe("resnet18")
    keys["heads"][0].update(change)
    with pytest.raises(PlanError, match=facts):
        splitreg.plan(**keys)
