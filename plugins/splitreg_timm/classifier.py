"""Head ``cls-timm``: the classifier of a timm model, with its pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from splitreg_heads.bases import ClassificationHead
from torch import Tensor
from torch.nn import functional

from splitreg.errors import RecipeError
from splitreg.specs import FeatureSpec
from splitreg_timm import graphs, loading
from splitreg_timm.backbone import trace_model


class TimmClassifier(ClassificationHead):
    """The layers of a timm model between its last feature map and its logits.

    With the same model as backbone and bottleneck ``raw``, the split model returns the logits of timm's
    model: a trained classifier is split without any training.

    Args:
        features: the deepest stride; channels as in the last feature map of ``model``.
        labels: K class names, in the order of the model's classes.
        model: timm's name of the model.
        pretrained: True: download timm's weights; a path: read a safetensors or PyTorch file; False:
            random weights.

    Raises:
        UnknownComponent: timm has no such model.
        RecipeError: the feature or the number of classes is another one, or the classifier reads more
            than the last feature map.
        MissingExtra: the weights cannot be downloaded.
        BundleError: the file does not have the weights of this model.
    """

    def __init__(
        self,
        features: Mapping[int, FeatureSpec],
        labels: tuple[str, ...],
        *,
        model: str | None = None,
        pretrained: bool | str = False,
    ) -> None:
        super().__init__()
        if model is None:
            raise RecipeError("head cls-timm needs the option model, usually the name of the backbone")
        self.labels = tuple(labels)
        self.needs = (max(features),)
        traced = trace_model(model, (224, 224), classifier=True)
        last = list(traced.stages.values())[-1]
        given = features[self.needs[0]]
        if last.tap is None or graphs.upstream(traced.logits, last.output) is None:
            raise RecipeError(f"the classifier of timm's {model} needs more than its last feature map; use head cls")
        if last.spec.channels != given.channels:
            raise RecipeError(
                f"the classifier of timm's {model} reads {last.spec.channels} channels, the deepest feature has "
                f"{given.channels}; set model to the name of the backbone"
            )
        classes = int(traced.logits[0].meta["val"].shape[1])
        if classes != len(self.labels):
            raise RecipeError(
                f"timm's {model} has {classes} classes, and there are {len(self.labels)} labels; leave labels out, or "
                "use head cls for other classes"
            )
        on_meta = torch.get_default_device().type == "meta"
        source = traced.meta.model if on_meta else loading.build_weighted(traced.meta, pretrained)
        self.net = graphs.extract(source, last.output, traced.logits)

    @classmethod
    def select(cls, available: Sequence[int]) -> tuple[int, ...]:
        """Read the deepest feature."""
        return (max(available),)

    def forward(self, features: dict[int, Tensor], image_size: tuple[int, int]) -> Tensor:
        """Return (B, K) logits."""
        (logits,) = self.net(features[self.needs[0]])
        return logits.float()  # type: ignore[no-any-return]

    def loss(self, output: Tensor, targets: Sequence[Any]) -> dict[str, Tensor]:
        """Return the cross-entropy as ``ce``."""
        index = torch.tensor([target.index for target in targets], device=output.device)
        return {"ce": functional.cross_entropy(output, index)}
