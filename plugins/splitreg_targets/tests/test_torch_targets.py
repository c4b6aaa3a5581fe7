"""Targets that convert the torch module; their converters are extras, so most tests are skipped without them."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from splitreg_targets.executorch_target import ExecutorchTarget
from splitreg_targets.litert_target import LitertTarget
from torch import nn

from splitreg.errors import BundleError, MissingExtra, RecipeError
from splitreg.publishing import edge_source

TARGETS = {"executorch": (ExecutorchTarget, "executorch"), "litert": (LitertTarget, "litert_torch")}


def installed(name):
    return importlib.util.find_spec(TARGETS[name][1]) is not None


@pytest.fixture(scope="module")
def source():
    import splitreg

    torch.manual_seed(0)
    model = splitreg.build(
        backbone="test_resnet", heads=[{"name": "cls", "labels": 3}], input={"size": [64, 64]},
        bottleneck={"name": "fp", "channels": 12, "hidden": 24, "decoder_hidden": 8, "from": "image"},
    )  # fmt: skip
    return edge_source(model)


class Inverse(nn.Module):
    """A module whose operator has no counterpart on phones."""

    def forward(self, image):
        return image + torch.linalg.eigvals(image[..., :4, :4]).real.sum()


@pytest.mark.parametrize("name", TARGETS)
def test_a_missing_converter_names_the_extra(name, source):
    if installed(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(MissingExtra, match=rf"splitreg\[{name}\]"):
        TARGETS[name][0]().export(source)
    with pytest.raises(MissingExtra, match=rf"splitreg\[{name}\]"):
        TARGETS[name][0]().open({"edge.pte": b"", "edge.tflite": b""}, source)


@pytest.mark.parametrize("name", TARGETS)
def test_what_cannot_be_converted_is_named(name, source):
    if not installed(name):
        pytest.skip(f"{name} is not installed")
    with pytest.raises(BundleError, match="linalg_eig"):
        TARGETS[name][0]().export(replace(source, module=Inverse))
    with pytest.raises(BundleError, match="splitreg publish"):
        TARGETS[name][0]().export(replace(source, module=None))
    with pytest.raises(BundleError, match=name):
        TARGETS[name][0]().open({"edge.pte": b"damaged", "edge.tflite": b"damaged"}, source)


def test_backends_of_executorch(source):
    with pytest.raises(RecipeError, match="portable"):
        ExecutorchTarget(backend="gpu")
    if installed("executorch"):
        portable = ExecutorchTarget(backend="portable", size=(32, 48)).export(source)
        assert portable.report["backend"] == "portable" and portable.report["bytes"] == len(portable.files["edge.pte"])
