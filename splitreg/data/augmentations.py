"""Augmentations of torchvision by name, for a sample with all its targets, and presets."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from splitreg.errors import RecipeError
from splitreg.imaging import FILL
from splitreg.parsing import check_name, check_options, listed, named
from splitreg.tasks import IGNORE, Sample, Target

#: Transforms of ``torchvision.transforms.v2`` that keep uint8 images and move boxes and masks with them.
NAMES = (
    "ColorJitter", "ElasticTransform", "GaussianBlur", "RandomAdjustSharpness", "RandomAffine",
    "RandomAutocontrast", "RandomChannelPermutation", "RandomEqualize", "RandomGrayscale", "RandomHorizontalFlip",
    "RandomInvert", "RandomIoUCrop", "RandomPerspective", "RandomPhotometricDistort", "RandomPosterize",
    "RandomResizedCrop", "RandomRotation", "RandomSolarize", "RandomVerticalFlip", "RandomZoomOut",
)  # fmt: skip

#: Preset -> values of the keys of ``augment`` that the recipe does not set.
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "none": {"flip": 0.0, "scale": (1.0, 1.0), "colour": 0.0, "hue": 0.0},
    "light": {"flip": 0.5, "scale": (0.8, 1.25), "colour": 0.2, "hue": 0.0},
    "detection": {"flip": 0.5, "scale": (0.6, 1.8), "colour": 0.4, "hue": 0.02},
    "segmentation": {
        "flip": 0.5, "scale": (0.6, 2.0), "colour": 0.4, "hue": 0.05,
        "transforms": ({"name": "RandomGrayscale", "p": 0.05},),
    },
}  # fmt: skip


def with_preset(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of an augmentation with those of its preset where it sets none.

    >>> with_preset({"preset": "light", "hue": 0.1})
    {'flip': 0.5, 'scale': (0.8, 1.25), 'colour': 0.2, 'hue': 0.1}

    Raises:
        RecipeError: no such preset.
    """
    options = dict(options)
    preset = options.pop("preset", None)
    if preset is None:
        return options
    check_name(str(preset), PRESETS, "preset of augmentations")
    return {**PRESETS[str(preset)], **options}


class NamedTransforms:
    """Transforms of torchvision, by name.

    Args:
        items: names, or tables with ``name`` and the transform's options.

    Raises:
        RecipeError: no such transform, or an option that it lacks or refuses.
    """

    def __init__(self, items: Sequence[Any]) -> None:
        self.transforms = [_transform(item, f"augment: transforms[{i}]") for i, item in enumerate(listed(items))]

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample with its image and every target changed alike; draws from torch's generator."""
        for transform in self.transforms:
            sample = _applied(transform, sample)
        return sample


def _transform(item: Any, where: str) -> v2.Transform:
    table = named(item, where)
    name = table.pop("name")
    check_name(name, NAMES, "transform of torchvision for augment")
    cls = getattr(v2, name)
    parameters = list(inspect.signature(cls).parameters)
    check_options(table, parameters, f"transform {name!r}")
    if "fill" in parameters and "fill" not in table:
        table["fill"] = {tv_tensors.Image: FILL, tv_tensors.Mask: IGNORE, "others": 0}
    try:
        transform: v2.Transform = cls(**table)
    except (TypeError, ValueError) as cause:
        raise RecipeError(f"{where}: {name}: {cause}") from cause
    return transform


def _applied(transform: v2.Transform, sample: Sample) -> Sample:
    """Apply a transform to the image and to all tensors of the targets at once.

    Masks are uint8 on the way: torchvision cannot fill the border of boolean ones, in which ``IGNORE`` is no object.
    """
    places = [
        (name, field.name, value)
        for name, target in sample.targets.items()
        if target is not None and dataclasses.is_dataclass(target)
        for field in dataclasses.fields(cast("Any", target))
        if isinstance(value := getattr(target, field.name), tv_tensors.TVTensor)
    ]
    image, *changed = transform(sample.image, *(_plain(value) for _, _, value in places))
    fields: dict[str, dict[str, Any]] = {}
    for (name, field, before), after in zip(places, changed, strict=True):
        fields.setdefault(name, {})[field] = _like(after, before)
    targets: dict[str, Target | None] = {
        name: dataclasses.replace(target, **fields[name]) if name in fields else target  # type: ignore[type-var]
        for name, target in sample.targets.items()
    }
    return dataclasses.replace(sample, image=_channels_last(image), targets=targets)


def _plain(value: tv_tensors.TVTensor) -> tv_tensors.TVTensor:
    if isinstance(value, tv_tensors.Mask) and value.dtype == torch.bool:
        return tv_tensors.Mask(value.as_subclass(Tensor).to(torch.uint8))
    return value


def _like(after: tv_tensors.TVTensor, before: tv_tensors.TVTensor) -> Any:
    if isinstance(before, tv_tensors.Mask) and before.dtype == torch.bool:
        return tv_tensors.Mask(after.as_subclass(Tensor) == 1)
    return after


def _channels_last(image: tv_tensors.Image) -> tv_tensors.Image:
    """Return the image as a view of (H, W, 3) memory, as files are decoded."""
    pixels = image.as_subclass(Tensor).permute(1, 2, 0).contiguous()
    return tv_tensors.Image(pixels.permute(2, 0, 1))
