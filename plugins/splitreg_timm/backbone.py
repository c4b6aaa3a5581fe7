"""Backbones: any timm model that returns feature maps, cut after any of its stages."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from splitreg.errors import BrokenComponent, RecipeError, suggest
from splitreg.interfaces import Backbone, Body
from splitreg_timm import graphs, loading, stages, tracing
from splitreg_timm.stages import CutStage
from splitreg_timm.token_layout import TokenLayout


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedModel:
    """What is known of a model without its weights.

    Args:
        meta: the model on the meta device.
        stages: where it can be cut, in order.
        refused: feature map that is no stage -> the reason.
        logits: the node of the classifier's output, if the model has one.
    """

    meta: loading.MetaModel
    stages: Mapping[str, CutStage]
    refused: Mapping[str, str]
    logits: Sequence[fx.Node]


@functools.lru_cache(maxsize=8)
def trace_model(
    name: str, image_size: tuple[int, int], norm: bool = False, drop_path_rate: float = 0.0, classifier: bool = False
) -> TracedModel:
    """Trace a model and find its stages; cached, because a plan and the model built from it need the same."""
    meta = loading.build_meta(name, image_size, drop_path_rate, classifier=classifier)
    try:
        _, taps = tracing.trace(meta.model, meta.size, norm=norm, classifier=classifier)
    except Exception as cause:  # whatever a model may raise
        raise RecipeError(
            f"timm's {name} does not run on {image_size[1]}x{image_size[0]} pixels, or cannot be traced: "
            f"{loading.first_line(cause)}; its own size is {meta.own_size}"
        ) from cause
    logits = [taps.pop()] if classifier else []
    cuts, refused = stages.find(meta.model, taps, meta.info, image_size)
    if not cuts:
        reasons = "; ".join(sorted(set(refused.values())))
        raise BrokenComponent(f"timm's {name} has no feature map after which it can be cut: {reasons}")
    return TracedModel(meta=meta, stages=cuts, refused=refused, logits=logits)


class TimmBackbone(Backbone):
    """A timm model without its classifier.

    Args:
        name: timm's name, with or without a weight tag: ``"resnet50"``, ``"resnet50.a1_in1k"``.
        pretrained: True: download timm's weights; or the place of a safetensors or PyTorch file: a path, or
            ``hf:ORG/NAME[/FILE][@REVISION]``.
        image_size: (H, W) of the input. Convolutional models also run on other sizes.
        norm: apply the last norm of the model to its features; plain transformers have one.
        drop_path_rate: stochastic depth in training, 0 to below 1.
        classifier: keep the classifier of the model; ``teach`` returns its logits.

    Raises:
        UnknownComponent: timm has no such model.
        RecipeError: the model does not accept an option or the size.
        BrokenComponent: the model has no feature map after which it can be cut.
        MissingExtra: the weights cannot be downloaded.
        BundleError: the file does not have the weights of this model.

    If patches are not a power of two wide (14 pixels), the image is resized so that feature maps have the
    stride of the nearest power of two (16). For a plain transformer it is resized to whole patches. Class
    and register tokens are sent in additional channels, see ``splitreg_timm.token_layout``.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str = False,
        image_size: tuple[int, int] = (224, 224),
        norm: bool = False,
        drop_path_rate: float = 0.0,
        classifier: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        size = (image_size[0], image_size[1])
        traced = trace_model(name, size, norm, drop_path_rate, classifier)
        self.mean, self.std = traced.meta.mean, traced.meta.std
        self._resize = _Resize(size, traced.meta.size) if traced.meta.size != size else nn.Identity()
        self._stages, self.refused = traced.stages, traced.refused
        self.stages = {key: stage.spec for key, stage in self._stages.items()}
        on_meta = torch.get_default_device().type == "meta"
        model = copy.deepcopy(traced.meta.model) if on_meta else loading.build_weighted(traced.meta, pretrained)
        exits = _last_of_each_stride(self._stages.values())
        self._exits = _packing(exits)
        self.net = graphs.extract(model, None, [*(stage.output for stage in exits.values()), *traced.logits])

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """(B, 3, H, W) normalised -> stride -> (B, C, H/s, W/s), the last stage of each stride."""
        return self.teach(image)[0]

    def teach(self, image: Tensor) -> tuple[dict[int, Tensor], Tensor | None]:
        """Return the features of ``forward``, and the (B, K) logits if it has a classifier."""
        values = self.net(self._resize(image))
        maps = values[: len(self._exits)]
        return _features(self._exits, maps), values[-1] if len(values) > len(maps) else None

    def split(self, cut: str) -> tuple[nn.Module, Body]:
        """Return the part up to the end of a stage and the part after it; both share the backbone's weights.

        Raises:
            RecipeError: there is no such stage, or the model cannot be cut after it.
        """
        if cut not in self._stages:
            why = f" ({self.refused[cut]})" if cut in self.refused else suggest(cut, self._stages)
            raise RecipeError(f"{self.name} cannot be cut after {cut!r}{why}; choose from: {', '.join(self._stages)}")
        names = list(self._stages)
        later = [self._stages[name] for name in names[names.index(cut) :]]
        return _Prefix(self.net, later[0], self._resize), _TimmBody(self.net, later)


class _Resize(nn.Module):
    """Resize the image to the size of the model, see ``TimmBackbone``."""

    def __init__(self, source: tuple[int, int], target: tuple[int, int]) -> None:
        super().__init__()
        self.source, self.target = source, target

    def forward(self, image: Tensor) -> Tensor:
        if tuple(image.shape[-2:]) != self.source:
            raise ValueError(f"built for {self.source}, got {tuple(image.shape[-2:])} (height, width)")
        return functional.interpolate(image, size=self.target, mode="bilinear", align_corners=False)


class _Prefix(nn.Module):
    """Image -> feature at the cut."""

    def __init__(self, model: nn.Module, stage: CutStage, resize: nn.Module) -> None:
        super().__init__()
        self.net = graphs.extract(model, None, [stage.value])
        self._layout, self._resize = stage.layout, resize
        self.training = model.training

    def forward(self, image: Tensor) -> Tensor:
        (value,) = self.net(self._resize(image))
        return self._layout.pack(value)


class _TimmBody(Body):
    """Feature at the cut -> features by stride."""

    def __init__(self, model: nn.Module, later: Sequence[CutStage]) -> None:
        super().__init__()
        exits = _last_of_each_stride(later)
        self._layout, self._exits = later[0].layout, _packing(exits)
        self.net = graphs.extract(model, later[0].value, [stage.output for stage in exits.values()])
        self.training = model.training

    def forward(self, feature: Tensor) -> dict[int, Tensor]:
        return _features(self._exits, self.net(self._layout.unpack(feature)))


def _last_of_each_stride(cuts: Iterable[CutStage]) -> dict[int, CutStage]:
    return {stage.spec.stride: stage for stage in cuts}


def _packing(exits: Mapping[int, CutStage]) -> dict[int, TokenLayout | None]:
    """Stride -> layout of its value; None if the value is already a map."""
    return {stride: stage.layout if stage.tap is None else None for stride, stage in exits.items()}


def _features(exits: Mapping[int, TokenLayout | None], values: Sequence[Tensor]) -> dict[int, Tensor]:
    return {
        stride: value if layout is None else layout.pack(value)
        for (stride, layout), value in zip(exits.items(), values, strict=True)
    }
