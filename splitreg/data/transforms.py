"""Transforms of whole samples: the image and every target that moves with it.

A target is a dataclass. Its fields that are tv_tensors are transformed with the image, for any plugin's
target. The border of a mask is filled with the value in the field's metadata
(``field(metadata={"fill": 255})``), with ``IGNORE`` for ``MaskTarget``, otherwise with 0.

Sizes are (height, width). Images stay views (3, H, W) of (H, W, 3) memory, as files are decoded.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from splitreg import imaging
from splitreg.data.augmentations import NamedTransforms, border_value
from splitreg.data.image_codecs import compress
from splitreg.data.mixing import can_combine, mosaic
from splitreg.data.pasting import copy_paste
from splitreg.files import is_finite
from splitreg.imaging import FILL, Geometry, Preprocess
from splitreg.tasks import BoxTarget, PoseTarget, Sample, Target

__all__ = ["Augment", "FitInput", "map_tensors"]


def map_tensors(target: Target, change: Callable[[tv_tensors.TVTensor, float], Any]) -> Target:
    """Return the target with ``change(tensor, fill)`` in place of each of its tv_tensors.

    Args:
        target: a dataclass; anything else is returned as it is.
        change: receives the tensor, and the value for unknown pixels in its border.
    """
    changed: dict[str, Any] = {}
    dataclass: Any = target
    for field in _fields(dataclass.__class__):
        value = getattr(target, field.name)
        if isinstance(value, tv_tensors.TVTensor):
            changed[field.name] = change(value, border_value(target, field, value))
    return dataclasses.replace(dataclass, **changed) if changed else target


class FitInput:
    """Resize samples to the network's input: the pixels and the geometry of ``imaging.prepare``."""

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def geometry(self, sample: Sample) -> Geometry:
        """Return the position of the sample's image in the input."""
        height, width = sample.image.shape[-2:]
        return Geometry(original=(height, width), coded=self.preprocess.size, mode=self.preprocess.mode)

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample at the size of the input."""
        geometry = self.geometry(sample)

        def fit(tensor: tv_tensors.TVTensor, fill: float) -> Any:
            return _fit(tensor, geometry, fill)

        return _changed(sample, fit, min_side=0.0)


class Augment:
    """Random augmentation for training; every part can be turned off.

    Draws from torch's CPU generator, which ``splitreg.data.loading`` seeds for every sample.

    Args:
        flip: probability of a left-right flip; 0 if labels depend on left and right.
        scale: smallest and largest zoom. Above 1, a random crop of 1/zoom of each side; below 1, the image
            shrinks inside a grey frame. (1, 1) turns it off.
        colour: brightness, contrast and saturation change by a factor of 1 - colour to 1 + colour.
        hue: largest shift of the hue, as a share of the colour circle.
        webp: lowest and highest quality (1 to 100) of lossy WebP at the size of the input, to train a
            receiver of compressed images; () turns it off.
        transforms: further transforms of torchvision, see ``splitreg.data.augmentations.NAMES``; they come first.
        mosaic: probability that an image becomes a mosaic with three others, before everything else.
        mixup: alpha of the Beta distribution from which each batch's share of a second image is drawn; training
            applies it (Zhang et al. 2017, arXiv:1710.09412). 0 turns it off.
        copy_paste: probability that objects of another image are pasted on an image, before everything else.

    Raises:
        ValueError: an option out of range.
    """

    def __init__(
        self, *, flip: float | bool = 0.5, scale: tuple[float, float] = (0.8, 1.4), colour: float = 0.2, hue: float = 0.0,
        webp: Sequence[int] = (), transforms: Sequence[Any] = (), mosaic: float = 0.0, mixup: float = 0.0,
        copy_paste: float = 0.0,
    ) -> None:  # fmt: skip
        if not isinstance(scale, Sequence) or len(scale) != 2 or not all(map(is_finite, scale)):
            raise ValueError(f"scale is (smallest, largest), got {scale!r}")
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
        if not 0 <= mosaic <= 1 or not 0 <= mixup < float("inf"):
            raise ValueError(f"mosaic is a probability, 0 to 1, and mixup 0 or more; got {mosaic} and {mixup}")
        if not 0 <= copy_paste <= 1:
            raise ValueError(f"copy_paste is a probability, 0 to 1; got {copy_paste}")
        self.mosaic, self.mixup, self.copy_paste = mosaic, mixup, copy_paste
        self.flip, self.scale, self.webp = flip, (low, high), tuple(webp)
        self.named = NamedTransforms(transforms)
        jitter = v2.ColorJitter(brightness=colour, contrast=colour, saturation=colour, hue=hue)
        self.jitter = jitter if colour or hue else None

    def combined(self, sample: Sample, read: Callable[[], Sample]) -> Sample:
        """Return the sample, with objects of another one or as a mosaic with three others, at random.

        Args:
            sample: the sample.
            read: returns another one.
        """
        if self.copy_paste and torch.rand(()) < self.copy_paste:
            other = read()
            sample = copy_paste(sample, other) if can_combine([sample, other]) else sample
        if not self.mosaic or torch.rand(()) >= self.mosaic:
            return sample
        samples = [sample, read(), read(), read()]
        return mosaic(samples) if can_combine(samples) else sample

    def __call__(self, sample: Sample) -> Sample:
        """Return a changed sample; the size of its image may change."""
        if self.named.transforms:
            sample = _changed(self.named(sample), lambda tensor, fill: tensor, min_side=1.0)
        if torch.rand(()) < self.flip:
            sample = _mirrored(sample)
        if self.scale != (1, 1):
            low, high = np.log(self.scale)
            sample = _zoomed(sample, float(np.exp(low + (high - low) * float(torch.rand(())))))
        if self.jitter is not None:
            sample = dataclasses.replace(sample, image=self.jitter(sample.image))
        return sample

    def recompress(self, sample: Sample) -> Sample:
        """Return the sample with its image, at the size of the input, compressed and decoded again."""
        if not self.webp:
            return sample
        quality = int(torch.randint(self.webp[0], self.webp[1] + 1, ()))
        return dataclasses.replace(sample, image=_image(compress(sample.array(), "webp", quality)[0]))


def _mirrored(sample: Sample) -> Sample:
    sample = _changed(sample, lambda tensor, fill: F.horizontal_flip(tensor), min_side=0.0)
    poses = {name: t.mirrored() for name, t in sample.targets.items() if isinstance(t, PoseTarget)}
    return dataclasses.replace(sample, targets={**sample.targets, **poses}) if poses else sample


def _zoomed(sample: Sample, zoom: float) -> Sample:
    height, width = sample.image.shape[-2:]
    new_height, new_width = max(1, round(height / zoom)), max(1, round(width / zoom))
    top, left = (
        int(torch.randint(min(0, room), max(0, room) + 1, ())) for room in (height - new_height, width - new_width)
    )
    if zoom >= 1:
        return _changed(sample, lambda tensor, fill: F.crop(tensor, top, left, new_height, new_width), min_side=1.0)
    # top and left are the negative widths of the border before the image
    border = [-left, -top, new_width - width + left, new_height - height + top]
    return _changed(sample, lambda tensor, fill: _pad(tensor, border, fill), min_side=0.0)


def _changed(sample: Sample, change: Callable[[tv_tensors.TVTensor, float], Any], *, min_side: float) -> Sample:
    targets: dict[str, Target | None] = {}
    for name, target in sample.targets.items():
        if target is not None:
            target = map_tensors(target, change)
            if isinstance(target, BoxTarget | PoseTarget):
                target = _clipped(target, min_side)
        targets[name] = target
    image = tv_tensors.wrap(change(sample.image, FILL), like=sample.image)
    return dataclasses.replace(sample, image=image, targets=targets)


def _clipped(target: BoxTarget | PoseTarget, min_side: float) -> BoxTarget | PoseTarget:
    """Clip boxes to the image, and remove objects whose box has no area or a shorter side; hide points outside."""
    height, width = target.boxes.canvas_size
    boxes = target.boxes.as_subclass(Tensor).numpy()
    clipped = np.clip(boxes, 0, np.array([width, height, width, height], boxes.dtype))
    sides = clipped[:, 2:] - clipped[:, :2]
    keep = ((sides > 0) & (sides >= min_side)).all(1)  # comparisons with NaN are false
    if not np.array_equal(boxes, clipped):
        target = dataclasses.replace(target, boxes=tv_tensors.wrap(torch.from_numpy(clipped), like=target.boxes))
    if isinstance(target, PoseTarget):
        points = target.points.as_subclass(Tensor)
        inside = ((points >= 0) & (points < points.new_tensor([width, height]))).all(2)
        target = dataclasses.replace(target, visible=target.visible & inside)
    return target if keep.all() else target.select(torch.from_numpy(keep))


def _fit(tensor: tv_tensors.TVTensor, geometry: Geometry, fill: float) -> Any:
    top, left, height, width = geometry.content
    if isinstance(tensor, tv_tensors.Image):
        pixels = tensor.as_subclass(Tensor).permute(1, 2, 0).numpy()  # (H, W, 3), without a copy
        return _image(imaging.letterbox(pixels, geometry))
    if isinstance(tensor, tv_tensors.Mask):
        resized = _nearest(tensor, geometry)
    elif isinstance(tensor, tv_tensors.BoundingBoxes):  # in float32: torchvision would round integers down
        resized = F.resize(tv_tensors.wrap(tensor.to(torch.float32), like=tensor), [height, width])
    else:
        resized = F.resize(tensor, [height, width], antialias=True)
    (coded_height, coded_width) = geometry.coded
    return _pad(resized, [left, top, coded_width - width - left, coded_height - height - top], fill)


def _image(pixels: NDArray[np.uint8]) -> tv_tensors.Image:
    """Return (H, W, 3) pixels as a (3, H, W) view of the same memory."""
    writeable = pixels if pixels.flags.writeable else pixels.copy()
    return tv_tensors.Image(torch.from_numpy(writeable).permute(2, 0, 1))


def _nearest(mask: tv_tensors.Mask, geometry: Geometry) -> tv_tensors.Mask:
    """Resize by nearest neighbour in integers: the pixel with the nearest centre on every machine."""
    _, _, height, width = geometry.content
    h, w = geometry.original
    plain = mask.as_subclass(Tensor)
    if (height, width) != (h, w):
        plain = plain.index_select(-2, _nearest_index(h, height)).index_select(-1, _nearest_index(w, width))
    return tv_tensors.Mask(plain)


@functools.lru_cache(maxsize=1024)
def _nearest_index(before: int, after: int) -> Tensor:
    """Return the (after,) indexes of a side of ``before`` pixels resized to ``after``."""
    return ((torch.arange(after) * 2 + 1) * before).div(2 * after, rounding_mode="floor")


def _pad(tensor: tv_tensors.TVTensor, border: list[int], fill: float) -> Any:
    if not any(border):
        return tensor
    if isinstance(tensor, tv_tensors.Mask):  # torchvision's pad does not support bool
        left, top, right, bottom = border
        return tv_tensors.Mask(functional.pad(tensor.as_subclass(Tensor), [left, right, top, bottom], value=fill))
    return F.pad(tensor, border, fill=fill)


@functools.cache
def _fields(target: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(target) if dataclasses.is_dataclass(target) else ()
