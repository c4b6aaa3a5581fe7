"""Backbones: any timm model that gives feature maps, cut after any of its stages."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from splitreg.errors import BrokenComponent, RecipeError, near
from splitreg.interfaces import Backbone, Body
from splitreg_timm import graphs, loading, stages, tracing
from splitreg_timm.crossing import Layout
from splitreg_timm.stages import Stage


class TimmBackbone(Backbone):
    """A timm model without its classifier.

    Args:
        name: timm's name, with or without a weight tag: ``"resnet50"``, ``"resnet50.a1_in1k"``.
        pretrained: True downloads timm's weights; a path reads them from a safetensors or PyTorch file.
        image_size: (H, W) of the input. Convolutional models run on other sizes as well.
        norm: apply the model's last norm to what it returns (plain transformers have one; timm leaves it out here).
        drop_path_rate: stochastic depth in training, 0 to below 1.

    Raises:
        UnknownComponent: timm has no such model.
        RecipeError: the model does not take an option or the size.
        BrokenComponent: the model gives no features that can be cut.
        MissingExtra: the weights cannot be downloaded.
        BundleError: the file of weights is not one of this model.

    A model whose patches are not a power of two wide (14 pixels) sees the image resized so that its feature maps have
    the stride of the nearest power of two (16). Class and register tokens cross a cut in additional channels, see
    ``splitreg_timm.crossing``.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str = False,
        image_size: tuple[int, int] = (224, 224),
        norm: bool = False,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        skeleton = loading.skeleton(name, image_size, drop_path_rate)
        self.mean, self.std = skeleton.mean, skeleton.std
        self._size = skeleton.size if skeleton.size != tuple(image_size) else None
        try:
            _, taps = tracing.trace(skeleton.model, skeleton.size, norm=norm)
        except Exception as cause:  # whatever a foreign model may raise
            raise RecipeError(
                f"timm's {name} does not run on {image_size[1]}x{image_size[0]} pixels, or cannot be traced: "
                f"{type(cause).__name__}: {cause}; its own size is {skeleton.own_size}"
            ) from cause
        self._stages, refused = stages.find(skeleton.model, taps, skeleton.info, image_size)
        if not self._stages:
            reasons = "; ".join(f"{key}: {why}" for key, why in refused.items())
            raise BrokenComponent(f"timm's {name} gives no feature map that can be cut: {reasons}")
        self.refused = MappingProxyType(refused)
        self.stages = MappingProxyType({key: stage.spec for key, stage in self._stages.items()})
        model = skeleton.model if torch.get_default_device().type == "meta" else loading.weighted(skeleton, pretrained)
        offered = _last_of_each_stride(list(self._stages.values()))
        self.net = _Piece(model, None, self._size, offered)

    def forward(self, image: Tensor) -> dict[int, Tensor]:
        """(B, 3, H, W) normalised -> stride -> (B, C, H/s, W/s), the last stage of each stride."""
        features: dict[int, Tensor] = self.net(image)
        return features

    def split(self, cut: str) -> tuple[nn.Module, Body]:
        """Return what runs up to the end of a stage and what runs after it; they share this backbone's weights.

        Raises:
            RecipeError: there is no such stage, or it cannot be cut after it.
        """
        if cut not in self._stages:
            why = f" ({self.refused[cut]})" if cut in self.refused else near(cut, self._stages)
            raise RecipeError(f"no stage {cut!r} to cut after.{why} There are: {', '.join(self._stages)}")
        stage = self._stages[cut]
        later = list(self._stages.values())[list(self._stages).index(cut) :]
        return Prefix(), TimmBody()
