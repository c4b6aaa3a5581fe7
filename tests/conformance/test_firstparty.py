"""The conformance suites, on every first-party plugin."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torchvision import tv_tensors

from splitreg.registry import discover
from splitreg.specs import FeatureSpec
from splitreg.tasks import DETECTION, ClassTarget, PoseTarget
from splitreg.testing import (
    BackboneSuite,
    BottleneckSuite,
    CodecSuite,
    DatasetSuite,
    HeadSuite,
    ObjectiveSuite,
    TargetSuite,
)
from splitreg.testing.targets import some_target

pytestmark = pytest.mark.integration

FEATURE = FeatureSpec(channels=12, stride=4)
SMALL = {"channels": 4, "hidden": 8, "decoder_hidden": 8}
HYPER = {**SMALL, "hyper_channels": 3, "hyper_hidden": 8}


def with_masks(size, seed):
    """Objects with masks that fill half of their boxes."""
    target = some_target(DETECTION, 3, size, seed)
    masks = torch.zeros(len(target.labels), *size, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, target.boxes.int().tolist(), strict=True):
        mask[y0:y1, x0 : (x0 + x1) // 2] = True
    return dataclasses.replace(target, masks=tv_tensors.Mask(masks))


def with_points(size, seed, objects=2):
    """Objects with COCO's keypoints on a diagonal of their boxes; the last one is not known."""
    target = some_target(DETECTION, 3, size, seed)
    boxes = target.boxes.as_subclass(torch.Tensor)[:objects]
    steps = torch.linspace(0.1, 0.9, 17)[None, :, None]
    points = boxes[:, None, :2] + steps * (boxes[:, None, 2:] - boxes[:, None, :2])
    visible = torch.ones(objects, 17, dtype=torch.bool)
    visible[:, -1] = False
    return PoseTarget(
        boxes=tv_tensors.wrap(boxes, like=target.boxes), labels=target.labels[:objects], crowd=target.crowd[:objects],
        points=tv_tensors.KeyPoints(points, canvas_size=size), visible=visible,
    )  # fmt: skip


#: Name of the test class -> suite, plugin, and what differs from the suite's attributes.
ROOT = Path(__file__).parents[2]
CASES = {
    "Rans": (CodecSuite, "rans", {}),
    "RansWithoutAdaptation": (CodecSuite, "rans", {"options": {"adapt": False}}),
    "RansInNumpy": (CodecSuite, "rans", {"options": {"kernel": "numpy"}}),
    "Compressai": (CodecSuite, "compressai", {}),
    "Zstd": (CodecSuite, "zstd", {"options": {"level": 3}}),
    "RawCodec": (CodecSuite, "raw", {}),
    "Png": (CodecSuite, "png", {"options": {"level": 1}}),
    "Jpeg": (CodecSuite, "jpeg", {}),
    "Webp": (CodecSuite, "webp", {"options": {"effort": 0}}),
    "LossyWebp": (CodecSuite, "webp", {"options": {"effort": 0, "quality": 80}}),
    "FactorizedPrior": (BottleneckSuite, "fp", {"options": SMALL}),
    "LightFactorizedPrior": (BottleneckSuite, "fp", {"options": {**SMALL, "encoder": "light"}}),
    "FactorizedPriorOnFeatures": (BottleneckSuite, "fp", {"options": SMALL, "source": FEATURE}),
    "VariableFactorizedPrior": (BottleneckSuite, "fp", {"options": {**SMALL, "rates": 5}}),
    "ScaleHyperprior": (BottleneckSuite, "shp", {"options": HYPER}),
    "MeanScaleHyperprior": (BottleneckSuite, "mshp", {"options": {**HYPER, "encoder": "light"}}),
    "MeanScaleHyperpriorOnFeatures": (BottleneckSuite, "mshp", {"options": HYPER, "source": FEATURE}),
    "VariableHyperprior": (BottleneckSuite, "mshp", {"options": {**HYPER, "rates": 3}}),
    "Quantise": (BottleneckSuite, "quantise", {"options": {"bits": 6}}),
    "QuantiseLearnedSteps": (BottleneckSuite, "quantise", {"options": {"learned_steps": True, "surrogate": "jpeg"}}),
    "QuantiseByChannel": (
        BottleneckSuite,
        "quantise",
        {"options": {"bits": 12, "per_channel": True, "percentile": 99.0, "surrogate": "ste"}},
    ),
    "Calibrated": (BottleneckSuite, "calibrated", {}),
    "RawBottleneck": (BottleneckSuite, "raw", {}),
    "ResNet": (BackboneSuite, "resnet18", {}),
    "MobileNet": (BackboneSuite, "timm:mobilenetv3_small_050", {}),
    "Cls": (HeadSuite, "cls", {}),
    "ClsTimm": (
        HeadSuite,
        "cls-timm",
        {"options": {"model": "test_resnet"}, "channels": 96, "labels": tuple(map(str, range(1000)))},
    ),
    "MultiLabel": (HeadSuite, "multilabel", {}),
    "Det": (HeadSuite, "det", {"options": {"width": 16}}),
    "Seg": (HeadSuite, "seg", {"options": {"width": 16}}),
    "Depth": (HeadSuite, "depth", {"options": {"width": 16}}),
    "Recon": (HeadSuite, "recon", {}),
    "FasterRCNN": (HeadSuite, "det-fasterrcnn", {"options": {"width": 16, "hidden": 32, "proposals": 50}}),
    "DeepLab": (HeadSuite, "seg-deeplabv3", {}),
    "MaskRCNN": (
        HeadSuite,
        "inst-maskrcnn",
        {
            "options": {"width": 16, "hidden": 32, "proposals": 50},
            "make_target": lambda self, seed: with_masks(self.size, seed),
        },
    ),
    "KeypointRCNN": (
        HeadSuite,
        "pose-keypointrcnn",
        {
            "options": {"width": 16, "hidden": 32, "layers": 16, "proposals": 50},
            "make_target": lambda self, seed: with_points(self.size, seed),
            "make_empty_target": lambda self: with_points(self.size, 0, objects=0),
        },
    ),
    "Embed": (HeadSuite, "embed", {"make_target": lambda self, seed: ClassTarget(index=1)}),
    "TorchvisionResNet": (BackboneSuite, "tv_resnet18", {}),
    "TorchvisionMobileNet": (BackboneSuite, "tv_mobilenet_v3_small", {}),
    "Sum": (ObjectiveSuite, "sum", {}),
    "Distill": (ObjectiveSuite, "distill", {"options": {"logits": {"cls": 0.5, "seg": 0.5}, "temperature": 2.0}}),
    "Uncertainty": (ObjectiveSuite, "uncertainty", {}),
    "Compressibility": (ObjectiveSuite, "compressibility", {}),
    "TiledCompressibility": (ObjectiveSuite, "compressibility", {"options": {"tiled": True}}),
    "CodeLength": (ObjectiveSuite, "code-length", {}),
    "Inversion": (ObjectiveSuite, "inversion", {}),
    "Surgery": (ObjectiveSuite, "surgery", {}),
    "SurgeryOnFeatures": (ObjectiveSuite, "surgery", {"options": {"method": "mgda", "by": "features"}}),
    "Onnx": (TargetSuite, "onnx", {}),
    "C": (TargetSuite, "c", {}),
    "Openvino": (TargetSuite, "openvino", {}),
    "Wasm": (TargetSuite, "wasm", {}),
    "Executorch": (TargetSuite, "executorch", {}),
    "Litert": (TargetSuite, "litert", {}),
    "Scenes": (DatasetSuite, "scenes", {"options": {"size": 32, "count": 6}}),
    "ScenesVideo": (DatasetSuite, "scenes", {"options": {"mode": "video", "size": 32, "count": 70}}),
}
#: Package of the datasets that need files: its own tests have the files and run the suite on each.
WITH_FILES = "splitreg_datasets"

for _name, (_suite, _component, _attributes) in CASES.items():
    _attributes = {"component": _component, "__module__": __name__, **_attributes}
    globals()[f"Test{_name}"] = type(f"Test{_name}", (_suite,), _attributes)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPLITREG_CACHE", str(tmp_path))


def test_every_first_party_plugin_is_checked():
    registry = discover()
    checked = {registry.resolve(suite.kind, component)[0].key for suite, component, _ in CASES.values()}
    installed = [entry for names in registry.values() for entry in names.values() if entry.package == "splitreg"]
    with_files = {entry.name for entry in installed if entry.module.startswith(WITH_FILES)}
    tests = "".join(path.read_text() for path in (ROOT / "plugins" / WITH_FILES / "tests").glob("test_*.py"))
    assert {name for name in with_files if f'"{name}"' not in tests} == set()
    assert {f"{entry.kind}:{entry.name}" for entry in installed if entry.name not in with_files} <= checked
