"""Changes of whole samples: the picture and every target that moves with it.

A target is a dataclass; its fields that are tv_tensors move with the picture, by torchvision's own functions where they
are known there, whatever plugin the target comes from. A mask's border is filled with the value in the field's
metadata (``field(metadata={"fill": 255})``), ``IGNORE`` for ``MaskTarget``, otherwise 0.

Sizes are (height, width).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from splitreg import imaging
from splitreg.data.compressed import compress
from splitreg.imaging import FILL, Geometry, Preprocess
from splitreg.tasks import IGNORE, BoxTarget, MaskTarget, Sample, Target

__all__ = ["Augment", "FitInput", "map_tensors"]


def map_tensors(target: Target, change: Callable[[tv_tensors.TVTensor, float], Any]) -> Target:
    """Return the target with ``change(tensor, fill)`` in place of each of its tv_tensors.

    Args:
        target: a dataclass.
        change: gets the tensor, and the value that stands for "unknown" in its borders.
    """
    if not dataclasses.is_dataclass(target):
        return target
    changed: dict[str, Any] = {}
    for field in dataclasses.fields(target):
        value = getattr(target, field.name)
        if isinstance(value, tv_tensors.TVTensor):
            changed[field.name] = change(value, _fill(target, field, value))
    return dataclasses.replace(target, **changed) if changed else target


class FitInput:
    """Bring a sample to the network's input size: exactly the pixels and the geometry of ``imaging.prepare``."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def geometry(self, sample: Sample) -> Geometry:
        """Return where the sample's picture lies in the input."""
        height, width = sample.image.shape[-2:]
        return Geometry(original=(height, width), coded=self.preprocess.size, mode=self.preprocess.mode)

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample at the input's size."""
        geometry = self.geometry(sample)

        def fit(tensor: tv_tensors.TVTensor, fill: float) -> Any:
            return _fit(tensor, geometry, fill)

        return _changed(sample, fit, smallest=0.0)


class Augment:
    """Random changes for training, each of which can be left out.

    They draw from torch's CPU generator; ``splitreg.data.loading`` seeds it anew for every sample.

    Args:
        flip: probability of a left-right flip; 0 where labels tell left from right.
        scale: smallest and largest zoom. Above 1 a window of 1/zoom of each side is cut out anywhere; below 1 the
            picture shrinks inside a grey frame. (1, 1): none.
        colour: brightness, contrast and saturation change by a factor within 1 - colour to 1 + colour; 0: none.
        hue: the hue turns by at most this part of the circle; 0: none.
        webp: lowest and highest quality, 1 to 100, of the lossy WebP that the network sees at its input's size, for a
            receiver of compressed pictures; (): none.

    Raises:
        ValueError: an option outside its range.
    """

    def __init__(
        self, *, flip: float = 0.5, scale: tuple[float, float] = (0.8, 1.4), colour: float = 0.2, hue: float = 0.0,
        webp: Sequence[int] = (),
    ) -> None:  # fmt: skip
        low, high = scale
        if not 0 <= flip <= 1:
            raise ValueError(f"flip is a probability, 0 to 1; got {flip}")
        if not 0.1 <= low <= high <= 10:
            raise ValueError(f"scale is (smallest, largest), within 0.1 to 10; got {tuple(scale)}")
        if not 0 <= colour <= 1 or not 0 <= hue <= 0.5:
            raise ValueError(f"colour is 0 to 1 and hue 0 to 0.5; got {colour} and {hue}")
        whole = isinstance(webp, Sequence) and all(type(quality) is int for quality in webp)
        if not whole or (webp and not (len(webp) == 2 and 1 <= webp[0] <= webp[1] <= 100)):
            raise ValueError(f"webp is (lowest, highest) quality, whole numbers within 1 to 100; got {webp!r}")
        self.flip, self.scale, self.webp = flip, (low, high), tuple(webp)
        jitter = v2.ColorJitter(brightness=colour, contrast=colour, saturation=colour, hue=hue)
        self.jitter = jitter if colour or hue else None

    def __call__(self, sample: Sample) -> Sample:
        """Return a changed sample; its picture may have another size."""
        if torch.rand(()) < self.flip:
            sample = _changed(sample, lambda tensor, fill: F.horizontal_flip(tensor), smallest=0.0)
        if self.scale != (1, 1):
            low, high = np.log(self.scale)
            sample = _zoomed(sample, float(np.exp(low + (high - low) * float(torch.rand(())))))
        if self.jitter is not None:
            sample = dataclasses.replace(sample, image=self.jitter(sample.image))
        return sample

    def sent(self, sample: Sample) -> Sample:
        """Return the sample as a receiver has it: the picture, at the network's size by now, was compressed."""
        if not self.webp:
            return sample
        quality = int(torch.randint(self.webp[0], self.webp[1] + 1, ()))
        picture = torch.from_numpy(compress(sample.array(), "webp", quality)[0].copy()).permute(2, 0, 1)
        return dataclasses.replace(sample, image=tv_tensors.Image(picture.contiguous()))


def _zoomed(sample: Sample, zoom: float) -> Sample:
    height, width = sample.image.shape[-2:]
    new_height, new_width = max(1, round(height / zoom)), max(1, round(width / zoom))
    top, left = (
        int(torch.randint(min(0, room), max(0, room) + 1, ())) for room in (height - new_height, width - new_width)
    )
    if zoom >= 1:
        return _changed(sample, lambda tensor, fill: F.crop(tensor, top, left, new_height, new_width), smallest=1.0)
    # top and left are minus the border that comes first
    border = [-left, -top, new_width - width + left, new_height - height + top]
    return _changed(sample, lambda tensor, fill: _pad(tensor, border, fill), smallest=0.0)


def _changed(sample: Sample, change: Callable[[tv_tensors.TVTensor, float], Any], *, smallest: float) -> Sample:
    targets: dict[str, Target | None] = {}
    for name, target in sample.targets.items():
        if target is not None:
            target = map_tensors(target, change)
            if isinstance(target, BoxTarget):
                target = _sound(target, smallest)
        targets[name] = target
    image = tv_tensors.wrap(change(sample.image, FILL), like=sample.image)
    return dataclasses.replace(sample, image=image, targets=targets)


def _sound(target: BoxTarget, smallest: float) -> BoxTarget:
    """Clip boxes to the picture; drop those without extent, with all that belongs to them."""
    height, width = target.boxes.canvas_size
    limits = torch.tensor([width, height, width, height], dtype=target.boxes.dtype)
    boxes = target.boxes.as_subclass(Tensor).clamp(min=torch.zeros(()), max=limits)
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = ((sides > 0) & (sides >= smallest)).all(1)  # comparisons with NaN are false
    return dataclasses.replace(
        target,
        boxes=tv_tensors.wrap(boxes[keep], like=target.boxes),
        labels=target.labels[keep],
        crowd=target.crowd[keep],
        masks=None if target.masks is None else tv_tensors.wrap(target.masks[keep], like=target.masks),
    )


def _fit(tensor: tv_tensors.TVTensor, geometry: Geometry, fill: float) -> Any:
    top, left, height, width = geometry.content
    if isinstance(tensor, tv_tensors.Image):
        pixels = np.ascontiguousarray(tensor.permute(1, 2, 0).numpy())
        fitted = imaging.letterbox(pixels, geometry)
        return tv_tensors.Image(torch.from_numpy(fitted.copy()).permute(2, 0, 1).contiguous())
    if isinstance(tensor, tv_tensors.Mask):
        resized = _nearest(tensor, geometry)
    elif isinstance(tensor, tv_tensors.BoundingBoxes):  # in float32: torchvision would round integers down
        resized = F.resize(tv_tensors.wrap(tensor.to(torch.float32), like=tensor), [height, width])
    else:
        resized = F.resize(tensor, [height, width], antialias=True)
    (coded_height, coded_width) = geometry.coded
    return _pad(resized, [left, top, coded_width - width - left, coded_height - height - top], fill)


def _nearest(mask: tv_tensors.Mask, geometry: Geometry) -> tv_tensors.Mask:
    """Nearest neighbour by integer arithmetic: the pixel whose middle lies nearest, the same on every machine."""
    _, _, height, width = geometry.content
    h, w = geometry.original
    rows = ((torch.arange(height) * 2 + 1) * h).div(2 * height, rounding_mode="floor")
    columns = ((torch.arange(width) * 2 + 1) * w).div(2 * width, rounding_mode="floor")
    plain = mask.as_subclass(Tensor)
    if (height, width) != (h, w):
        plain = plain.index_select(-2, rows).index_select(-1, columns)
    return tv_tensors.Mask(plain)


def _pad(tensor: tv_tensors.TVTensor, border: list[int], fill: float) -> Any:
    if isinstance(tensor, tv_tensors.Mask):  # torchvision's pad does not know bool
        left, top, right, bottom = border
        return tv_tensors.Mask(functional.pad(tensor.as_subclass(Tensor), [left, right, top, bottom], value=fill))
    return F.pad(tensor, border, fill=fill) if any(border) else tensor


def _fill(target: Target, field: dataclasses.Field[Any], value: tv_tensors.TVTensor) -> float:
    if "fill" in field.metadata:
        return float(field.metadata["fill"])
    if isinstance(value, tv_tensors.Image):
        return FILL
    return IGNORE if isinstance(target, MaskTarget) else 0
