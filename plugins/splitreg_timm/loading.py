"""Build timm models: on the meta device for their shapes, and with weights."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from splitreg.checkpoints import weights_file
from splitreg.errors import BundleError, MissingExtra, RecipeError, UnknownComponent, suggest
from splitreg_timm.renaming import to_timm_names
from splitreg_timm.stages import power_of_two


@dataclass(frozen=True, slots=True, kw_only=True)
class MetaModel:
    """A model on the meta device.

    Args:
        name: timm's name.
        model: the model in eval mode, without its classifier by default.
        options: its arguments.
        size: (H, W) of the input of the model; differs from the image size for odd patches.
        info: timm's description of its feature maps.
    """

    name: str
    model: nn.Module
    options: Mapping[str, Any]
    size: tuple[int, int]
    info: Sequence[Mapping[str, Any]]

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean per channel that the weights expect."""
        return tuple(self.model.pretrained_cfg.get("mean", (0.485, 0.456, 0.406)))  # type: ignore

    @property
    def std(self) -> tuple[float, float, float]:
        """Standard deviation per channel that the weights expect."""
        return tuple(self.model.pretrained_cfg.get("std", (0.229, 0.224, 0.225)))  # type: ignore

    @property
    def own_size(self) -> str:
        """The input size of its weights, as ``"224x224"``."""
        _, height, width = self.model.pretrained_cfg.get("input_size", (3, 224, 224))  # type: ignore
        return f"{width}x{height}"


def build_meta(name: str, image_size: tuple[int, int], drop_path_rate: float, *, classifier: bool = False) -> MetaModel:
    """Build a model on the meta device for images of this (H, W), with or without its classifier.

    Raises:
        UnknownComponent: timm has no such model.
        RecipeError: the model does not accept an option or the size.
    """
    options: dict[str, Any] = {"img_size": image_size} if classifier else {"num_classes": 0, "img_size": image_size}
    if drop_path_rate:
        options["drop_path_rate"] = drop_path_rate
    model = _on_meta(name, options)
    info = _info(model)
    size = _model_size(image_size, [facts["reduction"] for facts in info], fixed="img_size" in options)
    if size != image_size and "img_size" in options:
        options["img_size"] = size
        model = _on_meta(name, options)
    return MetaModel(name=name, model=model.eval(), options=options, size=size, info=info)


def build_weighted(meta: MetaModel, pretrained: bool | str) -> nn.Module:
    """Build the model with weights, in training mode.

    Args:
        meta: the model on the meta device.
        pretrained: True: download timm's weights; a file, or a place on the Hub such as
            ``hf:timm/resnet18.a1_in1k``: read them; False: random weights.

    Raises:
        MissingExtra: the weights cannot be downloaded, or do not exist.
        BundleError: the file does not have the weights of this model.
    """
    if pretrained is not True:
        model: nn.Module = timm.create_model(meta.name, **meta.options)
        if pretrained:
            _read(model, meta.name, weights_file(pretrained))
        return model
    try:
        model = timm.create_model(meta.name, pretrained=True, **meta.options)
    except Exception as cause:  # requests, urllib, huggingface_hub and timm each have their own
        raise MissingExtra(
            f"no pretrained weights for timm's {meta.name}: {first_line(cause)}; without a network, "
            "set a file: pretrained = 'weights.safetensors'"
        ) from cause
    return model


def _on_meta(name: str, options: dict[str, Any]) -> nn.Module:
    """Build on the meta device; removes ``img_size`` from the options if the model does not have it."""
    try:
        with torch.device("meta"), _quiet():
            model: nn.Module = timm.create_model(name, **options)
    except TypeError as cause:
        if "img_size" in options and "img_size" in str(cause):
            del options["img_size"]
            return _on_meta(name, options)
        if "drop_path_rate" in options and "drop_path_rate" in str(cause):
            raise RecipeError(f"timm's {name} has no stochastic depth; remove drop_path_rate") from cause
        raise RecipeError(f"timm's {name} cannot be built: {first_line(cause)}") from cause
    except Exception as cause:
        known = timm.list_models()
        if name.partition(".")[0] not in known:
            raise UnknownComponent(
                f"timm has no model {name!r}.{suggest(name, known)} It has {len(known)} models"
            ) from cause
        tags = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        if "." in name and name not in tags:
            raise UnknownComponent(f"timm has no weights {name!r}.{suggest(name, tags)}") from cause
        size = options.get("img_size")
        pixels = f" for {size[1]}x{size[0]} pixels" if size else ""
        raise RecipeError(f"timm's {name} cannot be built{pixels}: {first_line(cause)}") from cause
    return model


def _model_size(image_size: tuple[int, int], reductions: Sequence[int], *, fixed: bool) -> tuple[int, int]:
    """Return the (H, W) at which strides of 14 give maps of the size that strides of 16 give.

    A plain transformer ignores pixels that do not fill a patch; its input is resized to whole patches.
    """
    ratios = {power_of_two(reduction) / reduction for reduction in reductions}
    plain = fixed and len(set(reductions)) == 1
    if len(ratios) != 1 or (ratios == {1.0} and not plain):
        return image_size
    step = power_of_two(reductions[0])
    return (-(-image_size[0] // step) * reductions[0], -(-image_size[1] // step) * reductions[0])


def _info(model: nn.Module) -> list[Mapping[str, Any]]:
    info: Any = getattr(model, "feature_info", [])
    return list(getattr(info, "info", info))


def _read(model: nn.Module, name: str, path: Path) -> None:
    """Load a file like timm does: position embeddings and similar tensors are resized."""
    if not path.is_file():
        raise BundleError(f"no weights at {path}; set the path of a safetensors or PyTorch file of timm's {name}")
    missing: list[str] = []
    note = model.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
        lambda _, keys: missing.extend(keys.missing_keys)
    )
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)

    def renamed(state: Mapping[str, Any], target: nn.Module) -> Mapping[str, Any]:
        own = to_timm_names(state, target.state_dict())
        return own if convert is None else convert(own, target)

    try:
        with _quiet():
            timm.models.load_pretrained(
                model, pretrained_cfg={**model.pretrained_cfg, "file": str(path), "custom_load": False},  # type: ignore
                num_classes=model.num_classes, filter_fn=renamed, strict=False,  # type: ignore
            )  # fmt: skip
    except Exception as cause:  # not a file of tensors, or other shapes
        raise BundleError(f"{path} does not hold the weights of timm's {name}: {first_line(cause)}") from cause
    finally:
        note.remove()
    if missing:
        raise BundleError(
            f"{path} does not hold the weights of timm's {name}: {len(missing)} tensors are missing, "
            f"such as {missing[0]}"
        )


def first_line(error: BaseException) -> str:
    """Return the message of an error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:2])}" if lines else type(error).__name__


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress timm's warnings, which do not apply here."""
    logger = logging.getLogger("timm")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
