"""What writes sc2bench's layout: its own classes where it is installed, and always the same layers of compressai."""

import copy
from collections import OrderedDict

import pytest
import torch
from compressai.entropy_models import EntropyBottleneck
from compressai.layers import GDN1 as PeerGDN1
from torch import nn
from torchvision.models import resnet18
from torchvision.models.detection import FasterRCNN
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

SIZE = 64
KEYS = {"backbone": "resnet18", "input": {"size": [SIZE, SIZE], "mode": "resize"}}
WIDTHS = {"layer2": 128, "layer3": 256, "layer4": 512}


class Bottleneck(nn.Module):
    """The attribute names and layers of sc2bench's FPBasedResNetBottleneck, 4 channels before 64."""

    def __init__(self):
        super().__init__()
        self.entropy_bottleneck = EntropyBottleneck(4)
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 16, 5, 2, 2, bias=False), PeerGDN1(16), nn.Conv2d(16, 8, 5, 2, 2, bias=False), PeerGDN1(8),
            nn.Conv2d(8, 4, 2, bias=False),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(4, 128, 2, padding=1, bias=False), PeerGDN1(128, inverse=True), nn.Conv2d(128, 64, 2, bias=False),
            PeerGDN1(64, inverse=True), nn.Conv2d(64, 64, 2, padding=1, bias=False),
        )  # fmt: skip

    def update(self):
        self.entropy_bottleneck.update(force=True)


class Classifier(nn.Module):
    """The attribute names of sc2bench's SplittableResNet."""

    def __init__(self, bottleneck, resnet):
        super().__init__()
        self.bottleneck_layer = bottleneck
        self.layer2, self.layer3, self.layer4 = resnet.layer2, resnet.layer3, resnet.layer4
        self.avgpool, self.fc = resnet.avgpool, resnet.fc


class Body(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.bottleneck_layer = model.bottleneck_layer
        self.layer2, self.layer3, self.layer4 = model.layer2, model.layer3, model.layer4


class Pyramid(nn.Module):
    """The attribute names of torchvision's BackboneWithFPN."""

    out_channels = 256

    def __init__(self, body, fpn):
        super().__init__()
        self.body, self.fpn = body, fpn


def features(model, latent):
    found = [model.bottleneck_layer.decoder(latent)]
    for layer in (model.layer2, model.layer3, model.layer4):
        found.append(layer(found[-1]))
    return OrderedDict(zip("1234", found, strict=True))


def make(kind):
    """A classifier of 5 classes with statistics, quantiles, GDN unlike the initial ones; by compressai or sc2bench."""
    torch.manual_seed(0)
    if kind == "sc2bench":
        backbones = pytest.importorskip("sc2bench.models.backbone", reason="sc2bench is not installed (the extra test)")
        layer = {"key": "FPBasedResNetBottleneck", "kwargs": {"num_bottleneck_channels": 4, "num_target_channels": 64}}
        model = backbones.splittable_resnet(layer, "resnet18", skips_avgpool=False, skips_fc=False, num_classes=5)
    else:
        model = Classifier(Bottleneck(), resnet18(num_classes=5))
    return stir(model)


def stir(model):
    with torch.no_grad():
        for name, value in model.state_dict(keep_vars=True).items():
            if name.endswith(("gamma", "beta", "quantiles")):  # also below their least values
                value.add_(0.05 * torch.randn_like(value))
            elif name.endswith(("running_mean", "bn1.bias")):
                value.add_(0.1 * torch.randn_like(value))
            elif "bottleneck_layer" in name and name.endswith("weight"):
                value.mul_(2)
    return model.eval()


def detector(kind, classifier):
    torch.manual_seed(1)
    sizes = {"num_classes": 4, "min_size": SIZE, "max_size": SIZE, "box_score_thresh": 0.2}
    if kind == "sc2bench":
        rcnn = pytest.importorskip("sc2bench.models.detection.rcnn")
        layers = dict(zip(("bottleneck_layer", *WIDTHS), "1234", strict=True))
        model = rcnn.create_faster_rcnn_fpn(
            copy.deepcopy(classifier), return_layer_dict=layers, in_channels_list=[64, *WIDTHS.values()],
            analyzable_layer_key="bottleneck_layer", **sizes,
        )  # fmt: skip
    else:
        fpn = FeaturePyramidNetwork([64, *WIDTHS.values()], 256, LastLevelMaxPool())
        model = FasterRCNN(Pyramid(Body(copy.deepcopy(classifier)), fpn), **sizes)
    with torch.no_grad():  # boxes of every size, so that every level is read
        model.rpn.head.bbox_pred.weight.mul_(30)
        model.roi_heads.box_predictor.cls_score.weight.mul_(3)
    return model.eval()


def segmenter(kind, classifier):
    torch.manual_seed(2)
    classifier = copy.deepcopy(classifier)
    if kind == "sc2bench":
        deeplab = pytest.importorskip("sc2bench.models.segmentation.deeplabv3")
        body = deeplab.FeatureExtractionBackbone(classifier, {"layer3": "aux", "layer4": "out"}, [])
        return deeplab.create_deeplabv3(body, 512, True, 256, 3).eval()
    model = nn.Module()
    model.backbone, model.classifier, model.aux_classifier = Body(classifier), DeepLabHead(512, 3), FCNHead(256, 3)
    return model.eval()


def write(path, model, **others):
    torch.save({"model": model.state_dict(), "optimizer": {"state": {}}, **others}, path)
    return path
