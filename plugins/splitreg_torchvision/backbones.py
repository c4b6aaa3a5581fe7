"""Backbones ``tv_resnet50`` and the like: torchvision's own ResNets and MobileNets, under torchvision's names."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.ops.misc import FrozenBatchNorm2d

from splitreg.errors import MissingExtra, RecipeError, UnknownComponent, suggest
from splitreg.interfaces import Backbone, Body
from splitreg.specs import FeatureSpec
from splitreg_torchvision.members import names
from splitreg_torchvision.weights import copy_into, read_part


class TorchvisionBackbone(Backbone):
    """A ResNet or MobileNetV3 of torchvision without its classifier.

    Stages of a ResNet are ``relu`` (stride 2) and ``layer1`` to ``layer4``; those of a MobileNet are its
    blocks, by number.

    Args:
        name: ``tv_`` and torchvision's name, such as ``tv_resnet50``.
        pretrained: True: download torchvision's ImageNet weights; or the place of a checkpoint of a
            torchvision classifier, detector or segmenter with this backbone: a file,
            ``torchvision:fasterrcnn_resnet50_fpn``, ``hf:ORG/NAME``.
        dilated: dilation in place of the last strides, as in torchvision's DeepLabV3.
        frozen_norm: batch normalisation with constant statistics, as in torchvision's detectors.
        norm_eps: added to the variance; by default torchvision's. Its first detectors on COCO have 0.

    Raises:
        UnknownComponent: there is no such backbone.
        RecipeError: the model cannot be dilated.
        MissingExtra: the weights cannot be downloaded.
        BundleError: the checkpoint does not have the weights of this backbone.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str = False,
        dilated: bool = False,
        frozen_norm: bool = False,
        norm_eps: float | None = None,
    ) -> None:
        super().__init__()
        if name not in names():
            raise UnknownComponent(f"no backbone {name!r} of torchvision.{suggest(name, names())}")
        self.name = name
        options = _options(name, dilated, frozen_norm, norm_eps)
        model = _build(name, options, published=pretrained is True)
        layers = model.features if hasattr(model, "features") else model
        self.net = nn.Sequential(
            OrderedDict((key, layer) for key, layer in layers.named_children() if key not in ("avgpool", "fc"))
        )
        if isinstance(pretrained, str):
            copy_into(self.net, read_part(pretrained, "backbone"), f"{pretrained}, as backbone {name}")
        self.stages = _stages(name, dilated)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """(B, 3, H, W) normalised -> stride -> (B, C, H/s, W/s), the last stage of each stride."""
        return _run(self.net, self.stages, image)

    def split(self, cut: str) -> tuple[nn.Module, Body]:
        """Return the part up to the end of a stage and the part after it; both share the backbone's weights.

        Raises:
            RecipeError: there is no such stage.
        """
        if cut not in self.stages:
            raise RecipeError(
                f"{self.name} has no stage {cut!r}.{suggest(cut, self.stages)} Available: {', '.join(self.stages)}"
            )
        layers = list(self.net.named_children())
        at = [key for key, _ in layers].index(cut) + 1
        return _Prefix(layers[:at], self.training), _TorchvisionBody(layers[at:], cut, self.stages, self.training)


class _Prefix(nn.Module):
    """Image -> feature at the cut."""

    def __init__(self, layers: list[tuple[str, nn.Module]], training: bool) -> None:
        super().__init__()
        self.net = nn.Sequential(OrderedDict(layers))
        self.training = self.net.training = training

    def forward(self, image: Tensor) -> Tensor:
        feature: Tensor = self.net(image)
        return feature


class _TorchvisionBody(Body):
    """Feature at the cut -> features by stride."""

    def __init__(
        self, layers: list[tuple[str, nn.Module]], cut: str, stages: Mapping[str, FeatureSpec], training: bool
    ) -> None:
        super().__init__()
        self.net = nn.Sequential(OrderedDict(layers))
        self.training = self.net.training = training
        self._cut, self._stages = stages[cut].stride, stages

    def forward(self, feature: Tensor) -> dict[int, Tensor]:
        return {self._cut: feature, **_run(self.net, self._stages, feature)}


def _run(net: nn.Sequential, stages: Mapping[str, FeatureSpec], value: Tensor) -> dict[int, Tensor]:
    features = {}
    for key, layer in net.named_children():
        value = layer(value)
        if key in stages:
            features[stages[key].stride] = value
    return features


def _options(name: str, dilated: bool, frozen_norm: bool, norm_eps: float | None) -> dict[str, Any]:
    options: dict[str, Any] = {}
    mobile = name.startswith("tv_mobilenet")
    if dilated and name in ("tv_resnet18", "tv_resnet34"):
        raise RecipeError(f"torchvision's {name.removeprefix('tv_')} cannot be dilated; use tv_resnet50")
    if dilated:
        options.update({"dilated": True} if mobile else {"replace_stride_with_dilation": [False, True, True]})
    if frozen_norm or norm_eps is not None:
        layer: Any = FrozenBatchNorm2d if frozen_norm else nn.BatchNorm2d
        eps = norm_eps if norm_eps is not None else (1e-3 if mobile else 1e-5)
        extra = {"momentum": 0.01} if mobile and not frozen_norm else {}
        options["norm_layer"] = functools.partial(layer, eps=eps, **extra)
    return options


def _build(name: str, options: Mapping[str, Any], *, published: bool) -> Any:
    own = name.removeprefix("tv_")
    if not published or torch.get_default_device().type == "meta":
        return models.get_model(own, weights=None, **options)
    try:
        return models.get_model(own, weights="DEFAULT", **options)
    except Exception as cause:  # of urllib, of the operating system
        reason = next(iter(str(cause).splitlines()), type(cause).__name__)
        raise MissingExtra(
            f"no pretrained weights for torchvision's {own}: {reason}; without a network, set a file: pretrained = 'w.pth'"
        ) from cause


@functools.lru_cache(maxsize=16)
def _stages(name: str, dilated: bool) -> dict[str, FeatureSpec]:
    """Return the stages, from a run on the meta device."""
    with torch.device("meta"), torch.no_grad():
        model = _build(name, _options(name, dilated, False, None), published=False).eval()
        mobile = hasattr(model, "features")
        value, stages = torch.empty(1, 3, 256, 256), {}
        for key, layer in (model.features if mobile else model).named_children():
            if key in ("avgpool", "fc"):
                break
            value = layer(value)
            if mobile or key == "relu" or key.startswith("layer"):
                stages[key] = FeatureSpec(channels=value.shape[1], stride=256 // value.shape[2])
    return stages
