"""Layouts of other projects' checkpoints: one ``CheckpointLayout`` per project."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from torch import Tensor

from splitreg.assembly.labels import COCO_GAPS, class_names
from splitreg.tasks import CLASSIFICATION, DETECTION, SEGMENTATION

#: Prefix in the model of tensors of the backbone, which are before or after the cut.
SPLIT = "*."
#: Heads that have the two stages of torchvision's detectors.
_DETECTORS = "pose-keypointrcnn inst-maskrcnn det-fasterrcnn"

#: (value in the checkpoint, labels of the head; empty for the model itself) -> value in the model.
Convert = Callable[[Tensor, Sequence[str]], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointLayout:
    """Maps names in a checkpoint to names in the model: ``wrappers``, then ``renamed``, then ``moves``.

    Args:
        name: name of the project, for reports.
        source: description of the layout.
        wrappers: prefixes to remove, at most one of them.
        renamed: pattern -> replacement, for names of older versions.
        moves: prefix in the checkpoint -> (head plugin, several with spaces between, or "" for the model
            itself; prefix in the model). The first match is used. ``SPLIT`` is the backbone before or
            after the cut.
        derived: pattern of tensors, in both, that are computed from the others and ignored.
        converted: pattern of a name in the model -> conversion of the value.
        sizes: option of the bottleneck -> (tensor, axis) whose size it is.
        classes: head plugin -> (task, tensor, entries of its first axis that are not classes).
        options: head plugin -> options of its training, unless a recipe overrides them.
        whole: for models without a bottleneck: (plain name -> shape) -> keys of a recipe, and ``options``
            of heads as above.
    """

    name: str
    source: str
    wrappers: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    moves: Mapping[str, tuple[str, str]]
    derived: str
    converted: Mapping[str, Convert] = field(default_factory=dict)
    sizes: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, str, int]] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    whole: Callable[[Mapping[str, Sequence[int]]], dict[str, Any]] | None = None

    def plain(self, name: str) -> str:
        """Return a name in the checkpoint as in the latest version of the project, without a wrapper.

        >>> SC2BENCH.plain("backbone.body.bottleneck_layer.entropy_bottleneck._matrix0")
        'bottleneck_layer.entropy_bottleneck.matrices.0'
        """
        name = next((name.removeprefix(wrapper) for wrapper in self.wrappers if name.startswith(wrapper)), name)
        for pattern, replacement in self.renamed.items():
            name = re.sub(pattern, replacement, name)
        return name

    def target(self, plain: str, heads: Mapping[str, str]) -> str | None:
        """Return the name in the model, or None; ``heads``: plugin -> name of the model's head.

        >>> SC2BENCH.target("fc.weight", {"cls": "animals"})
        'branches.animals.head.layers.3.weight'
        """
        for prefix, (plugins, here) in self.moves.items():
            plugin = next((name for name in plugins.split() if name in heads), "")
            if plain.startswith(prefix) and (not plugins or plugin):
                return (f"branches.{heads[plugin]}.head." if plugin else "") + here + plain.removeprefix(prefix)
        return None

    def is_derived(self, name: str) -> bool:
        """Whether a tensor, in checkpoint or model, is computed from the others."""
        return re.search(self.derived, name) is not None

    def convert(self, target: str, value: Tensor, labels: Sequence[str] = ()) -> Tensor:
        """Return the value for a tensor of the model; ``labels``: class names of its head."""
        conversions = (convert for pattern, convert in self.converted.items() if re.search(pattern, target))
        convert = next(conversions, None)
        return value if convert is None else convert(value, labels)


_PEDESTAL = 2.0**-36  # of compressai's NonNegativeParametrizer
_MIN_BETA = 1e-6  # of compressai's GDN; GDN1 here adds it after squaring


def _gdn_gamma(value: Tensor, _: Sequence[str]) -> Tensor:
    """Convert gamma: compressai uses max(g, 2**-18)**2 - 2**-36, GDN1 here g**2."""
    value = value.double()
    return (value.clamp(min=_PEDESTAL**0.5) ** 2 - _PEDESTAL).clamp(min=0).sqrt()


def _gdn_beta(value: Tensor, _: Sequence[str]) -> Tensor:
    """Convert beta: compressai uses max(b, (1e-6 + 2**-36)**0.5)**2 - 2**-36, GDN1 here b**2 + 1e-6."""
    return ((value.double() ** 2).where(value > 0, 0) - _PEDESTAL - _MIN_BETA).clamp(min=0).sqrt()


def _coco_order(value: Tensor, labels: Sequence[str]) -> Tensor:
    """Reorder background and COCO's ids 1 to 90 to background, the 80 classes, and the unused ids."""
    if tuple(labels) != class_names(DETECTION, 90):
        return value
    ids = [index for index in range(91) if index not in COCO_GAPS]
    rows = value.reshape(91, -1, *value.shape[1:])  # one score or four sides per class
    return rows[[*ids, *COCO_GAPS]].reshape(value.shape)


SC2BENCH = CheckpointLayout(
    name="sc2bench",
    source="Matsubara et al. 2022, arXiv:2108.11898; 2023, arXiv:2203.08875; 2025, arXiv:2501.01420; PyPI sc2bench 0.1.1",
    wrappers=("backbone.body.", "backbone."),
    renamed=MappingProxyType({
        r"(entropy_bottleneck\.)_matrix(\d)$": r"\1matrices.\2",  # compressai before 1.2.7
        r"(entropy_bottleneck\.)_bias(\d)$": r"\1biases.\2",
        r"(entropy_bottleneck\.)_factor(\d)$": r"\1factors.\2",
        r"^(fpn\.\w+_blocks\.\d)\.(weight|bias)$": r"\1.0.\2",  # torchvision before 0.13
        r"^(rpn\.head\.conv)\.(weight|bias)$": r"\1.0.0.\2",
    }),
    moves=MappingProxyType({
        # The encoder here starts with a padding layer.
        **{f"bottleneck_layer.encoder.{i}.": ("", f"bottleneck.encoder.{i + 1}.") for i in range(5)},
        "bottleneck_layer.decoder.": ("", "bottleneck.decoder."),
        "bottleneck_layer.entropy_bottleneck.": ("", "bottleneck.prior."),
        **{f"layer{i}.": ("", f"body.net.layer{i}.") for i in (2, 3, 4)},
        "fc.": ("cls", "layers.3."),
        "fpn.": ("det-fasterrcnn", "pyramid."),
        "rpn.": ("det-fasterrcnn", "rpn."),
        "roi_heads.": ("det-fasterrcnn", "regions."),
        "classifier.": ("seg-deeplabv3", "classify."),
        "aux_classifier.": ("seg-deeplabv3", "assist."),
    }),
    # Constants, integer tables (frozen again here) and counters of batch normalisation.
    derived=r"(^|\.)(_offset|_quantized_cdf|_cdf_length|target|bound|pedestal|num_batches_tracked)$",
    converted=MappingProxyType({
        r"^bottleneck\..*\.gamma$": _gdn_gamma,
        r"^bottleneck\..*\.beta$": _gdn_beta,
        r"\.regions\.box_predictor\.": _coco_order,
    }),
    sizes=MappingProxyType({
        "channels": ("bottleneck_layer.encoder.4.weight", 0),
        "hidden": ("bottleneck_layer.encoder.0.weight", 0),
        "decoder_hidden": ("bottleneck_layer.decoder.0.weight", 0),
    }),
    classes=MappingProxyType({
        "cls": (CLASSIFICATION, "fc.weight", 0),
        "det-fasterrcnn": (DETECTION, "roi_heads.box_predictor.cls_score.weight", 1),  # the first is the background
        "seg-deeplabv3": (SEGMENTATION, "classifier.4.weight", 0),
    }),
    # torchvision's anchors, and its rule that a region of 112 pixels is read at stride 8, a smaller one at 4.
    options=MappingProxyType({"det-fasterrcnn": {"anchor_scale": 8.0, "region_scale": 112 / 32**0.5}}),
)  # fmt: skip


def _recipe_of_torchvision(names: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Return backbone, cut, input and options of heads of a model of torchvision, from its plain names and shapes."""
    frozen = "layer1.0.bn1.weight" in names and "layer1.0.bn1.num_batches_tracked" not in names
    segmenter, detector = "classifier.4.weight" in names, "rpn.head.cls_logits.weight" in names
    backbone: dict[str, Any] = {"name": _torchvision_backbone(names)}
    backbone |= ({"dilated": True} if segmenter else {}) | ({"frozen_norm": True} if frozen else {})
    size = [800, 800] if detector else [520, 520] if segmenter else [224, 224]
    version = "_v2" if "rpn.head.conv.1.0.weight" in names else ""
    likes = {
        "det-fasterrcnn": f"fasterrcnn_resnet50_fpn{version}", "inst-maskrcnn": f"maskrcnn_resnet50_fpn{version}",
        "pose-keypointrcnn": "keypointrcnn_resnet50_fpn",
    }  # fmt: skip
    known = {"backbone": backbone, "cut": "layer1" if "layer1" in " ".join(names) else "3"} if backbone["name"] else {}
    return {
        **known, "bottleneck": "raw",
        "input": {"size": size, "mode": "letterbox"},
        "options": {head: {"like": like} for head, like in likes.items()} | {"seg-deeplabv3": {"auxiliary": 0.0}},
    }  # fmt: skip


#: (blocks of layer3, whether a block has three convolutions, width of the first) -> ResNet.
_RESNETS = {
    (2, False, 64): "resnet18", (6, False, 64): "resnet34", (6, True, 64): "resnet50", (23, True, 64): "resnet101",
    (36, True, 64): "resnet152", (6, True, 128): "resnext50_32x4d", (23, True, 256): "resnext101_32x8d",
}  # fmt: skip


def _torchvision_backbone(names: Mapping[str, Sequence[int]]) -> str:
    """Return the name of the backbone with these tensors; empty if none is known."""
    if "16.0.weight" in names:
        return "tv_mobilenet_v3_large"
    if "12.0.weight" in names:
        return "tv_mobilenet_v3_small"
    blocks = len({name.split(".")[1] for name in names if name.startswith("layer3.")})
    key = (blocks, "layer1.0.conv3.weight" in names, int(names.get("layer1.0.conv1.weight", (0,))[0]))
    shape = names.get("layer1.0.conv2.weight", (0, 0))
    if key == (6, True, 128) and shape[1] == 128:
        return "tv_wide_resnet50_2"
    return f"tv_{_RESNETS[key]}" if key in _RESNETS else ""


TORCHVISION = CheckpointLayout(
    name="torchvision",
    source="torchvision's detectors, segmenters and ResNets; github.com/pytorch/vision",
    wrappers=("backbone.body.", "backbone.", "features."),
    renamed=MappingProxyType({
        r"^(fpn\.\w+_blocks\.\d)\.(weight|bias)$": r"\1.0.\2",  # torchvision before 0.13
        r"^(rpn\.head\.conv)\.(weight|bias)$": r"\1.0.0.\2",
        **{rf"^(roi_heads\.mask_head)\.mask_fcn{i + 1}\.(weight|bias)$": rf"\1.{i}.0.\2" for i in range(4)},
    }),
    moves=MappingProxyType({
        **{f"{name}.": ("", f"{SPLIT}net.{name}.") for name in ("conv1", "bn1", *(f"layer{i}" for i in range(1, 5)))},
        **{f"{i}.": ("", f"{SPLIT}net.{i}.") for i in range(17)},  # MobileNet
        "fc.": ("cls", "layers.3."),
        "fpn.": (_DETECTORS, "pyramid."),
        "rpn.": (_DETECTORS, "rpn."),
        "roi_heads.": (_DETECTORS, "regions."),
        "classifier.": ("seg-deeplabv3", "classify."),
        "aux_classifier.": ("seg-deeplabv3", "assist."),
    }),
    derived=r"(^|\.)num_batches_tracked$",
    converted=MappingProxyType({r"\.regions\.box_predictor\.": _coco_order, r"\.mask_fcn_logits\.": _coco_order}),
    classes=MappingProxyType({
        "cls": (CLASSIFICATION, "fc.weight", 0),
        "pose-keypointrcnn": ("pose", "roi_heads.keypoint_predictor.kps_score_lowres.weight", 0),
        "inst-maskrcnn": (DETECTION, "roi_heads.mask_predictor.mask_fcn_logits.weight", 1),
        "det-fasterrcnn": (DETECTION, "roi_heads.box_predictor.cls_score.weight", 1),
        "seg-deeplabv3": (SEGMENTATION, "classifier.4.weight", 0),
    }),
    whole=_recipe_of_torchvision,
)  # fmt: skip

#: All layouts.
LAYOUTS: tuple[CheckpointLayout, ...] = (SC2BENCH, TORCHVISION)
