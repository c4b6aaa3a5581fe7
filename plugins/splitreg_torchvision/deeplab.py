"""Head ``seg-deeplabv3``: torchvision's DeepLabV3 classifier on the deepest feature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from splitreg_heads.bases import MaskHead, check_labels, pixel_cross_entropy, stack_masks
from splitreg_heads.pyramid import StridedMap
from torch import Tensor
from torchvision.models.segmentation import deeplabv3, fcn

from splitreg.errors import RecipeError
from splitreg.specs import FeatureSpec
from splitreg.tasks import IGNORE, Prediction
from splitreg_torchvision.weights import copy_into, read_part


@dataclass(frozen=True, slots=True)
class DeepLabOutput:
    """(B, K, h, w) logits of the classifier, and in training those of the auxiliary head."""

    logits: StridedMap
    auxiliary: StridedMap | None


class DeepLabHead(MaskHead):
    """Atrous pyramid on the deepest feature, with an auxiliary FCN head in training.

    Training needs batches of two or more images with a target: the pooled branch has one value per
    image, and batch normalisation needs two.

    Args:
        features: the deepest stride, and the next finer one for the auxiliary head.
        labels: K class names, at most 255.
        rates: dilation rates in cells of the deepest feature; choose smaller ones for small images.
        auxiliary: weight of the auxiliary loss; 0: no auxiliary head.
        pretrained: place of a checkpoint of torchvision's DeepLabV3, such as
            ``torchvision:deeplabv3_resnet50``. Its auxiliary head is used only if it fits.

    Raises:
        RecipeError: an option is out of range, or there are no labels.
        BundleError: the checkpoint does not have the weights of this head.
    """

    def __init__(
        self,
        features: Mapping[int, FeatureSpec],
        labels: tuple[str, ...],
        *,
        rates: tuple[int, ...] = (12, 24, 36),
        auxiliary: float = 0.5,
        pretrained: str = "",
    ) -> None:
        super().__init__()
        self.labels = check_labels("seg-deeplabv3", labels, IGNORE)
        if not rates or min(rates) < 1 or auxiliary < 0:
            raise RecipeError(f"rates must be positive, auxiliary 0 or more; got {rates}, {auxiliary}")
        self.needs = tuple(sorted(features))
        self.weight = auxiliary
        self.classify = deeplabv3.DeepLabHead(features[self.needs[-1]].channels, len(labels), tuple(rates))
        self.assist = fcn.FCNHead(features[self.needs[0]].channels, len(labels)) if auxiliary else None
        if pretrained and torch.get_default_device().type != "meta":
            tensors = read_part(pretrained, "segmenter")
            copy_into(self.classify, _under(tensors, "classify."), f"{pretrained}, as head seg-deeplabv3")
            own, aux = {} if self.assist is None else self.assist.state_dict(), _under(tensors, "assist.")
            if self.assist is not None and all(key in aux and aux[key].shape == own[key].shape for key in own):
                copy_into(self.assist, aux, f"{pretrained}, as head seg-deeplabv3")

    @classmethod
    def select(cls, available: Sequence[int]) -> tuple[int, ...]:
        """Read the deepest feature up to stride 32 and the next finer one."""
        return tuple(sorted(s for s in available if s <= 32)[-2:]) or (min(available),)

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> DeepLabOutput:
        """Return logits at the deepest stride."""
        fine, deep = self.needs[0], self.needs[-1]
        auxiliary = None
        if self.assist is not None and self.training:
            auxiliary = StridedMap(self.assist(features[fine]).float(), fine, image_size)
        return DeepLabOutput(StridedMap(self._classify(features[deep]), deep, image_size), auxiliary)

    def loss(self, output: DeepLabOutput, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return ``ce``, and ``auxiliary`` in training: means over known pixels."""
        mask = stack_masks(targets, output.logits.values.device)
        parts = {"ce": pixel_cross_entropy(output.logits.full(), mask)}
        if output.auxiliary is not None:
            parts["auxiliary"] = self.weight * pixel_cross_entropy(output.auxiliary.full(), mask)
        return parts

    def distillation_output(self, output: DeepLabOutput) -> Tensor:
        """Return the (B, K, h, w) logits at the deepest stride."""
        return output.logits.values

    def predict(self, output: DeepLabOutput) -> list[Prediction]:
        """Return the most probable class of each pixel."""
        return self.classes(output.logits)

    def _classify(self, feature: Tensor) -> Tensor:
        if self.training and len(feature) == 1:
            # batch normalisation rejects a single value; with two equal ones the pooled branch is constant
            return self.classify(feature.repeat(2, 1, 1, 1))[:1].float()  # type: ignore[no-any-return]
        return self.classify(feature).float()  # type: ignore[no-any-return]


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
