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
from splitreg.tasks import IGNORE, MaskTarget, Sample, Target

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


def border_value(target: Target, field: dataclasses.Field[Any], value: tv_tensors.TVTensor) -> float:
    """Return the value for unknown pixels in the border of a target's tensor; see ``splitreg.data.transforms``."""
    if "fill" in field.metadata:
        return float(field.metadata["fill"])
    if isinstance(value, tv_tensors.Image):
        return FILL
    return IGNORE if isinstance(target, MaskTarget) else 0


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
    if "fill" in parameters:
        table["fill"] = {tv_tensors.Image: table.get("fill", FILL), "others": 0}
    try:
        transform: v2.Transform = cls(**table)
        _try(transform)
    except (TypeError, ValueError, RuntimeError, AssertionError) as cause:
        raise RecipeError(f"{where}: {name}: {cause}") from cause
    return transform


def _try(transform: v2.Transform) -> None:
    """Apply a transform some times, because some options are checked only then."""
    size = 64
    image = tv_tensors.Image(torch.zeros((3, size, size), dtype=torch.uint8))
    box = tv_tensors.BoundingBoxes(torch.tensor([[16.0, 16.0, 48.0, 48.0]]), format="XYXY", canvas_size=(size, size))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(8):  # most are applied with a probability
            transform(image, box)


def _applied(transform: v2.Transform, sample: Sample) -> Sample:
    """Apply a transform to the image and to all tensors of the targets at once."""
    places = [
        (name, field.name, value, border_value(cast("Target", target), field, value))
        for name, target in sample.targets.items()
        if target is not None and dataclasses.is_dataclass(target)
        for field in dataclasses.fields(cast("Any", target))
        if isinstance(value := getattr(target, field.name), tv_tensors.TVTensor)
    ]
    boxes = any(isinstance(value, tv_tensors.BoundingBoxes) for _, _, value, _ in places)
    if isinstance(transform, v2.RandomIoUCrop) and not boxes:  # it chooses the part of the image by its boxes
        return sample
    image, *changed = transform(sample.image, *(_shifted(value, border) for _, _, value, border in places))
    fields: dict[str, dict[str, Any]] = {}
    for (name, field, before, border), after in zip(places, changed, strict=True):
        fields.setdefault(name, {})[field] = _restored(after, before, border)
    targets: dict[str, Target | None] = {
        name: dataclasses.replace(target, **fields[name]) if name in fields else target  # type: ignore[type-var]
        for name, target in sample.targets.items()
    }
    return dataclasses.replace(sample, image=_channels_last(image), targets=targets)


def _shifted(value: tv_tensors.TVTensor, border: float) -> tv_tensors.TVTensor:
    """Return a mask whose border value is 0, the same for every target, in a type whose border torchvision can fill."""
    if not isinstance(value, tv_tensors.Mask):
        return value
    plain = value.as_subclass(Tensor)
    if plain.is_floating_point():
        return tv_tensors.Mask(plain - border)
    return tv_tensors.Mask(plain.to(torch.int32) - int(border))


def _restored(after: tv_tensors.TVTensor, before: tv_tensors.TVTensor, border: float) -> Any:
    """Undo ``_shifted``."""
    if not isinstance(before, tv_tensors.Mask):
        return after
    plain = after.as_subclass(Tensor)
    return tv_tensors.Mask((plain + border if plain.is_floating_point() else plain + int(border)).to(before.dtype))


def _channels_last(image: tv_tensors.Image) -> tv_tensors.Image:
    """Return the image as a view of (H, W, 3) memory, as files are decoded."""
    pixels = image.as_subclass(Tensor).permute(1, 2, 0).contiguous()
    return tv_tensors.Image(pixels.permute(2, 0, 1))
