"""Parts of torchvision's checkpoints: the backbone and the heads, under the names of the latest torchvision."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from splitreg.checkpoints import read_checkpoint
from splitreg.errors import BundleError, CheckpointError

#: Names before torchvision 0.13 -> names since.
_RENAMED: Mapping[str, str] = {
    r"^(backbone\.fpn\.\w+_blocks\.\d)\.(weight|bias)$": r"\1.0.\2",
    r"^(rpn\.head\.conv)\.(weight|bias)$": r"\1.0.0.\2",
}
#: Part -> prefix in the checkpoint -> prefix in the module.
_PARTS: Mapping[str, Mapping[str, str]] = {
    "detector": {"backbone.fpn.": "pyramid.", "rpn.": "rpn.", "roi_heads.": "regions."},
    "segmenter": {"classifier.": "classify.", "aux_classifier.": "assist."},
}
#: A tensor per class, of which the first is the background.
_PER_CLASS = re.compile(r"regions\.(box_predictor\.(cls_score|bbox_pred)|mask_predictor\.mask_fcn_logits)\.")


def read_part(place: str, part: str) -> dict[str, Tensor]:
    """Return the tensors of a part of a checkpoint.

    Args:
        place: as for ``splitreg.checkpoints.read_checkpoint``.
        part: ``"backbone"``, ``"detector"`` or ``"segmenter"``.

    Raises:
        BundleError: the checkpoint cannot be read, or does not have the part.
    """
    try:
        state = {_latest(name): value for name, value in read_checkpoint(place).items()}
    except CheckpointError as cause:
        raise BundleError(str(cause)) from cause
    if part == "backbone":
        tensors = _backbone(state)
    else:
        moves = _PARTS[part].items()
        tensors = {
            here + name.removeprefix(there): value
            for name, value in state.items()
            for there, here in moves
            if name.startswith(there)
        }
    if not tensors:
        raise BundleError(f"{place} has no {part} of torchvision; it has {', '.join(list(state)[:3])} and more")
    return tensors


def _backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    for prefix in ("backbone.body.", "backbone.", "features.", ""):
        own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        if own:
            return {name: value for name, value in own.items() if not name.startswith(("fc.", "classifier.", "fpn."))}
    return {}


def _latest(name: str) -> str:
    name = re.sub(
        r"^(roi_heads\.mask_head)\.mask_fcn(\d)\.(weight|bias)$", lambda m: f"{m[1]}.{int(m[2]) - 1}.0.{m[3]}", name
    )
    for pattern, replacement in _RENAMED.items():
        name = re.sub(pattern, replacement, name)
    return name


def copy_into(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Copy tensors into all parameters and buffers of a module; counters of batch normalisation may be missing.

    Raises:
        BundleError: a tensor is missing, or has another shape.
    """
    state = module.state_dict(keep_vars=True)
    missing = [name for name in state if name not in tensors and not name.endswith("num_batches_tracked")]
    if missing:
        raise BundleError(f"{what}: {len(missing)} tensors are missing, such as {missing[0]}")
    wrong = [name for name in state if name in tensors and tensors[name].shape != state[name].shape]
    if wrong:
        shapes = f"{tuple(tensors[wrong[0]].shape)}, expected {tuple(state[wrong[0]].shape)}"
        raise BundleError(f"{what}: {len(wrong)} tensors have another shape, such as {wrong[0]}: {shapes}")
    with torch.no_grad():
        for name, value in state.items():
            if name in tensors:
                value.copy_(tensors[name])


def class_order(tensors: Mapping[str, Tensor], labels: Sequence[str]) -> dict[str, Tensor]:
    """Reorder the tensors per class to background and these labels, by the names of COCO's 90 ids.

    A checkpoint with as many classes as labels, but other names, keeps its order.
    """
    categories = list(FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"])
    rows = next((len(value) for name, value in tensors.items() if name.endswith("cls_score.bias")), 0)
    ids = [_coco_id(label, categories) for label in labels]
    if rows != len(categories) or None in ids:
        return dict(tensors)
    order = [0, *(index for index in ids if index is not None)]

    def ordered(name: str, value: Tensor) -> Tensor:
        if _PER_CLASS.search(name) is None:
            return value
        return value.reshape(rows, -1, *value.shape[1:])[order].reshape(-1, *value.shape[1:])

    return {name: ordered(name, value) for name, value in tensors.items()}


def _coco_id(label: str, categories: Sequence[str]) -> int | None:
    unused = re.fullmatch(r"no class (\d+)", label)
    return int(unused[1]) if unused else (categories.index(label) if label in categories else None)
